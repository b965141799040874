"""Dropout whose mask follows from a seed alone."""

from mindspore import Tensor, nn, ops

from mindcv_lite.stateless_random import bits


class Dropout(nn.Cell):
    """Zero a share of `p` of the activations (batch, channels), and scale up the others."""

    def __init__(self, p: float):
        super().__init__()
        self.keep = 1.0 - p
        self.threshold = int(p * 2**31)

    def construct(self, x: Tensor, seed: Tensor) -> Tensor:
        """`seed`: int32, of shape (); each gives a mask of its own."""
        if self.threshold == 0:
            return x
        return x * ops.greater_equal(bits(x.shape, seed), self.threshold).astype(x.dtype) / self.keep
