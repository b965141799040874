"""The network's first convolution by the CPU kernels; to the network it is an `nn.Conv2d` like any other."""

from collections.abc import Callable
from pathlib import Path

from mindspore import Tensor, nn, ops

from mindcv_lite.cpu_kernels.depthwise import output_shape


class StemConv2d(nn.Conv2d):
    """float32 (batch, in_channels, height, width) -> (batch, channels, ceil(height / 2), ceil(width / 2)).

    kernel 3, stride 2; padded by 1 on every side or, with `same`, as TensorFlow's SAME. `channels`: a multiple of 8.
    """

    def __init__(self, library: Path, in_channels: int, channels: int, same: bool):
        mode, padding = ("same", 0) if same else ("pad", 1)
        # pyrefly: ignore [bad-argument-count, unexpected-keyword]  (MindSpore's decorator hides the signature)
        super().__init__(in_channels, channels, 3, 2, mode, padding)
        self.conv2d = Convolution(library, channels, mode, padding)


class Convolution(nn.Cell):
    """An input that needs no gradient, as images, is given none: the graph leaves out what nobody reads."""

    def __init__(self, library: Path, channels: int, mode: str, padding: int):
        super().__init__()

        def custom(task: str, shape: Callable, dtype: Callable) -> ops.Custom:
            return ops.Custom(f"{library}:stem_{task}" + "_same" * (mode == "same"), shape, dtype, func_type="aot")

        self.forward = custom("forward", output_shape(2), lambda x, weight: x)
        self.grad_input = ops.Conv2DTranspose(channels, 3, pad_mode=mode, pad=padding, stride=2)
        self.grad_weight = custom("grad_weight", *[lambda dy, x, weight: weight] * 2)

    # pyrefly: ignore [bad-override]
    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.forward(x, weight)

    # pyrefly: ignore [bad-override]
    def bprop(self, x: Tensor, weight: Tensor, y: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        return self.grad_input(dy, weight, ops.shape(x)), self.grad_weight(dy, x, weight)
