"""Predictions that no network made."""

import numpy as np

from mindcv_lite.evaluation.predictions import Predictions


def predictions_by(labels: list[int], predicted: list[int], confidence: list[float] | None = None) -> Predictions:
    """Predictions whose top classes these are; the right class is the second where the first is wrong."""
    right, top = np.array(labels, np.int32), np.array(predicted, np.int32)
    outputs = np.stack([top, np.where(top == right, right + 1, right)], 1).astype(np.int32)
    sure = np.full(len(right), 0.75) if confidence is None else np.array(confidence)
    probabilities = np.stack([sure, 1 - sure], 1).astype(np.float32)
    losses = -np.log(np.maximum(np.where(top == right, sure, 1 - sure), 1e-6)).astype(np.float32)
    return Predictions(right, (top != right).astype(np.int32), losses, outputs, probabilities)


def random_predictions(count: int, classes: int) -> Predictions:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, count)
    predicted = np.where(random.random(count) < 0.6, labels, random.integers(0, classes, count))
    return predictions_by(labels.tolist(), predicted.tolist(), random.uniform(1 / classes, 1, count).tolist())
