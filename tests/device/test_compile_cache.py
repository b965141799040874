"""Graphs that were kept are taken again by the same program with the same recipe alone, and whole or not at all."""

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mindcv_lite.device import compile_cache
from mindcv_lite.device.compile_cache import KEPT, KeptGraphs, code_files, key_of
from mindcv_lite.recipe.keys import KEYS, NOT_IN_GRAPH
from tests.conftest import ROOT, SMALLEST
from tests.programs import run

NAMES = ("TrainStep", "EvalCopy", "EvaluationStep")


def compile_as_mindspore(graphs: KeptGraphs, name: str, content: bytes) -> bytes | None:
    """Take the kept graph, or else write a new one; what was taken."""
    assert graphs.takes(name)
    index = len(graphs.done)
    path = graphs.working / f"rank_0/graph_cache/compile_cache_{index}.mindir"
    taken = path.read_bytes() if path.exists() else None
    if taken is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    graphs.add(name)
    return taken


def start(folder: Path, key: str = "k", content: bytes = b"graph") -> list[bytes | None]:
    """Start a program that compiles all graphs; what it took."""
    graphs = KeptGraphs(folder, 0, key)
    taken = [compile_as_mindspore(graphs, name, content + name.encode()) for name in NAMES]
    graphs.process.cleanup()
    return taken


# ---------------------------------------------------------------------------------------------------------- the key


def test_each_key_of_a_recipe_makes_another_key_unless_it_is_harmless(recipe):
    given = recipe()
    assert KEYS.keys() >= NOT_IN_GRAPH
    for name in KEYS:
        same = key_of(given.with_keys(**{name: "another"}), {}) == key_of(given, {})
        assert same == (name in NOT_IN_GRAPH), name


def test_versions_ranks_and_variables_make_another_key_but_not_the_port_of_the_launcher(recipe):
    given = recipe()
    keys = {
        key_of(given, facts, environment)
        for facts in ({}, {"mindspore": "2.7.0"}, {"mindspore": "2.10.0"}, {"mindspore": "2.10.0", "rank": 1})
        for environment in ({}, {"MS_DEV_X": "1"})
    }
    assert len(keys) == 8
    assert key_of(given, {}, {"MS_SCHED_PORT": "8118", "HOME": "/"}) == key_of(given, {}, {"MS_SCHED_PORT": "8119"})


def test_another_line_of_code_makes_another_key(recipe, tmp_path, monkeypatch):
    assert {ROOT / "mindcv_lite/models/mobilenetv3.py", ROOT / "mindcv_lite/training/train_step.py"} <= {*code_files()}
    script = tmp_path / "train.py"
    monkeypatch.setattr(sys, "argv", [str(script)])
    keys = set()
    for line in ("one", "another"):
        script.write_text(line)
        keys.add(key_of(recipe(), {}))
    assert len(keys) == 2


# ------------------------------------------------------------------------------------------------------- the files


def test_what_one_process_keeps_the_next_one_takes_in_its_order(tmp_path):
    assert start(tmp_path) == [None, None, None]
    assert start(tmp_path, content=b"new") == [b"graphTrainStep", b"graphEvalCopy", b"graphEvaluationStep"]
    assert start(tmp_path, "another key") == [None, None, None]
    assert sorted(os.listdir(tmp_path)) == ["rank0-another key.graphs", "rank0-k.graphs"]


def test_what_a_process_kept_before_it_was_killed_is_taken_and_the_rest_is_added(tmp_path):
    killed = KeptGraphs(tmp_path, 0, "k")
    compile_as_mindspore(killed, "TrainStep", b"graph")
    assert killed.takes("EvalCopy")  # and here it is killed
    assert start(tmp_path) == [b"graph", None, None]
    assert start(tmp_path) == [b"graph", b"graphEvalCopy", b"graphEvaluationStep"]


def test_a_graph_in_another_order_is_neither_taken_nor_kept(tmp_path):
    start(tmp_path)
    before = (tmp_path / "rank0-k.graphs").read_bytes()
    graphs = KeptGraphs(tmp_path, 0, "k")
    assert not graphs.takes("EvaluationStep")
    assert not graphs.takes("TrainStep")
    assert (tmp_path / "rank0-k.graphs").read_bytes() == before


def test_a_graph_is_taken_once_in_a_process(tmp_path):
    graphs = KeptGraphs(tmp_path, 0, "k")
    compile_as_mindspore(graphs, "TrainStep", b"graph")
    assert not graphs.takes("TrainStep")
    assert graphs.takes("EvalCopy")


@pytest.mark.parametrize("position", [0, 31, 32, 40, 200, -40, -1])
def test_a_damaged_file_is_told_and_made_anew(tmp_path, log, position):
    start(tmp_path)
    path = tmp_path / "rank0-k.graphs"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    for damaged in (content, content[:position], b""):
        path.write_bytes(damaged)
        log.clear()
        assert start(tmp_path) == [None, None, None]
        assert f"{path} is damaged: it is made anew" in log.text
        assert None not in start(tmp_path)


def test_graphs_that_mindspore_refuses_go_so_that_the_next_start_keeps_new_ones(tmp_path):
    start(tmp_path)
    graphs = KeptGraphs(tmp_path, 0, "k")
    assert graphs.takes("TrainStep")
    (graphs.working / "rank_0/graph_cache/compile_cache_0.mindir").write_bytes(b"another")
    graphs.add("TrainStep")
    assert not graphs.takes("EvalCopy")
    assert start(tmp_path) == [None, None, None]


