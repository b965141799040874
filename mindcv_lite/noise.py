"""Random numbers as a hash of seed and place, computed in the graph: a resumed run draws what the undisturbed one would
have. MindSpore's own operators draw from a state inside their kernels, which no checkpoint can hold."""

import math

import numpy as np
from mindspore import Tensor, dtype, ops


def bits(shape: tuple[int, ...], seed: Tensor) -> Tensor:
    """int32, evenly over 0 to 2**31 - 1. `seed`: int32, of a shape that broadcasts against `shape`."""
    place = Tensor(np.arange(math.prod(shape), dtype=np.int32).reshape(shape))
    return ops.bitwise_and(hashed(hashed(place) + hashed(seed)), Tensor(2**31 - 1, dtype.int32))


def normal(shape: tuple[int, ...], seed: Tensor) -> Tensor:
    """float32 of mean 0 and deviation 1 (Box and Muller 1958)."""
    radius = ops.sqrt(-2.0 * ops.log((bits(shape, seed).float() + 1.0) / 2.0**31))
    return radius * ops.cos(bits(shape, hashed(seed)).float() * (math.pi / 2.0**30))


def hashed(x: Tensor) -> Tensor:
    """A hash of each int32 whose bits all depend on all bits (lowbias32, https://nullprogram.com/blog/2018/07/31)."""
    x = ops.bitwise_xor(x, shifted(x, 16)) * Tensor(0x7FEB352D, dtype.int32)
    x = ops.bitwise_xor(x, shifted(x, 15)) * Tensor(0x846CA68B - 2**32, dtype.int32)
    return ops.bitwise_xor(x, shifted(x, 16))


def shifted(x: Tensor, bits: int) -> Tensor:
    """`x` moved right by `bits`, zeros moved in, as if int32 had no sign."""
    moved = ops.bitwise_right_shift(x, Tensor(bits, dtype.int32))
    return ops.bitwise_and(moved, Tensor(2 ** (32 - bits) - 1, dtype.int32))
