"""Exact top-1, top-5, loss and balanced accuracy over all images, on one device or many."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.pipeline import evaluation_batches
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.data.waiting import Waiting
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.evaluation.predictions import BEST, Predictions, prediction_rows, predictions_of
from mindcv_lite.losses import LOSSES, soft_targets
from mindcv_lite.program import progress_bar
from mindcv_lite.recipe.keys import Augmentation, Recipe


@dataclass(frozen=True)
class Score:
    """Shares (0 to 1) of images whose class is the top prediction or among the top five, and the mean loss.

    `top5`: None of a network with five classes or fewer, for which it says nothing.
    `balanced_accuracy`: the mean over the classes that have images of their recall, the share of a class's images whose
    top prediction is right. `unbalanced`: whether a class has more than twice the images of another. `predictions`: of
    each image, where they were to be kept.
    """

    top1: float
    top5: float | None
    loss: float
    images: int
    images_per_second: float
    waited: float  # seconds on this rank, for data
    balanced_accuracy: float
    unbalanced: bool
    predictions: Predictions | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        top5 = "" if self.top5 is None else f", top-5 {self.top5:.2%}"
        balanced = f", balanced accuracy {self.balanced_accuracy:.2%}" if self.unbalanced else ""
        return f"top-1 {self.top1:.2%}{top5}, loss {self.loss:.4f}{balanced}"


class Inference(nn.Cell):
    """Images uint8 (batch, height, width, channels) -> logits float32 (batch, classes).

    `cpu_kernels`: the compiled library that normalises, on a CPU that has one.
    """

    def __init__(self, network: nn.Cell, augmentation: Augmentation, cpu_kernels: Path | None = None):
        super().__init__(auto_prefix=False)
        self.network = network
        self.normalize = Normalize(augmentation.mean, augmentation.std, cpu_kernels)

    def construct(self, images: Tensor) -> Tensor:
        return self.network(self.normalize(images)).float()


class EvaluationStep(nn.Cell):
    """Counts of a batch, float32 (4,): images, right in top-1, right in top-5, sum of the losses.

    Images of weight 0 fill up the last batch and count nowhere. Beside the counts, what they count of each image:
    logits (batch, classes), rank of the right class and loss (batch,).
    """

    def __init__(self, network: nn.Cell, recipe: Recipe, cpu_kernels: Path | None = None):
        super().__init__(auto_prefix=False)
        self.inference = Inference(network, recipe.augmentation, cpu_kernels)
        self.loss = LOSSES[recipe.loss.loss]

    # pyrefly: ignore [bad-override]
    def construct(self, images: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = self.inference(images)  # (batch, classes)
        classes = logits.shape[1]
        rank = self.rank(logits, labels.reshape(-1, 1))  # (batch,), 0: the top prediction
        top1 = (rank < 1).float() * weights
        top5 = (rank < min(BEST, classes)).float() * weights
        loss = self.loss(logits, soft_targets(labels, classes, 0.0))
        counts = ops.stack([weights.sum(), top1.sum(), top5.sum(), (loss * weights).sum()])
        return counts, logits, rank, loss

    def rank(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How many classes rank before the right one; of equal ones the first goes first, as in NumPy.

        Counted by the classes that are surely behind, so that a logit that is no number is never right.
        """
        classes = Tensor(np.arange(logits.shape[1], dtype=np.int32)[None])  # (1, classes)
        right = ops.gather_elements(logits, 1, labels)  # (batch, 1)
        behind = ops.logical_or(logits < right, ops.logical_and(logits == right, classes >= labels))
        # A sum of integers would be int64, which an accelerator computes slowly; in float32 it is as exact.
        return logits.shape[1] - behind.float().sum(-1)


def evaluate(
    step: EvaluationStep, images: Split, recipe: Recipe, world: World, bar: bool = False, keep: bool = False
) -> Score:
    """The score of the step's network on `images`, and with `keep` the predictions too; every rank must call it and
    gets the same score."""
    step.set_train(False)
    sizes = np.bincount(images.labels)  # of the classes
    counts, hits, timed, start = np.zeros(4), np.zeros(len(sizes)), 0.0, time.perf_counter()
    classes, kept = 0, list[np.ndarray]()
    failure: UserError | TrainingError | None = None
    batches = evaluation_batches(images, recipe, world)
    rows = Waiting(progress_bar(batches, "validate", unit="batch", shown=bar))
    try:
        for row in rows:
            with world.compiling(step):
                batch, logits, ranks, losses = step(*map(Tensor, row))
                counts += batch.asnumpy()
                classes = logits.shape[1]
            _, labels, weights, *_ = row
            right = (ranks.asnumpy() < 1) & (weights > 0)
            hits += np.bincount(labels[right], minlength=len(sizes))
            if keep:
                kept.append(prediction_rows(*(part.asnumpy() for part in (logits, ranks, losses))))
            if not timed and len(batches) > 1:  # the first batch may have compiled the graph
                timed, start = counts[0], time.perf_counter()
        if batches.replaced:
            raise UserError(images.fault(batches.replaced[0]))
    except (UserError, TrainingError) as error:  # told below, when the ranks that wait for the sum have it
        failure = error
    speed = world.size * (counts[0] - timed) / (time.perf_counter() - start)
    seen, top1, top5, loss, *hits = world.sum(np.concatenate([counts, hits]))
    if failure:
        raise failure
    if seen != len(images):
        cause = "another rank met an image that it cannot decode, see its log" if world.size > 1 else "this is a defect"
        raise TrainingError(f"evaluation counted {seen:g} of {len(images)} images: {cause}")
    predictions = gathered(np.concatenate(kept), images, world) if keep else None
    present = sizes[sizes > 0]
    recalls, unbalanced = np.array(hits)[sizes > 0] / present, bool(present.max() > 2 * present.min())
    shares = top1 / seen, top5 / seen if classes > BEST else None, loss / seen
    return Score(*shares, len(images), speed, rows.seconds, recalls.mean(), unbalanced, predictions)


def gathered(rows: np.ndarray, images: Split, world: World) -> Predictions:
    """The predictions of all ranks in the order of the images, without what filled up; `rows`: this rank's."""
    of_ranks = world.gather(rows.ravel()).reshape(world.size, *rows.shape)
    in_order = of_ranks.swapaxes(0, 1).reshape(-1, rows.shape[1])  # image i is on rank i % size: see `shard`
    return predictions_of(in_order[: len(images)], images.labels)
