"""Dropout whose mask follows from a seed alone, so that a resumed run draws what the undisturbed one would have."""

import numpy as np
from mindspore import Tensor, dtype, nn, ops


class Dropout(nn.Cell):
    """Zero a share of `p` of the activations (batch, channels), and scale up the others.

    MindSpore's own dropout draws from a state inside its kernel, which no checkpoint can hold.
    """

    def __init__(self, p: float):
        super().__init__()
        self.keep = 1.0 - p
        self.threshold = int(p * 2**31)

    def construct(self, x: Tensor, seed: Tensor) -> Tensor:
        """`seed`: int32, of shape (); each gives a mask of its own."""
        if self.threshold == 0:
            return x
        place = Tensor(np.arange(x.shape[0] * x.shape[1], dtype=np.int32).reshape(x.shape))
        draw = ops.bitwise_and(mix(mix(place) + mix(seed)), Tensor(2**31 - 1, dtype.int32))  # even over 0 ... 2**31 - 1
        return x * ops.greater_equal(draw, self.threshold).astype(x.dtype) / self.keep


def mix(x: Tensor) -> Tensor:
    """A hash of each int32 whose bits all depend on all bits (lowbias32, https://nullprogram.com/blog/2018/07/31)."""
    x = ops.bitwise_xor(x, shifted(x, 16)) * Tensor(0x7FEB352D, dtype.int32)
    x = ops.bitwise_xor(x, shifted(x, 15)) * Tensor(0x846CA68B - 2**32, dtype.int32)
    return ops.bitwise_xor(x, shifted(x, 16))


def shifted(x: Tensor, bits: int) -> Tensor:
    """`x` moved right by `bits`, zeros moved in, as if int32 had no sign."""
    moved = ops.bitwise_right_shift(x, Tensor(bits, dtype.int32))
    return ops.bitwise_and(moved, Tensor(2 ** (32 - bits) - 1, dtype.int32))
