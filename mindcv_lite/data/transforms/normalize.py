"""The first step on the device: uint8 images to the normalised floats that the network takes."""

from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from mindcv_lite.cpu_kernels import normalize


class Normalize(nn.Cell):
    """(image - mean) / std: uint8 (batch, height, width[, channels]) -> float32 (batch, channels, height, width).

    `cpu_kernels`: the compiled library that computes it, on a CPU that has one; MindSpore's operators if left out.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], cpu_kernels: Path | None = None):
        super().__init__()
        self.in_one_pass = normalize.operator(cpu_kernels) if cpu_kernels else None
        self.scale = Tensor((1.0 / np.array(std, np.float32)).reshape(1, -1, 1, 1))
        self.shift = Tensor((-np.array(mean, np.float32) / np.array(std, np.float32)).reshape(1, -1, 1, 1))
        self.channels = len(mean)

    def construct(self, images: Tensor) -> Tensor:
        batch, height, width = images.shape[:3]
        images = images.reshape(batch, height, width, self.channels)
        if self.in_one_pass is not None:
            return self.in_one_pass(images, self.scale.reshape(-1), self.shift.reshape(-1))
        return images.transpose(0, 3, 1, 2).float() * self.scale + self.shift
