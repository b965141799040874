"""Networks of a layer or two, for what can be computed by hand."""

import numpy as np
from mindspore import Tensor, nn

CLASSES, SIDE = 5, 2
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(0, 0.3, (CLASSES, 3 * SIDE * SIDE)).astype(np.float32)
BIAS = RANDOM.normal(0, 0.3, CLASSES).astype(np.float32)
IMAGES = RANDOM.integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
LABELS = np.array([0, 4, 2, 2], np.int32)
WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0], np.float32)


class Dense(nn.Cell):
    """Logits of an image by one dense layer."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(WEIGHT.shape[1], CLASSES, Tensor(WEIGHT), Tensor(BIAS))

    def construct(self, x: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        return self.dense(x.reshape(x.shape[0], -1))


class NormAndDense(nn.Cell):
    """A BatchNorm and a dense layer."""

    def __init__(self, seed: int):
        super().__init__()
        # pyrefly: ignore [bad-argument-count]  (MindSpore's decorator hides the signature)
        self.norm = nn.BatchNorm2d(3)
        weight = np.random.default_rng(seed).normal(size=(2, 12)).astype(np.float32)
        self.dense = nn.Dense(12, 2, Tensor(weight))

    def construct(self, x: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        return self.dense(self.norm(x).reshape(x.shape[0], -1))
