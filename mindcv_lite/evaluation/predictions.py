"""What a network answered to each image of a split."""

from dataclasses import dataclass

import numpy as np

BEST = 5  # guesses of an image that are kept


@dataclass(frozen=True)
class Predictions:
    """The answers to the images of a split, in its order. k is `BEST`, or the number of outputs if that is less.

    labels int32 (images,): the right outputs. ranks int32 (images,): how many outputs were guessed before the right
    one. losses float32 (images,). outputs int32 (images, k): the best guesses, the best first; -1 where an answer is no
    number. probabilities float32 (images, k): theirs by the softmax; NaN where an answer is not finite.
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
        """The best guess, int32 (images,)."""
        return self.outputs[:, 0]

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the best guess, float32 (images,)."""
        return self.probabilities[:, 0]

    @property
    def top1(self) -> np.ndarray:
        """Whether the best guess is right, as the score counts it; bool (images,)."""
        return self.ranks < 1

    @property
    def top5(self) -> np.ndarray:
        """Whether one of the k best guesses is right, as the score counts it; bool (images,)."""
        return self.ranks < self.outputs.shape[1]


def answer_rows(logits: np.ndarray, ranks: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """A batch of logits (batch, classes), ranks and losses (batch,) as numbers that ranks can exchange.

    float32 (batch, 2 + 2k): rank, loss, the best outputs (exact up to 2**24), their probabilities.
    """
    undecided = np.isnan(logits).any(1)  # the score takes no best guess of such for right
    best, probabilities = best_guesses(logits, BEST)
    columns = (ranks[:, None], losses[:, None], np.where(undecided[:, None], -1, best), probabilities)
    return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")


def best_guesses(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best outputs for each row of logits (batch, classes), the best first, and their probabilities by the
    softmax; of equal ones the first goes first, as in the score."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    with np.errstate(invalid="ignore"):  # infinity less infinity: the probability is no number
        powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        probabilities = powers / powers.sum(1, keepdims=True)
    return best, np.take_along_axis(probabilities, best, 1)


def predictions_of(rows: np.ndarray, labels: np.ndarray) -> Predictions:
    """The `answer_rows` of images whose right outputs are `labels`."""
    ranks, losses, best = rows[:, 0], rows[:, 1], rows[:, 2:]
    outputs, probabilities = np.split(best, 2, axis=1)
    return Predictions(labels, ranks.astype(np.int32), losses, outputs.astype(np.int32), probabilities)
