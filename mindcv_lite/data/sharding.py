"""Who sees which image when. Plain NumPy, the same on every rank, so that no rank has to ask another."""

from collections.abc import Iterator, Sequence

import numpy as np

from mindcv_lite.errors import UserError
from mindcv_lite.recipe.keys import Data

BLOCK = 1024  # draws of a class, about: a generator for each would take seconds where many classes are small


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed for one epoch on one rank, unrelated to its neighbours'."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0] >> 1)


def noise_seed(seed: int) -> int:
    """The seed of the noise in a run's first step on rank 0; each step on each rank has the next one.

    It is below 2**30. So int32 has room for 2**30 more: a thousand times the steps of ImageNet on all ranks.
    """
    return epoch_seed(seed, 0) >> 1


def epoch_order(
    count: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    num_samples: int | None = None,
    repeats: int = 1,
    balanced: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of the images of an epoch, in order: all of `count`, or the first `num_samples` of them.

    With `repeats` (Hoffer et al. 2020) each comes so often in a row, which is on as many ranks, and the epoch is no
    longer: a third of the images, three times. `balanced`: labels (count,) whose classes are drawn equally often, in
    random order; None: each image is drawn once.
    """
    length = min(count, num_samples or count)
    draws = -(-length // repeats)
    if balanced is not None:
        order = balanced_order(balanced, seed, epoch, draws)
    else:
        order = np.random.default_rng(epoch_seed(seed, epoch)).permutation(count) if shuffle else np.arange(count)
    return np.repeat(order[:draws], repeats)[:length]


def balanced_order(labels: np.ndarray, seed: int, epoch: int, draws: int) -> np.ndarray:
    """Indices of `draws` images in random order, of each class that has images as many as of another, or one more.

    The draws of a run go round the classes, epoch after epoch, and those of a class go through its images: none is
    drawn again before all of them were. Both follow from the number of the draw, so that no epoch needs another.
    """
    sizes = np.bincount(labels)
    of_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    present = np.flatnonzero(sizes)
    drawn = []
    for turn, label in enumerate(present.tolist()):
        # Of all draws of the run, numbers turn, turn + classes, turn + 2 * classes, ... are of this class.
        first, end = (-(-(number * draws - turn) // len(present)) for number in (epoch, epoch + 1))
        drawn += _passes(of_class[label], first, end, (seed, label))
    return np.random.default_rng(epoch_seed(seed, epoch)).permutation(np.concatenate(drawn))


def _passes(indices: np.ndarray, first: int, end: int, seed: tuple[int, int]) -> Iterator[np.ndarray]:
    """Draws `first` to `end` of a stream that passes through `indices` again and again, in a new order each time."""
    block = np.tile(indices, (max(1, BLOCK // len(indices)), 1))  # passes that one generator orders
    for number in range(first // block.size, -(-end // block.size)):
        # The 1 sets it apart from the seeds of epochs.
        order = np.random.default_rng((*seed, number, 1)).permuted(block, axis=1).ravel()
        yield order[max(0, first - number * block.size) : end - number * block.size]


def steps_of(count: int, batch_size: int, size: int, drop_remainder: bool) -> int:
    """Steps of an epoch over `count` images on `size` ranks; the same number on each of them."""
    return count // (batch_size * size) if drop_remainder else -(-count // (batch_size * size))


def require_steps(images: int, data: Data, size: int) -> None:
    """Raise `UserError` if an epoch over so many images on `size` ranks has no step."""
    count = min(images, data.num_samples or images)
    if not steps_of(count, data.batch_size, size, data.drop_remainder):
        raise UserError(
            f"batch_size {data.batch_size} x {size} devices is more than the {count} training images, and "
            "drop_remainder leaves out short batches: lower --batch_size, or --drop_remainder False"
        )


def shard(
    order: np.ndarray, batch_size: int, rank: int, size: int, drop_remainder: bool
) -> tuple[np.ndarray, np.ndarray]:
    """This rank's indices and their weights, each a whole number of batches.

    Over all ranks every index of `order` comes exactly once with weight 1. Without `drop_remainder` the last batch is
    filled up with repeated images of weight 0, so that one compiled graph and any number of ranks serve any count.
    """
    positions = np.arange(rank, steps_of(len(order), batch_size, size, drop_remainder) * batch_size * size, size)
    return order[positions % len(order)], (positions < len(order)).astype(np.float32)


def class_weights_of(asked: Sequence[float] | str | None, labels: np.ndarray, classes: int) -> np.ndarray:
    """What the loss of an image counts, by its label: float32 (classes,); over the images, balanced ones have mean 1.

    Raises `UserError` if not as many are `asked` for as there are classes.
    """
    if asked == "balanced":
        counts = np.bincount(labels, minlength=classes)
        return (len(labels) / np.count_nonzero(counts) / np.maximum(counts, 1)).astype(np.float32)
    weights = np.ones(classes, np.float32) if asked is None else np.array(asked, np.float32)
    if len(weights) != classes:
        raise UserError(f"class_weights: expected {classes} numbers, one for each class, got {len(weights)}")
    return weights


def missing(expected: np.ndarray, came: np.ndarray) -> list[int]:
    """The indices of `expected` that did not come, in order; each as often as it is missing."""
    if np.array_equal(expected, came):
        return []
    order, came = np.argsort(expected, kind="stable"), np.sort(came)
    ordered = expected[order]
    nth = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)  # of those that are equal, from 0
    times = np.searchsorted(came, ordered, "right") - np.searchsorted(came, ordered)
    return expected[np.sort(order[nth >= times])].tolist()
