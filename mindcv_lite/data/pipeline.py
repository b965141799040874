"""Photos to batches: images uint8 (batch, height, width, channels), labels int32 (batch,), weights float32 (batch,)."""

import itertools
from collections.abc import Iterator

import mindspore.dataset as ds
import numpy as np

from mindcv_lite.data.folder import Photos, unreadable
from mindcv_lite.data.sharding import epoch_order, epoch_seed, shard, steps_of
from mindcv_lite.data.transforms import evaluation_transforms, training_transforms
from mindcv_lite.device import World
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.recipe import Recipe

COLUMNS = ["image", "label", "weight"]


class TrainingBatches:
    """The batches of this rank, epoch after epoch.

    Each epoch is a pipeline of its own, seeded by (seed, epoch, rank): what an epoch holds does not depend on the
    epochs before it. `dataset` strings them together into the one dataset that a sinking device needs, because a
    second dataset would mean a second compilation of the graph.
    """

    def __init__(self, photos: Photos, recipe: Recipe, world: World):
        self.photos, self.recipe, self.world = photos, recipe, world
        data = recipe.data
        self.count = min(len(photos), data.num_samples or len(photos))
        self.steps = steps_of(self.count, data.batch_size, world.size, data.drop_remainder)
        if not self.steps:
            raise UserError(
                f"batch_size {data.batch_size} x {world.size} devices is more than the {self.count} training photos, "
                "and drop_remainder leaves out short batches: lower --batch_size, or --drop_remainder False"
            )
        if data.drop_remainder:
            self.count = self.steps * data.batch_size * world.size
        # An update takes the mean of so many steps, or of those that the epoch has left.
        self.accumulated = min(recipe.optimizer.gradient_accumulation_steps, self.steps)
        self.updates = -(-self.steps // self.accumulated)
        self.global_batch = data.batch_size * world.size * self.accumulated
        self.failure: UserError | TrainingError | None = None
        self._next_epoch = self._passed_over = 0

    def update_of(self, step: int) -> int:
        """The update that a step of the run contributes to; both are counted from 0."""
        epoch, position = divmod(step, self.steps)
        return epoch * self.updates + position // self.accumulated

    def dataset(self, first_step: int = 0) -> ds.Dataset:
        """All epochs from that of `first_step` (counted from 0) on; or the rest of that epoch, if it began before."""
        self._next_epoch, self._passed_over = divmod(first_step, self.steps)
        batches = ds.GeneratorDataset(
            self, COLUMNS, shuffle=False, num_parallel_workers=1, python_multiprocessing=False
        )
        batches.output_shapes()  # MindSpore draws a batch to find the shapes, once: now, not in place of an epoch
        self._next_epoch, self._passed_over = divmod(first_step, self.steps)
        return batches

    def epoch(self, epoch: int) -> "Batches":
        """The batches of one epoch, counted from 0."""
        data = self.recipe.data
        order = epoch_order(len(self.photos), self.recipe.system.seed, epoch, data.shuffle, data.num_samples)
        world = self.world
        indices, weights = shard(order, data.batch_size, world.rank, world.size, data.drop_remainder)
        # In a last update of fewer photos they share the weight of full batches: the mean over all ranks is theirs.
        first = (self.updates - 1) * self.accumulated * data.batch_size
        share = (len(weights) - first) * world.size / (len(order) - first * world.size)
        if share > 1:
            weights[first:] *= share
        ds.config.set_seed(epoch_seed(self.recipe.system.seed, epoch, world.rank))
        transforms = training_transforms(self.recipe.augmentation, self.recipe.model.in_channels)
        return Batches(self.photos, indices, weights, transforms, data.batch_size, world.settings.workers)

    def __len__(self) -> int:
        return self.steps - self._passed_over

    def __iter__(self) -> Iterator[tuple]:
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        passed_over, self._passed_over = self._passed_over, 0
        try:
            # Batches of steps that were made before are drawn all the same: augmentation is a stream of random numbers.
            yield from itertools.islice(self.epoch(epoch), passed_over, None)
        except (UserError, TrainingError) as error:  # kept: MindSpore passes on its text alone, in a long message
            self.failure = error
            raise


def evaluation_batches(photos: Photos, recipe: Recipe, world: World) -> "Batches":
    """This rank's share of the photos in whole batches; weight 0 marks what only fills up the last one."""
    order = epoch_order(len(photos), seed=0, epoch=0, shuffle=False)
    indices, weights = shard(order, recipe.data.batch_size, world.rank, world.size, drop_remainder=False)
    transforms = evaluation_transforms(recipe.augmentation, recipe.model.in_channels)
    return Batches(photos, indices, weights, transforms, recipe.data.batch_size, world.settings.workers)


class Batches:
    """Batches of NumPy arrays, once through. Raises `UserError` that names a photo that cannot be decoded."""

    def __init__(
        self, photos: Photos, indices: np.ndarray, weights: np.ndarray, transforms: list, batch_size: int, workers: int
    ):
        self.rows = _EncodedPhotos(photos, indices, weights)
        self.steps = len(indices) // batch_size
        rows = ds.GeneratorDataset(
            self.rows, COLUMNS, shuffle=False, num_parallel_workers=1, python_multiprocessing=False
        )
        self.dataset = rows.map(transforms, "image", num_parallel_workers=workers).batch(batch_size)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple]:
        try:
            yield from self.dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
        except RuntimeError as error:
            broken = unreadable(self.rows.recently_read())
            if not broken:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                reason = next((line for line in lines if "[ERROR]" in line), lines[0])
                raise TrainingError(f"reading the photos failed, though each can be decoded: {reason}") from error
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise UserError(f"{broken[0]}{more}: this photo cannot be decoded; replace it or remove it") from None


class _EncodedPhotos:
    """Rows (encoded photo, label, weight) for MindSpore's readers."""

    def __init__(self, photos: Photos, indices: np.ndarray, weights: np.ndarray):
        self.photos, self.indices, self.weights = photos, indices, weights
        self.last_read = 0

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.int32, np.float32]:
        self.last_read, index = place, self.indices[place]
        content = np.fromfile(self.photos.paths[index], np.uint8)
        if is_hopeless(content):  # an empty photo is an error; this would end or hang the process
            content = content[:0]
        return content, self.photos.labels[index], self.weights[place]

    def recently_read(self) -> list[str]:
        """More of the last paths than MindSpore's queues can hold."""
        recent = self.indices[max(0, self.last_read - 2000) : self.last_read + 1]
        return [self.photos.paths[index] for index in dict.fromkeys(recent)]


# How the files begin that MindSpore decodes: JPEG, PNG, BMP, TIFF. Of others it leaves a copy in the working directory.
SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")


def is_hopeless(content: np.ndarray) -> bool:
    """Whether a file is of another kind, or a JPEG cut short in its header: some end or hang MindSpore's decoder."""
    if not bytes(content[:4]).startswith(SIGNATURES):
        return True
    if bytes(content[:2]) != b"\xff\xd8":
        return False
    place = 2
    while place + 4 <= len(content):
        if content[place] != 0xFF:
            return False  # something odd between the segments: the decoder's to judge
        if content[place + 1] == 0xDA:  # the start of the scan
            return False
        filled = content[place + 1] == 0xFF
        place += 1 if filled else 2 + int(content[place + 2]) * 256 + int(content[place + 3])
    return True
