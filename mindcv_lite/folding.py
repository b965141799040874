"""BatchNorm in evaluation is one factor and one summand for each channel: a convolution can take them over."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from mindspore import Tensor, nn, ops

Numbers = TypeVar("Numbers", np.ndarray, Tensor)


def fold(
    weight: Numbers, gamma: Numbers, beta: Numbers, mean: Numbers, variance: Numbers, eps: float
) -> tuple[Numbers, Numbers]:
    """Weight (out, in, k, k) and bias (out,) of a convolution that computes what one of `weight` and the BatchNorm
    behind it do in evaluation."""
    scale = gamma / (variance + eps) ** 0.5
    # pyrefly: ignore [bad-return]  (NumPy has arrays of other kinds)
    return weight * scale.reshape(-1, 1, 1, 1), beta - mean * scale


class FoldedSequence(nn.SequentialCell):
    """Cells in evaluation, one after the other, in which a BatchNorm is part of the convolution before it."""

    def __init__(self, cells: list[nn.Cell]):
        super().__init__(cells)
        is_norm = [isinstance(cell, nn.BatchNorm2d) for cell in cells]
        # The places of all cells but BatchNorms, and whether one comes next.
        self.calls = [(place, any(is_norm[place + 1 : place + 2])) for place, norm in enumerate(is_norm) if not norm]
        self.add_bias = ops.BiasAdd()

    # pyrefly: ignore [bad-override]
    def construct(self, x: Tensor) -> Tensor:
        for place, before_norm in self.calls:
            cell = self.cell_list[place]
            if before_norm:
                norm = self.cell_list[place + 1]
                statistics = norm.moving_mean, norm.moving_variance
                weight, bias = fold(cell.weight, norm.gamma, norm.beta, *statistics, norm.eps)
                x = self.add_bias(cell.conv2d(x, weight), bias)
            else:
                x = cell(x)
        return x


def fold_norms(parameters: Mapping[str, np.ndarray], bn_eps: float) -> dict[str, np.ndarray]:
    """The parameters of a network without BatchNorm that computes what the one of `parameters` does in evaluation.

    A BatchNorm `features.1` belongs to the convolution before it, `features.0`, whose weight (out, in, k, k) it scales
    and to which it gives a bias (out,). Computed in float64, float32 in the end.
    """
    folded = {name: value for name, value in parameters.items() if name.endswith((".weight", ".bias"))}
    for name in parameters:
        if name.endswith(".gamma"):
            norm = name.removesuffix(".gamma")
            parent, place = norm.rsplit(".", 1)
            convolution = f"{parent}.{int(place) - 1}"
            gamma, beta, mean, variance = (
                parameters[f"{norm}.{part}"].astype(np.float64)
                for part in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            weight, bias = fold(parameters[f"{convolution}.weight"], gamma, beta, mean, variance, bn_eps)
            folded[f"{convolution}.weight"] = weight.astype(np.float32)
            folded[f"{convolution}.bias"] = bias.astype(np.float32)
    return folded
