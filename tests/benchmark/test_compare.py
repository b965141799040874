"""Ours beside other projects': turns, what is left out, and the time of a whole program."""

import logging
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from mindcv_lite.benchmark import compare as compared
from mindcv_lite.benchmark.pytorch import TrainingStep
from mindcv_lite.benchmark.rounds import OF_A_BATCH, OF_ONE, STEP, NoNetwork, Plan
from mindcv_lite.errors import TrainingError
from mindcv_lite.program import is_installed


@pytest.fixture
def turns(monkeypatch) -> list[str]:
    """Whose turn it was; a second for each image by theirs, half a second by ours."""
    names = []

    @contextmanager
    def in_processes(function, arguments, doing, or_threads):
        ((name, _, _),) = arguments
        names.append(name)
        if name == "MindCV":
            raise NoNetwork("MindCV has no mobilenet_v3_small_100")
        measured = {"seconds": 5.0 if name == "mindcv_lite" else 10.0, "images": 10}
        yield [SimpleNamespace(result=lambda: {STEP: dict(measured)})]

    monkeypatch.setattr(compared, "in_processes", in_processes)
    return names


def test_those_that_are_installed_are_measured_in_turn_and_beside_ours(turns, monkeypatch, recipe, log):
    monkeypatch.setattr(compared, "is_installed", lambda name: name != "timm")
    results = compared.compare(recipe(num_classes=2), Plan(3, 1, None))
    assert turns == [
        "mindcv_lite",
        "onnxruntime",
        "MindCV",
        *("onnxruntime", "mindcv_lite"),
        "mindcv_lite",
        "onnxruntime",
    ]
    assert list(results) == [STEP]
    assert [each["times_ours"] for each in results[STEP]["onnxruntime"]] == [2, 2, 2]
    assert "PyTorch channels_last is left out, because timm is not installed" in log.text
    assert "MindCV is left out: MindCV has no mobilenet_v3_small_100" in log.text


@pytest.fixture(autouse=True)
def log_stays(monkeypatch) -> None:
    """A process of its own silences its log; here it is the tests' process."""
    monkeypatch.setattr(logging, "disable", lambda level: None)


def rounds_of(name: str, recipe) -> dict[str, dict[str, float]]:
    if missing := next(each.missing for each in compared.CONTESTANTS if each.name == name):
        pytest.skip(f"{missing} is not installed")
    return compared.rounds_here((name, recipe(num_classes=2), Plan(1, 1, 2)))


@pytest.mark.usefixtures("pynative_mode")
def test_onnxruntime_computes_the_exported_network(recipe):
    measured = rounds_of("onnxruntime", recipe)
    assert {subject: each["images"] for subject, each in measured.items()} == {OF_A_BATCH: 8, OF_ONE: 2}


@pytest.mark.parametrize("name", ["PyTorch", "PyTorch channels_last"])
def test_pytorch_trains_and_infers_by_timms_network(recipe, name):
    measured = rounds_of(name, recipe)
    assert [(subject, each["images"]) for subject, each in measured.items()] == [
        (STEP, 8),
        (OF_A_BATCH, 8),
        (OF_ONE, 2),
    ]


@pytest.mark.skipif(not is_installed("timm"), reason="timm is not installed")
def test_a_network_that_timm_does_not_have_is_named(recipe):
    with pytest.raises(NoNetwork, match="timm has no mobilenetv3_small_125"):
        rounds_of("PyTorch", lambda **keys: recipe(**keys, model="mobilenet_v3_small_125"))


def pytorch_step(recipe, lr: float = 0.01, **keys: object) -> TrainingStep:
    keys = {"model": "mobilenet_v3_small_100", "num_classes": 2, "weight_decay": 0.0} | keys
    return TrainingStep(recipe(**keys), channels_last=False, lr=lr)


needs_timm = pytest.mark.skipif(
    not (is_installed("timm") and is_installed("torch")), reason="torch or timm is not installed"
)


@needs_timm
def test_pytorch_trains_each_layer_at_its_rate(recipe):
    groups = pytorch_step(recipe, opt="adamw", layer_decay=0.5).optimizer.param_groups
    rates = {group["lr"] for group in groups}
    assert max(rates) == 0.01
    assert 0 < min(rates) < 0.01 / 100


@needs_timm
@pytest.mark.parametrize("opt", ["sgd", "momentum"])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
def test_pytorch_has_nesterovs_momentum_where_the_recipe_has(recipe, opt, momentum, nesterov):
    step = pytorch_step(recipe, opt=opt, momentum=momentum, use_nesterov=nesterov)
    assert [(group["momentum"], group["nesterov"]) for group in step.optimizer.param_groups] == [(momentum, nesterov)]


@needs_timm
def test_pytorchs_average_follows_the_weights_from_the_first_updates_on(recipe):
    import torch

    step = pytorch_step(recipe, opt="adamw", ema=True)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    weights, averages = (list(network.parameters()) for network in (step.network, step.scored))
    before = [each.detach().clone() for each in weights]
    for _ in range(3):
        step(images, labels)

    def distance(ends: list) -> float:
        return sum(float((a - b.detach()).abs().sum()) for a, b in zip(before, ends, strict=True))

    assert distance(averages) > distance(weights) / 4


def test_a_program_is_timed_with_its_memory_and_its_failure_is_told():
    measured = compared.timed_program("json.tool", "--help")
    assert 0 < measured["program_seconds"] < 60
    assert 1 < measured["peak_memory_mb"] < 100
    with pytest.raises(TrainingError, match=f"no_such_module: {sys.executable}: No module named no_such_module"):
        compared.timed_program("no_such_module")
