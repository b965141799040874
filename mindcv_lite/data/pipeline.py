"""Images to batches: images uint8 (batch, height, width, channels), labels int32 (batch,), weights float32 (batch,)."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator

import mindspore.dataset as ds
import numpy as np

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.image_reader import contents_of, damaged, require_most_read, rows_of
from mindcv_lite.data.images.decoding import decodes
from mindcv_lite.data.sharding import class_weights_of, epoch_order, epoch_seed, missing, require_steps, shard, steps_of
from mindcv_lite.data.transforms.decode_augment import evaluation_transforms, training_transforms
from mindcv_lite.data.transforms.mixup_cutmix import draw_mix
from mindcv_lite.data.transforms.random_erasing import draw_rectangles
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import TrainingError, UserError, first_line
from mindcv_lite.recipe.keys import Augmentation, Data, Recipe
from mindcv_lite.signals import take_signals_back

log = logging.getLogger(__name__)

COLUMNS = ["image", "label", "weight"]
ON_CORRUPT = {"error": ds.config.ErrorSamplesMode.RETURN, "replace": ds.config.ErrorSamplesMode.REPLACE}


class TrainingBatches:
    """The batches of this rank, epoch after epoch.

    Each epoch is a pipeline of its own, seeded by (seed, epoch, rank): what an epoch holds does not depend on the
    epochs before it. `dataset` strings them together into the one dataset that a sinking device needs, because a
    second dataset would mean a second compilation of the graph.
    """

    def __init__(self, images: Split, recipe: Recipe, world: World):
        self.images, self.recipe, self.world = images, recipe, world
        data, asked = recipe.data, recipe.loss.class_weights
        classes = recipe.model.num_classes or len(images.class_names)
        self.class_weights = class_weights_of(asked, images.labels, classes) if asked else None
        self.count = min(len(images), data.num_samples or len(images))
        require_steps(len(images), data, world.size)
        self.steps = steps_of(self.count, data.batch_size, world.size, data.drop_remainder)
        if data.drop_remainder:
            self.count = self.steps * data.batch_size * world.size
        # An update takes the mean of so many steps, or of those that the epoch has left.
        self.accumulated = min(recipe.optimizer.gradient_accumulation_steps, self.steps)
        self.updates = -(-self.steps // self.accumulated)
        self.global_batch = data.batch_size * world.size * self.accumulated
        self.failure: tuple[int, UserError | TrainingError] | None = None  # of this rank's input, and in which epoch
        self.over = False  # whether the run has ended, and nobody asks for its input any more
        self.replaced: dict[int, list[int]] = {}  # by epoch, on this rank; whole when the epoch's last batch is there

    def update_of(self, step: int) -> int:
        """The update that a step of the run contributes to; both are counted from 0."""
        epoch, position = divmod(step, self.steps)
        return epoch * self.updates + position // self.accumulated

    def dataset(self, first_step: int = 0, epochs: int | None = None) -> "RunDataset":
        """All epochs from that of `first_step` (counted from 0) on; or the rest of that epoch, if it began before.

        `epochs`: of the run; MindSpore prepares more of them than it takes. None: without end.
        """
        return RunDataset(Epochs(self, first_step, epochs), blank_batch(self.recipe))

    def fail(self, epoch: int, error: Exception) -> None:
        """Note what ended the input of this rank, and in which epoch, counted from 0."""
        if not isinstance(error, UserError | TrainingError):
            error = TrainingError(f"reading the images failed: {type(error).__name__}: {first_line(error)}")
        self.failure = epoch, error
        if self.world.settings.sink:
            log.error("epoch %d: %s; the run ends with this epoch", epoch + 1, error)

    def require_whole(self, epoch: int) -> None:
        """Raise what ended the input of this rank in `epoch`, counted from 0, or before it."""
        if self.failure and self.failure[0] <= epoch:
            raise self.failure[1]

    def epoch(self, epoch: int) -> "Batches":
        """The batches of one epoch, counted from 0."""
        data = self.recipe.data
        world, seed, augmentation = self.world, self.recipe.system.seed, self.recipe.augmentation
        repeats = max(1, augmentation.aug_repeats)
        balanced = _balanced(self.images, data)
        order = epoch_order(len(self.images), seed, epoch, data.shuffle, data.num_samples, repeats, balanced)
        indices, weights = shard(order, data.batch_size, world.rank, world.size, data.drop_remainder)
        # In a last update of fewer images they share the weight of full batches: the mean over all ranks is theirs.
        first = (self.updates - 1) * self.accumulated * data.batch_size
        share = (len(weights) - first) * world.size / (len(order) - first * world.size)
        if share > 1:
            weights[first:] *= share
        if self.class_weights is not None:
            weights *= self.class_weights[self.images.labels[indices]]
        ds.config.set_seed(epoch_seed(seed, epoch, world.rank))
        transforms = training_transforms(augmentation, self.recipe.model.in_channels)
        drawn = draws(augmentation, data.batch_size, epoch_seed(seed, epoch, world.rank))
        return Batches(
            self.images, indices, weights, transforms, data, world.settings.workers, drawn, lambda: self.over
        )


class Epochs:
    """What MindSpore's pipeline passes through again and again: each pass is the next epoch of this rank.

    The input is prepared ahead. So an error in it does not end the pipeline, and with it an epoch that has all it
    needs: blank batches follow, and who trains asks `TrainingBatches.require_whole`. A sinking device can be asked at
    the end of its epoch only; without a batch it would wait until it runs out of time, and the other ranks for it.
    """

    def __init__(self, batches: TrainingBatches, first_step: int, epochs: int | None):
        self.batches, self.epochs = batches, epochs
        self.next_epoch, self.passed_over = divmod(first_step, batches.steps)

    def __len__(self) -> int:
        return self.batches.steps - self.passed_over

    def __iter__(self) -> Iterator[tuple]:
        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        passed_over, self.passed_over = self.passed_over, 0
        given = passed_over
        try:
            for batch in self._epoch(epoch, passed_over):
                yield batch
                given += 1
        except Exception as error:
            if not self.batches.over:
                self.batches.fail(epoch, error)
        yield from itertools.repeat(blank_batch(self.batches.recipe), self.batches.steps - given)

    def _epoch(self, epoch: int, passed_over: int) -> Iterable[tuple]:
        if self.batches.failure or (self.epochs is not None and epoch >= self.epochs):
            return ()
        batches = self.batches.epoch(epoch)
        self.batches.replaced[epoch] = batches.replaced
        # Batches of steps that were made before are drawn all the same: augmentation is a stream of random numbers.
        return itertools.islice(batches, passed_over, None)


class RunDataset(ds.GeneratorDataset):
    """The epochs of a run as the one dataset that MindSpore's Model takes: each pass through it is the next epoch.

    Model asks a dataset for its shapes and types before it begins, a sinking one several times. To answer, MindSpore
    would draw a batch each time, and with it open an epoch; here the blank batch answers, and no epoch is opened.
    """

    def __init__(self, epochs: Epochs, blank: tuple[np.ndarray, ...]):
        columns = COLUMNS + drawn_columns(epochs.batches.recipe.augmentation)
        super().__init__(epochs, columns, shuffle=False, num_parallel_workers=1, python_multiprocessing=False)
        self.shapes, self.types = [list(column.shape) for column in blank], [column.dtype for column in blank]

    def output_shapes(self, estimate: bool = False) -> list[list[int]]:
        return self.shapes

    def output_types(self) -> list[np.dtype]:
        return self.types


def blank_batch(recipe: Recipe) -> tuple[np.ndarray, ...]:
    """A batch of the shapes and types of all others, whose images are black and weigh nothing."""
    augmentation, channels, count = recipe.augmentation, recipe.model.in_channels, recipe.data.batch_size
    images = np.zeros((count, *augmentation.input_size, *[channels] * (channels > 1)), np.uint8)
    drawn = next(draws(augmentation, count, seed=0))
    return images, np.zeros(count, np.int32), np.zeros(count, np.float32), *drawn


def draws(augmentation: Augmentation, batch_size: int, seed: int) -> Iterator[tuple[np.ndarray, ...]]:
    """What the host draws for each batch, for the device to do: the columns `drawn_columns`."""
    random = np.random.default_rng(seed)
    while True:
        erased = (draw_rectangles(random, batch_size, augmentation),) if augmentation.erases else ()
        mixed = (draw_mix(random, augmentation),) if augmentation.mixes else ()
        yield erased + mixed


def drawn_columns(augmentation: Augmentation) -> list[str]:
    """Rectangles to erase (batch, 4), and how to mix (6,), as far as the recipe asks for them."""
    return ["erased"] * augmentation.erases + ["mix"] * augmentation.mixes


def evaluation_batches(images: Split, recipe: Recipe, world: World) -> "Batches":
    """This rank's share of the images in whole batches; weight 0 marks what only fills up the last one."""
    order = epoch_order(len(images), seed=0, epoch=0, shuffle=False)
    indices, weights = shard(order, recipe.data.batch_size, world.rank, world.size, drop_remainder=False)
    transforms = evaluation_transforms(recipe.augmentation, recipe.model.in_channels)
    return Batches(images, indices, weights, transforms, recipe.data, world.settings.workers, itertools.repeat(()))


