"""The first step on the device: uint8 images to the normalised floats that the network takes."""

import numpy as np
from mindspore import Tensor, nn


class Normalize(nn.Cell):
    """(image - mean) / std: uint8 (batch, height, width[, channels]) -> float32 (batch, channels, height, width)."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.scale = Tensor((1.0 / np.array(std, np.float32)).reshape(1, -1, 1, 1))
        self.shift = Tensor((-np.array(mean, np.float32) / np.array(std, np.float32)).reshape(1, -1, 1, 1))
        self.channels = len(mean)

    def construct(self, images: Tensor) -> Tensor:
        batch, height, width = images.shape[:3]
        images = images.reshape(batch, height, width, self.channels).transpose(0, 3, 1, 2).float()
        return images * self.scale + self.shift
