"""Pooling and the product of squeeze-excite in two dimensions, for CPUs: a broadcast over four takes longer there.

On an accelerator each reshape would change the format that convolutions work in."""

from mindspore import Tensor


def spatial_mean(x: Tensor) -> Tensor:
    """Mean over height and width: (batch, channels, height, width) -> (batch, channels, 1, 1)."""
    batch, channels, height, width = x.shape
    total = x.reshape(batch * channels, height * width).sum(axis=1)
    return (total * (1.0 / (height * width))).reshape(batch, channels, 1, 1)


def scale_channels(x: Tensor, gates: Tensor) -> Tensor:
    """(batch, channels, height, width) times (batch, channels, 1, 1)."""
    batch, channels, height, width = x.shape
    scaled = x.reshape(batch * channels, height * width) * gates.reshape(batch * channels, 1)
    return scaled.reshape(batch, channels, height, width)
