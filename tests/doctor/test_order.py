"""The doctor sees each image at its position, and a shifted epoch for what it is."""

from dataclasses import replace

import numpy as np
import pytest
from mindspore import Tensor

from mindcv_lite.data.datasets.splits import training_splits
from mindcv_lite.data.pipeline import TrainingBatches
from mindcv_lite.doctor.findings import Failed
from mindcv_lite.doctor.order import Witness, order_of_images
from mindcv_lite.recipe.keys import Recipe
from tests.training.sinking import play_sinking

pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.fixture
def small(image_folder, recipe) -> Recipe:
    images = image_folder({"train": {"a": 5, "b": 4}}, size=(16, 16))
    return recipe(data_dir=images, batch_size=2, epoch_size=3, val_while_train=False, num_classes=2)


def test_each_rank_sees_its_images_in_order(small, world):
    for rank in range(2):
        text, _ = order_of_images(small, training_splits(small)[0], world(small, rank, size=2))
        assert text == "3 epochs, and 2 resumed after the first, fed batch by batch: each image at its position"


def test_a_sinking_device_sees_them_in_order_too(small, world, monkeypatch):
    play_sinking(monkeypatch.setattr)
    here = world(small)
    here = replace(here, settings=replace(here.settings, sink=True))
    text, _ = order_of_images(small, training_splits(small)[0], here)
    assert text == "3 epochs, and 2 resumed after the first, whole epochs sent ahead: each image at its position"


@pytest.mark.parametrize("sink", [False, True])
def test_its_input_is_over_with_the_last_epoch(small, world, monkeypatch, sink):
    play_sinking(monkeypatch.setattr)
    here, made = world(small), []
    here = replace(here, settings=replace(here.settings, sink=sink))
    dataset = TrainingBatches.dataset

    def watched(batches, first_step=0, epochs=None):
        made.append((batches, epochs))
        return dataset(batches, first_step, epochs)

    monkeypatch.setattr(TrainingBatches, "dataset", watched)
    order_of_images(small, training_splits(small)[0], here)
    assert [(batches.over, epochs) for batches, epochs in made] == [(True, 3), (True, 3)]


def test_a_run_that_is_an_epoch_ahead_is_told(small, world, monkeypatch):
    epoch = TrainingBatches.epoch
    monkeypatch.setattr(TrainingBatches, "epoch", lambda self, number: epoch(self, number + 1))
    with pytest.raises(Failed, match="epoch 1: the device saw the images of epoch 2"):
        order_of_images(small, training_splits(small)[0], world(small))


def test_another_order_is_told(small, world, monkeypatch):
    monkeypatch.setattr("mindcv_lite.data.pipeline.epoch_order", lambda count, *rest, **more: np.arange(count)[::-1])
    with pytest.raises(Failed, match=r"epoch 1: the device saw other images or another order, beginning with \[8, 7"):
        order_of_images(small, training_splits(small)[0], world(small))


def test_a_witness_keeps_the_labels_of_each_step():
    witness = Witness(steps=2, batch=3)
    for labels in ([4, 0, 5], [1, 2, 3]):
        witness(Tensor(np.zeros((3, 2, 2, 3), np.uint8)), Tensor(np.int32(labels)), Tensor(np.ones(3, np.float32)))
    assert witness.seen.asnumpy().tolist() == [[4, 0, 5], [1, 2, 3]]
