"""The predictions of a network for each image of a split."""

from dataclasses import dataclass

import numpy as np

BEST = 5  # predictions of an image that are kept


@dataclass(frozen=True)
class Predictions:
    """The predictions for the images of a split, in its order. k is `BEST`, or the number of outputs if that is less.

    labels int32 (images,): the right outputs. ranks int32 (images,): how many outputs rank before the right one.
    losses float32 (images,). outputs int32 (images, k): the top predictions, the best first; -1 where a logit is no
    number. probabilities float32 (images, k): theirs by the softmax; NaN where they are not finite.
    """

    labels: np.ndarray
    ranks: np.ndarray
    losses: np.ndarray
    outputs: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """The top prediction, int32 (images,)."""
        return self.outputs[:, 0]

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the top prediction, float32 (images,)."""
        return self.probabilities[:, 0]

    @property
    def top1(self) -> np.ndarray:
        """Whether the top prediction is right, as the score counts it; bool (images,)."""
        return self.ranks < 1

    @property
    def top5(self) -> np.ndarray:
        """Whether one of the k top predictions is right, as the score counts it; bool (images,)."""
        return self.ranks < self.outputs.shape[1]


def prediction_rows(logits: np.ndarray, ranks: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """A batch of logits (batch, classes), ranks and losses (batch,) as numbers that ranks can exchange.

    float32 (batch, 2 + 2k): rank, loss, the best outputs (exact up to 2**24), their probabilities.
    """
    undecided = np.isnan(logits).any(1)  # the score counts them as wrong
    best, probabilities = top_predictions(logits, BEST)
    columns = (ranks[:, None], losses[:, None], np.where(undecided[:, None], -1, best), probabilities)
    return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")


def top_predictions(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best outputs for each row of logits (batch, classes), the best first, and their probabilities by the
    softmax; of equal ones the first goes first, as in the score."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    with np.errstate(invalid="ignore"):  # infinity less infinity: the probability is no number
        powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        probabilities = powers / powers.sum(1, keepdims=True)
    return best, np.take_along_axis(probabilities, best, 1)


def predictions_of(rows: np.ndarray, labels: np.ndarray) -> Predictions:
    """The `prediction_rows` of images whose right outputs are `labels`."""
    ranks, losses, best = rows[:, 0], rows[:, 1], rows[:, 2:]
    outputs, probabilities = np.split(best, 2, axis=1)
    return Predictions(labels, ranks.astype(np.int32), losses, outputs.astype(np.int32), probabilities)
