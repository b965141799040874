"""What the doctor makes of trainings: of those that go well, and of those that do not."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mindspore import amp

from mindcv_lite.device.ranks import World
from mindcv_lite.doctor import trainings
from mindcv_lite.doctor.examination import Answer, Heard
from mindcv_lite.doctor.findings import Failed, NotRun
from mindcv_lite.doctor.images import write_images
from mindcv_lite.doctor.recipes import Bench, recipe_of
from mindcv_lite.doctor.trainings import (
    Trainings,
    damage_after_first_epoch,
    damaged_image,
    require_average,
    require_skipped,
)
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.evaluation.score import Score
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.results import RESULTS, EpochResult


@pytest.fixture
def bench(tmp_path, world) -> Bench:
    return Bench(world(recipe_of(device_target="CPU")), tmp_path, distribute=False)


@pytest.fixture
def npu(bench) -> Bench:
    """As it would be with an NPU."""
    return replace(
        bench, world=replace(bench.world, settings=replace(bench.world.settings, target="Ascend", sink=True))
    )


def results(*losses: float) -> list[EpochResult]:
    return [
        EpochResult(epoch, 6 * epoch, loss, 10 / 29, 1.0, 1.1, 0.02, 100.0, None, 1.0)
        for epoch, loss in enumerate(losses, 1)
    ]


def a_run(*losses: float, weights: float = 0.5, folder: Path = Path()) -> SimpleNamespace:
    record = SimpleNamespace(
        recipe=recipe_of(device_target="CPU"), step=SimpleNamespace(step=SimpleNamespace(asnumpy=lambda: np.int32(18)))
    )
    values = {"weight": np.full(3, weights, np.float32)}
    return SimpleNamespace(folder=folder, results=results(*losses), losses=list(losses), weights=values, record=record)


def in_turn(monkeypatch: pytest.MonkeyPatch, *runs: SimpleNamespace) -> list[Recipe]:
    """Let these runs come of the next trainings; their recipes."""
    coming, recipes = iter(runs), []
    monkeypatch.setattr(trainings, "train", lambda recipe: (recipes.append(recipe), next(coming))[1])
    return recipes


def test_a_cpu_does_not_sink(bench):
    with pytest.raises(NotRun, match="no NPU: a CPU is fed batch by batch"):
        Trainings(bench).sinking("O2")


def test_an_npu_trains_sinking_at_o2_then_o1_then_batch_by_batch_to_the_same_losses(npu, monkeypatch):
    recipes = in_turn(monkeypatch, a_run(1.1, 1.0), a_run(1.1, 1.01), a_run(1.1, 0.99))
    ways = Trainings(npu)
    assert ways.sinking("O2")[0] == "losses 1.1000 1.0000"
    assert ways.sinking("O1")[0] == "losses 1.1000 1.0100, 1.00% from those of the first way (at most 2%)"
    ways.fed()
    asked = [(recipe.system.jit_level, recipe.system.dataset_sink_mode) for recipe in recipes]
    assert asked == [("O2", True), ("O1", True), ("O1", False)]


@pytest.mark.parametrize("other", [(1.1, 1.05), (1.15, 1.0), (1.2, 1.1)])
def test_another_way_with_other_losses_is_told(npu, monkeypatch, other):
    in_turn(monkeypatch, a_run(1.1, 1.0), a_run(*other))
    ways = Trainings(npu)
    ways.sinking("O2")
    with pytest.raises(Failed, match="from those of the first way"):
        ways.fed()


@pytest.mark.parametrize("losses", [(1.0, 1.0), (1.0, 1.2), (1.0, math.nan)])
def test_a_loss_that_does_not_fall_is_told(bench, monkeypatch, losses):
    in_turn(monkeypatch, a_run(*losses))
    with pytest.raises(Failed, match="the loss did not fall"):
        Trainings(bench).fed()


def test_ranks_with_different_weights_are_told(bench, monkeypatch):
    class Ranks(World):
        def gather(self, numbers):
            return np.stack([numbers, numbers + (numbers > 0)])

    in_turn(monkeypatch, a_run(1.1, 1.0))
    with pytest.raises(Failed, match="the ranks have different weights after training"):
        Trainings(replace(bench, world=Ranks(**vars(bench.world)))).fed()


@pytest.fixture
def on_two_ranks(npu) -> Callable[..., list[list[str]]]:
    """What tasks give each of two ranks, a thread each with the rank as its name: the texts of answers and errors. A
    rank that waits for the other in vain gets an error."""

    def run(*tasks: Callable[[Bench], Answer]) -> list[list[str]]:
        barrier, given = threading.Barrier(2, timeout=5), {}
        texts: list[list[str]] = [[], []]

        class Ranks(World):
            def sum(self, numbers):
                barrier.wait()
                given[self.rank] = numbers
                barrier.wait()
                return given[0] + given[1]

        def work(rank: int) -> None:
            world = Ranks(**vars(replace(npu.world, rank=rank, size=2)))
            bench = replace(npu, world=world)
            for task in tasks:
                try:
                    texts[rank].append(task(bench)[0])
                except Exception as error:
                    texts[rank].append(f"{type(error).__name__}: {error}")

        threads = [threading.Thread(target=work, args=[rank], name=str(rank)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return texts

    return run


def test_no_rank_waits_for_another_after_a_loss_that_did_not_fall(on_two_ranks, monkeypatch):
    runs = {"0": a_run(1.0, 1.2), "1": a_run()}
    monkeypatch.setattr(trainings, "train", lambda recipe: runs[threading.current_thread().name])
    ways = {}

    def first(bench):
        ways[bench.world.rank] = Trainings(bench)
        return ways[bench.world.rank].fed()

    texts = on_two_ranks(first, lambda bench: ways[bench.world.rank].validated())
    assert texts[0][0].startswith("Failed: losses 1.0000 1.2000: the loss did not fall")
    assert texts[1][0] == "losses "
    assert texts[0][1] == texts[1][1] == "NotRun: no training came to its end"


def test_a_checkpoint_that_one_rank_alone_sees_is_validated_by_none(on_two_ranks, monkeypatch, tmp_path):
    (tmp_path / "mobilenet_v3_small_100-3_18.ckpt").touch()

    def validated(bench):
        ways = Trainings(bench)
        folder = tmp_path if bench.world.rank == 0 else tmp_path / "other machine"
        ways.first = a_run(1.1, 1.0, folder=folder)  # type: ignore[assignment]
        return ways.validated()

    for text in on_two_ranks(validated):
        assert text[0].startswith("NotRun: the ranks have no folder in common")


def test_of_two_ranks_the_first_damages_an_image_once_and_either_may_name_it(on_two_ranks, npu, monkeypatch):
    write_images(npu.images("error"), train=6, val=0, size=(16, 16))
    victim = max(npu.images("error").glob("train/*/*.jpg"))
    size = victim.stat().st_size

    def train(recipe):
        folder = Path(recipe.output.ckpt_save_dir)
        folder.mkdir(exist_ok=True)
        (folder / RESULTS).touch()
        while victim.stat().st_size == size:
            time.sleep(0.01)
        if threading.current_thread().name == "1":
            raise UserError(f"{victim}: this image cannot be decoded")
        raise TrainingError("another rank cannot go on, see its log")

    monkeypatch.setattr(trainings, "train", train)
    first, second = on_two_ranks(lambda bench: damaged_image(bench, Heard(), "error"))
    assert victim.stat().st_size == size // 2
    assert first[0].startswith("named by another rank; the run ended after 0.")
    assert second == ["rank 0 did the damage"]


def test_several_ranks_that_do_not_sink_are_given_no_image_that_stops_one_of_them(bench):
    with pytest.raises(NotRun, match="start doctor without msrun"):
        damaged_image(replace(bench, world=replace(bench.world, size=2)), Heard(), "error")


@pytest.mark.parametrize(
    ("average", "saved", "before", "told"),
    [
        (2.0, 2.0, 1.0, None),
        (2.0, 3.0, 1.0, "what is saved is not the average of the weights: 'weight' differs"),
        (3.0, 3.0, 1.0, "the average of the weights is the last weights themselves"),
        (1.0, 1.0, 1.0, "the average of the weights did not move in the last epoch"),
    ],
)
def test_an_average_must_move_and_be_what_is_saved(bench, monkeypatch, average, saved, before, told):
    def parameter(value: float) -> SimpleNamespace:
        return SimpleNamespace(name="ema.weight", asnumpy=lambda: np.full(3, value, np.float32))

    run: Any = a_run(1.1, 1.0, weights=3.0)
    run.record.step.average = SimpleNamespace(of=lambda: {"weight": parameter(average)})
    run.record.eval_copy = SimpleNamespace(parameters={"weight": parameter(saved)})
    state = SimpleNamespace(numbers={"ema.weight": np.full(3, before, np.float32)})
    monkeypatch.setattr(trainings, "read_state", lambda path: state)
    if told:
        with pytest.raises(Failed, match=told):
            require_average(run, bench.world)
    else:
        require_average(run, bench.world)


@pytest.mark.parametrize(
    ("skipped", "scale", "some", "is_right"),
    [
        (0, 65536, False, True),
        (2, 16384, True, True),
        (1, 32768, False, False),
        (0, 65536, True, False),
        (2, 32768, True, False),
        (18, 0.25, True, False),
    ],
)
def test_overflows_must_be_skipped_and_halve_the_scale(skipped, scale, some, is_right):
    def number(value: float) -> SimpleNamespace:
        return SimpleNamespace(asnumpy=lambda: np.float32(value))

    run: Any = a_run(1.1, 1.0)
    scaler = amp.DynamicLossScaler(65536, 2, 2000)
    scaler.scale_value = number(scale)
    run.record.step = SimpleNamespace(step=number(18), skipped=number(skipped), scaler=scaler)
    if is_right:
        assert require_skipped(run, 2.0**16, some).startswith(f"{skipped} of 18 updates skipped")
    else:
        with pytest.raises(Failed, match=f"{skipped} of 18 updates skipped for an overflow, loss scale 65536 to"):
            require_skipped(run, 2.0**16, some)


def test_a_resumed_epoch_must_give_the_same_weights(bench, monkeypatch, tmp_path):
    (tmp_path / "previous.state.ckpt").touch()
    first = a_run(1.1, 1.0, folder=tmp_path)
    recipes = in_turn(monkeypatch, first, a_run(1.0), a_run(1.0, weights=0.500001))
    ways = Trainings(bench)
    ways.fed()
    assert ways.resumed()[0].endswith("the same weights to the bit")
    assert recipes[1].output.resume == str(tmp_path / "previous.state.ckpt")
    with pytest.raises(Failed, match="ends with other weights"):
        ways.resumed()


def test_validation_must_give_the_score_of_the_training(bench, monkeypatch, tmp_path):
    (tmp_path / "mobilenet_v3_small_100-3_18.ckpt").touch()
    ways = Trainings(bench)
    with pytest.raises(NotRun, match="no training came to its end"):
        ways.validated()
    ways.first = a_run(1.1, 1.0, folder=tmp_path)  # type: ignore[assignment]
    score = Score(10 / 29, 1.0, 1.1, 29, 100.0, 0.0, 0.3, unbalanced=False)
    monkeypatch.setattr(trainings, "validate", lambda recipe: score)
    assert ways.validated()[0] == "top-1 34.48%, top-5 100.00%, loss 1.1000 over 29 images, as in training"
    for wrong in (replace(score, top1=11 / 29), replace(score, loss=1.2), replace(score, loss=math.nan)):
        monkeypatch.setattr(trainings, "validate", lambda recipe, wrong=wrong: wrong)
        with pytest.raises(Failed, match=r"in training the same checkpoint had 34.48% and 1.1000"):
            ways.validated()


@pytest.mark.parametrize("on_corrupt", ["error", "replace"])
def test_a_damaged_image_must_be_named_in_time(bench, monkeypatch, on_corrupt):
    images = bench.images(on_corrupt)
    write_images(images, train=6, val=0, size=(16, 16))
    victim = max(images.glob("train/*/*.jpg"))

    def train_by(reaction):
        def train(recipe):
            folder = Path(recipe.output.ckpt_save_dir)
            folder.mkdir(exist_ok=True)
            size = victim.stat().st_size
            (folder / RESULTS).touch()
            while victim.stat().st_size == size and size > 30:
                time.sleep(0.01)
            reaction(heard)

        monkeypatch.setattr(trainings, "train", train)
        heard = Heard()
        return damaged_image(bench, heard, on_corrupt)

    def raises(heard):
        raise UserError(f"{victim}: this image cannot be decoded")

    def names(heard):
        heard.write(f"{victim} cannot be decoded: another image takes its place\n")

    right, wrong = (raises, names) if on_corrupt == "error" else (names, raises)
    text, figures = train_by(right)
    assert text.startswith("named 0.")
    assert 0 <= figures["seconds_until_named"] <= figures["seconds_until_end"]
    with pytest.raises(Failed, match="went on to its end" if on_corrupt == "error" else "was to take the place"):
        train_by(wrong)
    with pytest.raises(Failed, match="no rank named the damaged image"):
        train_by(lambda heard: None)


def test_a_run_that_ends_before_an_image_is_damaged_is_told(bench, monkeypatch):
    write_images(bench.images("error"), train=6, val=0, size=(16, 16))

    def train(recipe):
        raise UserError("no memory")

    monkeypatch.setattr(trainings, "train", train)
    with pytest.raises(Failed, match="the run ended within its first epoch: no memory"):
        damaged_image(bench, Heard(), "error")


def test_an_image_is_damaged_after_the_first_epoch_and_not_before(tmp_path):
    image = tmp_path / "a.jpg"
    image.write_bytes(bytes(100))
    with damage_after_first_epoch(image, tmp_path) as damaged_at:
        time.sleep(0.1)
        assert (image.stat().st_size, damaged_at) == (100, [])
        (tmp_path / RESULTS).touch()
        while not damaged_at:
            time.sleep(0.01)
        assert image.stat().st_size == 50
