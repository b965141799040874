"""Pooling and the product of squeeze-excite by the CPU kernels.

MindSpore's own product keeps two indices of 8 bytes for each float that it computes, in training 290 MB in all (small,
batch 32)."""

from collections.abc import Callable
from pathlib import Path

from mindspore import Tensor, ops


def spatial_mean(library: Path) -> ops.Custom:
    """x (batch, channels, height, width) -> its means (batch, channels, 1, 1), with their gradient."""
    gradient = ops.Custom(f"{library}:spatial_mean_gradient", *[lambda dmean, x: x] * 2, func_type="aot")

    def bprop(x: Tensor, mean: Tensor, dmean: Tensor) -> tuple[Tensor]:
        return (gradient(dmean, x),)

    return ops.Custom(f"{library}:spatial_mean", lambda x: [*x[:2], 1, 1], lambda x: x, func_type="aot", bprop=bprop)


def scale_channels(library: Path) -> ops.Custom:
    """x (batch, channels, height, width), gates (batch, channels, 1, 1) -> x * gates, with both gradients."""

    def custom(name: str, outputs: Callable, bprop: Callable | None = None) -> ops.Custom:
        return ops.Custom(f"{library}:{name}", outputs, outputs, func_type="aot", bprop=bprop)

    gradient = custom("scale_channels_gradient", lambda dy, x, gates: (x, gates))

    def bprop(x: Tensor, gates: Tensor, y: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        # pyrefly: ignore [not-iterable]
        dx, dgates = gradient(dy, x, gates)
        return dx, dgates

    return custom("scale_channels", lambda x, gates: x, bprop)
