"""What predictions say of the classes, of their confusion, and of the probabilities. Plain NumPy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

from mindcv_lite.evaluation.predictions import Predictions

Z = 1.959964  # 95 % of the standard normal lie within +-Z
BINS = 15  # of the calibration, as in Guo et al. 2017


@dataclass(frozen=True)
class ClassResult:
    """One class: images of it, shares of them, and images that were taken for it. A share of nothing is NaN."""

    output: int
    images: int
    top1: float
    top5: float
    predicted: int
    precision: float
    confused_with: int | None  # the output that most of its other images were taken for
    confused: int  # how many


@dataclass(frozen=True)
class Bin:
    """Images whose top prediction has a probability in (low, high]: how many, their mean probability and top-1."""

    low: float
    high: float
    images: int
    confidence: float
    top1: float


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` images (Wilson 1927): it stays within 0 to 1 and serves few images."""
    centre = share + Z**2 / (2 * count)
    reach = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def mcnemar(first: int, second: int) -> float:
    """The p value of McNemar's exact test on two networks and the same images: how likely is it that the images which
    only one of them gets right divide as unequally as `first` and `second`, or more so, if both are equally good."""
    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5)))


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of many values, by the normal distribution; NaN of one value, or if not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan, math.nan
    values = values.astype(np.float64)
    reach = Z * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() - reach, values.mean() + reach


def class_results(predictions: Predictions) -> list[ClassResult]:
    """A row for each output that images are of or were taken for, in the order of the outputs."""
    predicted = predictions.predicted[predictions.predicted >= 0]
    shown = np.union1d(predictions.labels, predicted)
    size = shown[-1] + 1
    images, counts = np.bincount(predictions.labels, minlength=size), np.bincount(predicted, minlength=size)
    top1 = np.bincount(predictions.labels[predictions.top1], minlength=size)
    top5 = np.bincount(predictions.labels[predictions.top5], minlength=size)
    worst = {label: (output, count) for label, output, count in reversed(confused_pairs(predictions))}
    return [
        ClassResult(
            output,
            int(images[output]),
            _share(top1[output], images[output]),
            _share(top5[output], images[output]),
            int(counts[output]),
            _share(top1[output], counts[output]),
            *worst.get(output, (None, 0)),
        )
        for output in shown.tolist()
    ]


def _share(hits: int, count: int) -> float:
    return float(hits / count) if count else math.nan


def confusion(predictions: Predictions) -> list[tuple[int, int, int]]:
    """(right output, predicted output, images), sorted, for each pair that came; predicted -1: a logit is no
    number."""
    pairs = np.stack([predictions.labels, predictions.predicted], 1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return [(label, output, count) for (label, output), count in zip(found.tolist(), counts.tolist(), strict=True)]


def confused_pairs(predictions: Predictions) -> list[tuple[int, int, int]]:
    """The pairs of `confusion` that are mistakes, the most frequent first."""
    mistakes = [pair for pair in confusion(predictions) if pair[0] != pair[1] >= 0]
    return sorted(mistakes, key=lambda pair: -pair[2])


def surest_first(predictions: Predictions, among: np.ndarray) -> list[int]:
    """The images where `among` (bool) holds, by the probability of the top prediction; without one, last."""
    indices = np.flatnonzero(among)
    return indices[np.argsort(-predictions.confidence[indices], kind="stable")].tolist()


def calibration(predictions: Predictions) -> list[Bin]:
    """The bins that have images, of `BINS` of equal width. Predictions that are not finite are in none."""
    known = np.isfinite(predictions.confidence)
    confidence, top1 = predictions.confidence[known].astype(np.float64), predictions.top1[known]
    bin_index = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(int)
    return [
        Bin(
            number / BINS,
            (number + 1) / BINS,
            int((bin_index == number).sum()),
            float(confidence[bin_index == number].mean()),
            float(top1[bin_index == number].mean()),
        )
        for number in np.unique(bin_index).tolist()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: how far top-1 is from the probabilities, on average over the images; NaN of none."""
    images = sum(each.images for each in bins)
    return sum(each.images * abs(each.top1 - each.confidence) for each in bins) / images if images else math.nan
