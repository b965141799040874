"""The order of the images, as the device sees it."""

import numpy as np
from mindspore import Parameter, Tensor, dtype, nn, ops
from mindspore.train import Model

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.pipeline import TrainingBatches
from mindcv_lite.data.sharding import epoch_order, shard
from mindcv_lite.device.ranks import World
from mindcv_lite.doctor.examination import Answer
from mindcv_lite.doctor.findings import Failed
from mindcv_lite.recipe.keys import Recipe


class Witness(nn.Cell):
    """In place of a training step: keeps the labels of each step, int32 (steps, batch)."""

    def __init__(self, steps: int, batch: int):
        super().__init__()
        self.rows = Tensor(np.arange(steps, dtype=np.int32)[:, None])
        self.seen = Parameter(Tensor(np.full((steps, batch), -1, np.int32)), name="seen", requires_grad=False)
        self.step = Parameter(Tensor(0, dtype.int32), name="witnessed", requires_grad=False)

    def construct(self, images: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        here = ops.equal(self.rows, self.step).astype(dtype.int32)  # (steps, 1)
        seen = self.seen * (1 - here) + labels.reshape(1, -1) * here
        done = ops.depend(weights.sum(), ops.assign(self.seen, seen))
        return ops.depend(done, ops.assign_add(self.step, 1))


def order_of_images(recipe: Recipe, images: Split, world: World) -> Answer:
    """Train a witness for the recipe's epochs on images that have a label each, then from the second epoch on."""
    numbered = Split(images.paths, np.arange(len(images), dtype=np.int32), images.class_names)
    epochs = recipe.schedule.epoch_size
    for first in (0, 1):
        batches = TrainingBatches(numbered, recipe, world)
        witness = Witness((epochs - first) * batches.steps, recipe.data.batch_size)
        witness.set_train()
        dataset = batches.dataset(first * batches.steps, epochs)
        try:
            Model(witness).train(epochs, dataset, dataset_sink_mode=world.settings.sink, initial_epoch=first)
        finally:
            batches.over = True
        seen = witness.seen.asnumpy().reshape(epochs - first, -1)
        for epoch, came in enumerate(seen, first):
            expected = _expected_order(epoch, len(images), recipe, world)
            if not np.array_equal(came, expected):
                raise Failed(f"epoch {epoch + 1}: {differences(came, len(images), recipe, world)}")
    how = "whole epochs sent ahead" if world.settings.sink else "fed batch by batch"
    return f"{epochs} epochs, and {epochs - 1} resumed after the first, {how}: each image at its position", {}


def _expected_order(epoch: int, count: int, recipe: Recipe, world: World) -> np.ndarray:
    data = recipe.data
    order = epoch_order(count, recipe.system.seed, epoch, data.shuffle, data.num_samples)
    return shard(order, data.batch_size, world.rank, world.size, data.drop_remainder)[0]


def differences(came: np.ndarray, count: int, recipe: Recipe, world: World) -> str:
    """What came in place of an epoch's images, if that is known."""
    for epoch in range(recipe.schedule.epoch_size + 2):
        if np.array_equal(came, _expected_order(epoch, count, recipe, world)):
            return f"the device saw the images of epoch {epoch + 1}"
    return f"the device saw other images or another order, beginning with {came[:8].tolist()}"
