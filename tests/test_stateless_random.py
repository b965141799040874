"""The hash: within int32 at each step, even, and unrelated between neighbours. And the noise that is made of it."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor
from scipy.stats import chisquare, kstest

from mindcv_lite.stateless_random import FACTORS, bits, drawn, expected_bits, halves, hashed, normal, product

SEEDS = Tensor(np.array([7, 8, 9], np.int32).reshape(3, 1, 1, 1))
ENDS = [0, 1, 2, 0xFFFF, 0x10000, 0x7FFF0000, 2**31 - 1]
FAR_SEEDS = [*ENDS, *(-end - 1 for end in ENDS)]  # the first and the last of int32 among them


# --------------------------------------------------------------------------------------------------- within int32


class Watched(np.ndarray):
    """int64 that keeps the least and the greatest of all results of its operators."""

    extremes: list[int]

    def __array_finalize__(self, origin):
        self.extremes = getattr(origin, "extremes", [])

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        plain = (each.view(np.ndarray) if isinstance(each, Watched) else each for each in inputs)
        result = np.asarray(getattr(ufunc, method)(*plain, **kwargs))
        assert result.dtype == np.int64
        self.extremes += [int(result.min()), int(result.max())]
        return watched(result, self.extremes)


def watched(values, extremes: list[int]) -> Watched:
    array = np.array(values, np.int64).view(Watched)
    array.extremes = extremes
    return array


def require_int32(extremes: list[int]) -> None:
    assert extremes
    assert min(extremes) >= -(2**31)
    assert max(extremes) < 2**31


def test_no_step_of_the_hash_leaves_int32():
    random, extremes = np.random.default_rng(0), []
    positions = watched(np.arange(75 * 1024), extremes)
    seeds = watched([*FAR_SEEDS, *random.integers(-(2**31), 2**31, 50)], extremes).reshape(-1, 1)
    numbers = drawn(hashed(*hashed(*halves(positions))), seeds)
    require_int32(extremes)
    assert len(extremes) > 2 * 100  # of as many operators
    assert np.array_equal(numbers, expected_bits(positions.shape, np.array(seeds, np.int32)))


@pytest.mark.parametrize("factor", FACTORS)
def test_not_even_the_product_of_the_greatest_halves_leaves_int32(factor):
    extremes: list[int] = []
    greatest = watched(0xFFFF, extremes)
    high, low = product(greatest, greatest, *factor)
    require_int32(extremes)
    assert int(high) * 65536 + int(low) == (2**32 - 1) * (factor[0] * 65536 + factor[1]) % 2**32


@pytest.mark.usefixtures("pynative_mode")
@pytest.mark.parametrize("seed", FAR_SEEDS)
def test_mindspore_gives_what_numpy_gives_with_any_seed(seed):
    expected = expected_bits((3, 1000), np.array(seed, np.int32))
    assert np.array_equal(bits((3, 1000), Tensor(seed, mindspore.int32)).asnumpy(), expected)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)

    @mindspore.jit
    def graph(seed: Tensor) -> Tensor:
        return bits((3, 1000), seed)

    assert np.array_equal(graph(Tensor(seed, mindspore.int32)).asnumpy(), expected)


# ------------------------------------------------------------------------------------------------ even and unrelated

COUNT = 2**18


def bits_of(numbers: np.ndarray) -> np.ndarray:
    """float (31, count): each bit as -1 or 1."""
    return (numbers.reshape(1, -1) >> np.arange(31).reshape(-1, 1) & 1) * 2.0 - 1


def of_positions(seed: int) -> np.ndarray:
    return expected_bits((COUNT,), np.array(seed, np.int32))


def of_seeds(first: int, step: int = 1) -> np.ndarray:
    """The numbers of four positions with 2**16 seeds in a row."""
    return expected_bits((4,), np.arange(first, first + step * COUNT // 4, step, dtype=np.int32).reshape(-1, 1))


DRAWS = [(of_positions, 0), (of_positions, 861_209_261), (of_seeds, 0), (of_seeds, 861_209_261)]


@pytest.mark.parametrize(("draw", "seed"), DRAWS)
def test_the_numbers_are_even_in_their_first_and_their_last_bits(draw, seed):
    numbers = draw(seed).ravel()
    for part in (numbers >> 23, numbers & 0xFF):
        assert chisquare(np.bincount(part, minlength=256)).pvalue > 1e-4
    assert np.abs(bits_of(numbers).mean(1)).max() < 5 / np.sqrt(COUNT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *((of_positions(7)[:-lag], of_positions(7)[lag:]) for lag in (1, 2, 224, 1024)),
        *((of_positions(7), of_positions(7 + lag)) for lag in (1, 2, 8, 1024, 65536)),  # the next ranks and steps
        *((of_seeds(7), of_seeds(7 + lag)) for lag in (1, 8)),
        (of_positions(7)[1:], of_positions(8)[:-1]),
        (of_positions(7), of_positions(7 - 2**31)),
        (of_positions(7), of_positions(-8)),
    ],
)
def test_no_bit_has_to_do_with_any_bit_of_a_neighbour(one, other):
    # 961 pairs of bits: by chance one of them lies beyond 5.5 standard errors in 27,000 such tests.
    shares = bits_of(one) @ bits_of(other).T / one.size
    assert np.abs(shares).max() < 5.5 / np.sqrt(one.size)


def test_a_bit_of_the_seed_that_changes_changes_each_bit_half_of_the_time():
    seeds = np.random.default_rng(0).integers(-(2**31), 2**31, (COUNT // 4, 1)).astype(np.int32)
    for bit in range(32):
        changed = expected_bits((4,), seeds) ^ expected_bits(
            (4,), seeds ^ np.int32(2**bit - (2**32 if bit == 31 else 0))
        )
        assert np.abs(bits_of(changed).mean(1)).max() < 5.5 / np.sqrt(COUNT)


def test_neighbouring_seeds_share_no_more_numbers_than_chance_does():
    numbers = expected_bits((4096,), np.arange(1024, dtype=np.int32).reshape(-1, 1))  # seeds that are also positions
    repeated = numbers.size - len(np.unique(numbers))
    assert repeated == pytest.approx(numbers.size**2 / 2**32, abs=5 * 64)  # 4096, whose standard error is 64


# ------------------------------------------------------------------------------------------------------- normal noise


@pytest.mark.usefixtures("pynative_mode")
@pytest.mark.parametrize("side", [64, 63])
def test_the_noise_of_each_seed_is_normal_and_independent(side):
    noise = normal((3, side, side), SEEDS).asnumpy()
    assert noise.shape == (3, 3, side, side)
    for image in noise:
        assert kstest(image.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise.reshape(9, -1)) - np.eye(9)).max() < 0.08  # five standard errors of 4096 pairs
    for lag in (1, 32):  # the second half of a row is made with the first
        neighbours = noise[..., lag:].ravel(), noise[..., :-lag].ravel()
        assert abs(np.corrcoef(*neighbours)[0, 1]) < 0.03
        assert abs(np.corrcoef(*np.square(neighbours))[0, 1]) < 0.03


@pytest.mark.usefixtures("pynative_mode")
def test_the_same_seed_gives_the_same_noise_in_a_graph_too():
    expected = normal((1, 8, 8), SEEDS).asnumpy()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)

    @mindspore.jit
    def graph(seeds: Tensor) -> Tensor:
        return normal((1, 8, 8), seeds)

    np.testing.assert_allclose(graph(SEEDS).asnumpy(), expected, rtol=1e-5, atol=1e-6)