def test_nothing_is_taken_or_kept_after_a_graph_that_was_not_written(tmp_path):
    graphs = KeptGraphs(tmp_path, 0, "k")
    assert graphs.takes("TrainStep")
    graphs.add("TrainStep")
    assert not graphs.takes("EvalCopy")
    assert not graphs.file.exists()


def test_what_other_ranks_do_not_have_is_forgotten(tmp_path):
    start(tmp_path)
    graphs = KeptGraphs(tmp_path, 0, "k")
    graphs.forget()
    assert compile_as_mindspore(graphs, "TrainStep", b"new") is None
    assert start(tmp_path) == [b"new", None, None]


def test_two_processes_at_once_leave_a_whole_file(tmp_path):
    one, other = KeptGraphs(tmp_path, 0, "k"), KeptGraphs(tmp_path, 0, "k")
    assert one.working != other.working
    for name in NAMES:
        for graphs in (one, other):
            assert compile_as_mindspore(graphs, name, b"graph") is None
    assert start(tmp_path) == [b"graph"] * 3


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    living, killed = KeptGraphs(tmp_path, 0, "k"), KeptGraphs(tmp_path, 1, "k")
    fcntl.flock(killed.lock, fcntl.LOCK_UN)
    KeptGraphs(tmp_path, 2, "k").process.cleanup()
    assert os.listdir(tmp_path) == [Path(living.process.name).name]


def test_a_folder_holds_so_many_files_of_a_rank_those_used_last(tmp_path):
    start(tmp_path, "used again")
    for number in range(KEPT):
        path = tmp_path / f"rank0-{number}.graphs"
        path.write_bytes(b"")
        os.utime(path, (number, number))
    (tmp_path / "rank1-k.graphs").write_bytes(b"")
    start(tmp_path, "used again")
    start(tmp_path, "new")
    names = {f"rank0-{name}.graphs" for name in ("used again", "new", *range(2, KEPT))}
    assert {*os.listdir(tmp_path)} == names | {"rank1-k.graphs"}


def test_a_full_disk_ends_the_keeping_with_a_line(tmp_path, log, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compile_cache.os, "replace", full)
    graphs = KeptGraphs(tmp_path, 0, "k")
    compile_as_mindspore(graphs, "TrainStep", b"graph")
    assert "No space left on device" in log.text
    assert "no more graphs are kept" in log.text
    assert not graphs.takes("EvalCopy")


def test_a_path_where_nothing_can_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="directory"):
        KeptGraphs(tmp_path / "file/graphs", 0, "k")


# ---------------------------------------------------------------------------------------------------- whole programs

STEPS = f"""
import hashlib, sys; sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindcv_lite import program
from mindcv_lite.device.context import keep_graphs, start_device
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.train_step import TrainStep

class Factor:
    value = Parameter(Tensor(1.0), name="factor")

class Layer(nn.Cell):
    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(12, 5, Tensor(np.linspace(-1, 1, 60).reshape(5, 12).astype(np.float32)))

    def construct(self, x, seed):
        return self.dense(x.reshape(x.shape[0], -1) * 1.0)

program._owner.append("steps.py")  # whose log it is
recipe = load_recipe(sys.argv[1:], "")
world, network = keep_graphs(start_device(recipe), recipe), Layer()
factor = Factor().value
rate = RateTable(lambda step: recipe.optimizer.lr / (step + 1), 9)
optimizer = build_optimizer(network.trainable_params(), recipe, rate, "CPU")
step, random = TrainStep(network, optimizer, recipe, world, 100), np.random.default_rng(0)
step.set_train()
bits = hashlib.sha256()
for _ in range(4):
    images, labels = random.integers(0, 256, (8, 2, 2, 3), np.uint8), random.integers(0, 5, 8).astype(np.int32)
    with world.compiling(step):
        bits.update(step(Tensor(images), Tensor(labels), Tensor(np.ones(8, np.float32))).asnumpy().tobytes())
for parameter in step.get_parameters():
    bits.update(parameter.asnumpy().tobytes())
print("bits", bits.hexdigest())
"""


@pytest.fixture
def bits_of(tmp_path) -> Callable[..., tuple[str, str]]:
    """Run STEPS, with what is changed in it; the bits of what it computed, and its log."""

    def bits_of(*flags: str, changed: tuple[str, str] = ("", "")) -> tuple[str, str]:
        script = tmp_path / "steps.py"
        script.write_text(STEPS.replace(*changed))
        keys = SMALLEST | {"num_classes": 5, "loss_scale": 1000.0, "compile_cache": "graphs"}
        log = run(sys.executable, script, *(f"--{name}={value}" for name, value in keys.items()), *flags, cwd=tmp_path)
        return log.split("bits ")[1].strip(), log

    return bits_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "changed"),
    [((), ("", "")), (("--lr=0.5",), ("", "")), ((), ("* 1.0)", "* 1.5)"))],
    ids=["as it was", "another rate", "another network"],
)
def test_steps_have_the_same_bits_with_and_without_kept_graphs(bits_of, flags, changed):
    bits_of()  # and keep its graph, which is no other's
    alone = bits_of(*flags, "--compile_cache=off", changed=changed)[0]
    for known in (0 if changed[0] else 1, 1):
        bits, log = bits_of(*flags, changed=changed)
        assert f"{known} graphs of an earlier start" in log
        assert bits == alone


@pytest.mark.slow
def test_a_graph_with_a_parameter_that_its_cell_does_not_list_is_not_kept(bits_of):
    foreign = ("* 1.0)", "* factor)")
    for _ in range(2):
        log = bits_of(changed=foreign)[1]
        assert "0 graphs of an earlier start" in log
        assert "TrainStep is not kept: it computes with 'factor', which is no parameter of the cell" in log
