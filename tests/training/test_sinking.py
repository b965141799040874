"""Runs on a device that sinks whole epochs, as NPUs do; played on the CPU by `tests.training.sinking`."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.train import Callback
from PIL import Image

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.pipeline import Batches, TrainingBatches
from mindcv_lite.errors import UserError
from mindcv_lite.training.loop import Watch, fit
from tests.conftest import ROOT
from tests.programs import SMALL, TINY, msrun, require_same_run, run
from tests.training.sinking import play_sinking

COUNT, EPOCHS = 12, 5


class Step(nn.Cell):
    """Stands for the train step: it notes what it sees."""

    def __init__(self, made: int = 0):
        super().__init__()
        self.step = Parameter(Tensor(made, mindspore.int32))
        self.loss_sum, self.broken_step = Parameter(Tensor(0.0)), Parameter(Tensor(-1))
        self.labels: list[list[int]] = []

    @property
    def steps_done(self) -> int:
        return int(self.step.asnumpy())

    def compile(self, *inputs: Tensor) -> None:
        pass

    def __call__(self, images: Tensor, labels: Tensor, weights: Tensor, *drawn: Tensor) -> Tensor:
        self.labels.append(labels.asnumpy().tolist())
        self.step.set_data(self.step + 1)
        return weights.sum()


@pytest.fixture
def sinking_device(graph_mode, monkeypatch) -> None:
    play_sinking(monkeypatch.setattr)


@pytest.fixture
def batches(tmp_path, recipe, world) -> Callable[..., TrainingBatches]:
    """Three batches of four images an epoch, for a device that sinks or not. An image's label is its number."""
    random = np.random.default_rng(0)
    paths = [str(tmp_path / f"{number}.png") for number in range(COUNT)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    images = Split(paths, np.arange(COUNT, dtype=np.int32), tuple(map(str, range(COUNT))))

    def build(sink: bool = True, **keys: object) -> TrainingBatches:
        given = recipe(epoch_size=EPOCHS, **keys)
        alone = world(given)
        return TrainingBatches(images, given, replace(alone, settings=replace(alone.settings, sink=sink)))

    return build


def watch_of(run: TrainingBatches, step: Any) -> Watch:
    return Watch(step, lambda update: 0.1, run, run.recipe, run.world)


def labels_of(batches: TrainingBatches, epochs: range) -> list[list[int]]:
    return [labels.tolist() for epoch in epochs for _, labels, *_ in batches.epoch(epoch)]


@pytest.mark.parametrize("done", [0, 1, 2, 4])
def test_a_sinking_device_trains_on_the_epochs_that_are_left_in_their_order(sinking_device, batches, done):
    run, step = batches(), Step(done * 3)
    expected = labels_of(run, range(done, EPOCHS))
    run.epoch, opened = noted(run.epoch)
    fit(step, run, run.recipe, run.world, [watch_of(run, step)])
    assert step.labels == expected
    assert opened == [*range(done, EPOCHS)]  # and none beyond the end, although MindSpore asks for as many more


def noted(epoch_of: Callable[[int], Batches]) -> tuple[Callable[[int], Batches], list[int]]:
    """`TrainingBatches.epoch`, and the epochs that it was asked for."""
    asked: list[int] = []
    return lambda epoch: asked.append(epoch) or epoch_of(epoch), asked


def test_model_tells_its_callbacks_once_an_epoch_what_came(sinking_device, batches):
    told = []

    class Told(Callback):
        def on_train_step_end(self, run_context):
            arguments = run_context.original_args()
            told.append((arguments.cur_epoch_num, arguments.cur_step_num, arguments.batch_num))

    run = batches()
    fit(Step(), run, run.recipe, run.world, [Told()])
    assert told == [(epoch, 3 * epoch, 3) for epoch in range(1, EPOCHS + 1)]


def test_no_epoch_is_opened_to_answer_what_shapes_and_types_batches_have(batches):
    run = batches(re_prob=0.5, cutmix=1.0)
    dataset = run.dataset(6)
    for _ in range(3):
        assert dataset.get_dataset_size() == 3
        shapes, types = dataset.output_shapes(), dataset.output_types()
    first = next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert first[1].tolist() == labels_of(batches(), range(2, 3))[0]
    assert [[*column.shape] for column in first] == shapes
    assert [column.dtype for column in first] == types


@pytest.mark.parametrize("sink", [True, False])
def test_an_image_that_breaks_ends_the_run_in_its_epoch_and_no_earlier(sinking_device, batches, log, tmp_path, sink):
    run, step = batches(sink), Step()
    epoch_of, first_epoch = run.epoch, labels_of(run, range(1))
    broken = str(tmp_path / f"{labels_of(run, range(1, 2))[1][0]}.png")  # in the second batch of the second epoch

    def epoch(number: int) -> Batches:  # opened while the first one is trained on
        if number == 1:
            Path(broken).write_bytes(b"no image")
        return epoch_of(number)

    run.epoch = epoch
    ended = []

    class Ends(Callback):
        def on_train_epoch_end(self, run_context):
            ended.append(run_context.original_args().cur_epoch_num)

    with pytest.raises(UserError, match=f"{broken}: this image cannot be decoded"):
        fit(step, run, run.recipe, run.world, [watch_of(run, step), Ends()])
    assert ended == [1]
    assert step.labels[:3] == first_epoch
    named = [record.message for record in log.records if record.levelname == "ERROR"]
    if sink:  # the device goes on, with a blank batch in place of the last one
        assert len(step.labels) == 6
        assert step.labels[5] == [0] * 4
        assert [line.startswith(f"epoch 2: {broken}: this image cannot") for line in named] == [True]
    else:
        assert len(step.labels) < 6
        assert named == []


# ------------------------------------------------------------------------------------------------------ whole programs

# As train.py on a device that sinks. With BREAKS set, one of the images that are the last rank's in its first epoch and
# in its second breaks when it opens the second: no other rank reads it in these, however far ahead it is.
SCRIPT = f"""
import os, sys; sys.path.insert(0, {str(ROOT)!r})
import train
from mindcv_lite.data.pipeline import TrainingBatches
from mindcv_lite.program import run_script
from tests.training.sinking import play_sinking
epoch_of = TrainingBatches.epoch
def epoch(self, number):
    if "BREAKS" in os.environ and (number, self.world.rank) == (1, self.world.size - 1):
        image = min({{*epoch_of(self, 0).indices}} & {{*epoch_of(self, 1).indices}})
        os.truncate(self.images.paths[image], 100)
    return epoch_of(self, number)
TrainingBatches.epoch = epoch
play_sinking(setattr)
run_script(train.main)
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "train_sinking.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("three_rows")
def test_a_sinking_run_that_goes_on_has_the_bits_of_one_fed_batch_by_batch(script, image_folder, tmp_path):
    images = image_folder({"train": {"a": 9, "b": 8}, "val": {"a": 4, "b": 3}})
    flags = ("-c", SMALL, *TINY, "--data_dir", images, "--distribute", "False", "--resume", "--ema")
    flags += ("--scheduler", "constant", "--warmup_epochs", 0, "--lr", 0.01, "--base_batch_size", "None")
    for folder, program, epochs in (("fed", ROOT / "train.py", 3), ("sunk", script, 1), ("sunk", script, 3)):
        (tmp_path / folder).mkdir(exist_ok=True)
        log = run(sys.executable, program, *flags, "--epoch_size", epochs, cwd=tmp_path / folder)
        assert ("of it for data" in log) == (folder == "fed")
    require_same_run(tmp_path / "fed", tmp_path / "sunk")


@pytest.mark.slow
@pytest.mark.usefixtures("three_rows")
def test_all_ranks_end_with_the_epoch_in_which_one_of_them_meets_a_broken_image(
    script, image_folder, tmp_path, monkeypatch
):
    images = image_folder({"train": {"a": 16, "b": 16}, "val": {"a": 2, "b": 2}})
    monkeypatch.setenv("BREAKS", "yes")
    flags = ("-c", SMALL, *TINY, "--data_dir", images, "--epoch_size", 3)
    logs = msrun(2, script, *flags, cwd=tmp_path, status=1)
    assert re.search(rf"epoch 2: {images}/train/\w/\d+\.jpg: this image cannot be decoded", logs[1])
    assert "error: another rank cannot go on, see its log" in logs[0]
    assert sorted(path.name for path in tmp_path.glob("ckpt/*.ckpt")) == [
        "last.state.ckpt",
        "mobilenet_v3_small_100-1_4.ckpt",
        "mobilenet_v3_small_100_best.ckpt",
    ]
    assert len((tmp_path / "ckpt/results.csv").read_text().splitlines()) == 2