def _balanced(images: Split, data: Data) -> np.ndarray | None:
    """The labels by which the images of an epoch are drawn, if they are."""
    return images.labels if data.sampling == "balanced" else None


def mixed_batches(images: Split, recipe: Recipe, world: World) -> "Batches":
    """This rank's share of an epoch of training images in random order, whole batches, prepared as for evaluation."""
    data, seed, balanced = recipe.data, recipe.system.seed, _balanced(images, recipe.data)
    order = epoch_order(len(images), seed, epoch=0, shuffle=True, num_samples=data.num_samples, balanced=balanced)
    indices, weights = shard(order, data.batch_size, world.rank, world.size, drop_remainder=True)
    transforms = evaluation_transforms(recipe.augmentation, recipe.model.in_channels)
    return Batches(images, indices, weights, transforms, data, world.settings.workers, itertools.repeat(()))


class Batches:
    """Batches of NumPy arrays, once through: the images of these indices.

    Raises `UserError` that names an image that cannot be decoded; or, with `on_corrupt: replace`, gives another one in
    its place, and lists its index in `replaced` by the time the last batch is there.
    """

    def __init__(
        self,
        images: Split,
        indices: np.ndarray,
        weights: np.ndarray,
        transforms: list,
        data: Data,
        workers: int,
        drawn: Iterator[tuple],
        is_over: Callable[[], bool] = lambda: False,
    ):
        """`is_over`: whether nobody asks for batches any more. MindSpore then ends its pipelines by an error."""
        self.images, self.indices, self.weights, self.batch_size = images, indices, weights, data.batch_size
        self.drawn, self.is_over = drawn, is_over
        self.replaced: list[int] = []
        ds.config.set_error_samples_mode(ON_CORRUPT[data.on_corrupt])
        rows = rows_of(images, indices, data.follow_exif, workers)
        self.dataset = rows.map(transforms, "image", num_parallel_workers=workers).batch(data.batch_size)

    def __len__(self) -> int:
        return len(self.indices) // self.batch_size

    def __iter__(self) -> Iterator[tuple]:
        came: list[np.ndarray] = []
        try:
            for images, indices in self.dataset.create_tuple_iterator(num_epochs=1, output_numpy=True):
                take_signals_back()
                first = len(came) * self.batch_size
                came.append(indices)
                if len(came) == len(self):
                    counted = self.indices[self.weights > 0]
                    self.replaced += missing(counted, np.concatenate(came))
                yield images, self.images.labels[indices], self.weights[first : first + len(indices)], *next(self.drawn)
        except RuntimeError as error:
            if self.is_over():
                raise
            raise self._explained(error, missing(self.indices, np.concatenate([self.indices[:0], *came]))) from error

    def _explained(self, error: RuntimeError, awaited: list[int]) -> UserError | TrainingError:
        ahead = awaited[: 64 * self.batch_size + 2000]  # more images than MindSpore's queues can hold
        try:
            require_most_read(self.images, self.indices)
            # What was refused is known; the others are decoded until one cannot be.
            refused = (index for index in ahead if index in self.images.refused)
            undecoded = (index for image, index in contents_of(self.images, ahead) if not decodes(image))
            broken = next(itertools.chain(refused, undecoded), None)
        except UserError as too_many:
            return too_many
        except RuntimeError as damage:
            return damaged(self.images, damage)
        if broken is None:
            return TrainingError(
                f"reading the images failed, and not for one that cannot be decoded: {first_line(error)}"
            )
        return UserError(self.images.fault(broken))
