"""BatchNorm in evaluation is one factor and one summand for each channel: a convolution can take them over."""

from collections.abc import Mapping

import numpy as np


def norm_of(layer: str) -> str:
    """The name of the BatchNorm behind a convolution, if it has one: `features.1` of `features.0`."""
    parent, _, index = layer.rpartition(".")
    return f"{parent}.{int(index) + 1}" if index.isdecimal() else ""


def fold_norms(parameters: Mapping[str, np.ndarray], bn_eps: float) -> dict[str, np.ndarray]:
    """The parameters of a network without BatchNorm that computes what the one of `parameters` does in evaluation.

    A BatchNorm `features.1` belongs to the convolution before it, `features.0`, whose weight (out, in, k, k) it scales
    and to which it gives a bias (out,). Computed in float64, float32 in the end.
    """
    folded = {name: value for name, value in parameters.items() if name.endswith((".weight", ".bias"))}
    for name in parameters:
        if name.endswith(".gamma"):
            norm = name.removesuffix(".gamma")
            parent, index = norm.rsplit(".", 1)
            convolution = f"{parent}.{int(index) - 1}"
            gamma, beta, mean, variance = (
                parameters[f"{norm}.{part}"].astype(np.float64)
                for part in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            scale = gamma / np.sqrt(variance + bn_eps)
            weight = parameters[f"{convolution}.weight"] * scale.reshape(-1, 1, 1, 1)
            folded[f"{convolution}.weight"] = weight.astype(np.float32)
            folded[f"{convolution}.bias"] = (beta - mean * scale).astype(np.float32)
    return folded
