"""Losses of each image: logits (batch, classes) and targets (batch, classes) -> (batch,), all float32."""

import numpy as np
from mindspore import Tensor, ops


def soft_targets(labels: Tensor, classes: int, label_smoothing: float) -> Tensor:
    """One-hot targets, a share of which is spread over all classes: rows still sum to 1."""
    return ops.one_hot(labels, classes, 1.0 - label_smoothing, 0.0) + label_smoothing / classes


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the softmax."""
    return -(targets * ops.log_softmax(logits, -1)).sum(-1)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each class's sigmoid, averaged over the classes (Wightman et al. 2021)."""
    # max(x, 0) - x t + log(1 + exp(-|x|)): no overflow for any logit.
    return (ops.relu(logits) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))).mean(-1)


def distillation(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softmax at a temperature from the teachers' `soft` targets, times its square,
    so that its gradient keeps its size (Hinton et al. 2015)."""
    theirs = ops.log(ops.maximum(soft, SMALLEST))  # times 0 where it is less
    return (soft * (theirs - ops.log_softmax(logits / temperature, -1))).sum(-1) * temperature**2


SMALLEST = float(np.finfo(np.float32).tiny)

LOSSES = {"CE": cross_entropy, "BCE": binary_cross_entropy}
