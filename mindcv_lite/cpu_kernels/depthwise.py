"""A depthwise convolution of the CPU kernels; to the network it is an `nn.Conv2d` like any other."""

from collections.abc import Callable
from pathlib import Path

from mindspore import Tensor, nn, ops


class DepthwiseConv2d(nn.Conv2d):
    """float32 (batch, channels, height, width) -> (batch, channels, ceil(height / stride), ceil(width / stride)).

    kernel 3 or 5, stride 1 or 2; padded by kernel // 2 on every side or, with `same`, as TensorFlow's SAME.
    """

    def __init__(self, library: Path, channels: int, kernel: int, stride: int, same: bool):
        mode, padding = ("same", 0) if same else ("pad", kernel // 2)
        # pyrefly: ignore [bad-argument-count, unexpected-keyword]  (MindSpore's decorator hides the signature)
        super().__init__(channels, channels, kernel, stride, mode, padding, group=channels)
        self.conv2d = operator(library, stride, same)


def operator(library: Path, stride: int, same: bool) -> ops.Custom:
    """x (batch, channels, height, width), weight (channels, 1, kernel, kernel) -> y, with its gradients."""
    kind = f"{stride}_same" if same and stride > 1 else f"{stride}"  # at stride 1 both pad alike

    def custom(task: str, shape: Callable, dtype: Callable, bprop: Callable | None = None) -> ops.Custom:
        return ops.Custom(f"{library}:{task}_{kind}", shape, dtype, func_type="aot", bprop=bprop)

    grad_input = custom("grad_input", lambda dy, weight, x: x, lambda dy, weight, x: x)
    grad_weight = custom("grad_weight", lambda dy, x, weight: weight, lambda dy, x, weight: weight)

    def bprop(x: Tensor, weight: Tensor, y: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        return grad_input(dy, weight, x), grad_weight(dy, x, weight)

    return custom("forward", output_shape(stride), lambda x, weight: x, bprop)


def output_shape(stride: int) -> Callable[[list[int], list[int]], list[int]]:
    """The shape of a padded convolution's output, by those of x and weight."""
    return lambda x, weight: [x[0], weight[0], *(-(-side // stride) for side in x[2:])]
