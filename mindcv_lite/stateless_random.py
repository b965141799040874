"""Random numbers as a hash of seed and position, computed in the graph. A resumed run draws the same numbers as the
undisturbed one. MindSpore's own operators draw from a state inside their kernels, which no checkpoint can hold.

The hash works on the two halves of 32 bits, each of them an int32 from 0 to 65535. So no product and no sum leaves
int32: devices differ in what they give there. It has no shift to the right, which Ascend has no fast kernel for.
"""

import math

import numpy as np
from mindspore import Tensor, ops

HASH = "16-bit halves"  # the name of what follows: where the numbers change, this must change
# Upper and lower half of two factors. The sum of the halves is below 2**15: see `product`. Found by a random search for
# the least bias: a bit of the argument that changes must change each bit of the hash half of the time.
FACTORS = ((0x526B, 0x2A1D), (0x225E, 0x4A4B))


def bits(shape: tuple[int, ...], seed: Tensor) -> Tensor:
    """int32, evenly over 0 to 2**31 - 1. `seed`: any int32, of a shape that broadcasts against `shape`."""
    # pyrefly: ignore [bad-argument-count]  (MindSpore's decorator hides the signature)
    return drawn(positions(shape), seed)


def expected_bits(shape: tuple[int, ...], seed: np.ndarray) -> np.ndarray:
    """What `bits` gives, by NumPy: a device that gives anything else computes int32 wrongly."""
    return drawn(hashed_positions(shape), seed)


def normal(shape: tuple[int, ...], seed: Tensor) -> Tensor:
    """float32 of mean 0 and deviation 1 (Box and Muller 1958). `seed`: int32, 0 or above."""
    half = (*shape[:-1], (shape[-1] + 1) // 2)
    radius = ops.sqrt(-2.0 * ops.log((bits(half, seed).float() + 1.0) / 2.0**31))
    angle = bits(half, seed ^ -1).float() * (math.pi / 2.0**30)
    return ops.cat((radius * ops.cos(angle), radius * ops.sin(angle)), -1)[..., : shape[-1]]


@ops.constexpr
def positions(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The hashed positions, computed once: constants of the graph."""
    high, low = hashed_positions(shape)
    return Tensor(high), Tensor(low)


def hashed_positions(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    # Twice: hashed alike, a position and a seed could be exchanged for each other, and give the same number.
    return hashed(*hashed(*halves(np.arange(math.prod(shape), dtype=np.int32).reshape(shape))))


# ----------------------------------------------------------- operators alone: for Tensors and for NumPy's arrays alike


def drawn(position, seed):
    """`position`: the halves of the hashed positions."""
    seed_high, seed_low = hashed(*halves(seed))
    high, low = hashed(position[0] ^ seed_high, position[1] ^ seed_low)
    return (high & 0x7FFF) * 65536 + low


def hashed(high, low):
    """A hash of 32 bits, each of which depends on all bits (as murmur3 ends: bits move down, then up by a product)."""
    low = low ^ high
    for factor in FACTORS:
        high, low = product(high, low, *factor)
        low = low ^ high
    return high, low


def product(high, low, factor_high, factor_low):
    """The product of two numbers in halves, modulo 2**32. The sum is below 65535 * 2**15 + 2**15 = 2**31."""
    lowest = low * factor_low
    return (high * factor_low + low * factor_high + above(lowest)) & 0xFFFF, lowest & 0xFFFF


def halves(x):
    return above(x) & 0xFFFF, x & 0xFFFF


def above(x):
    """x // 65536. The argument is such that a device may also divide in float32, and be off in the last bits."""
    return ((x & -65536) + 32768) // 65536
