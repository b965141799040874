"""The compiled CPU kernels against plain sums in float64, called as MindSpore calls them."""

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS = [(3, 1, False), (5, 1, False), (3, 2, False), (5, 2, False), (3, 2, True), (5, 2, True)]
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20))
wide_shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 12), st.integers(1, 70))


@pytest.fixture(scope="session")
def library(operators: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(operators))


def call(library: ctypes.CDLL, name: str, inputs: list[np.ndarray], *outputs: np.ndarray) -> int:
    """What `name` returns; it fills `outputs`."""
    arrays = [np.ascontiguousarray(array) for array in (*inputs, *outputs)]
    count = len(arrays)
    sizes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    done = getattr(library, name)(
        count,
        (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays)),
        (ctypes.c_int * count)(*(array.ndim for array in arrays)),
        (ctypes.POINTER(ctypes.c_int64) * count)(
            *(ctypes.cast(size, ctypes.POINTER(ctypes.c_int64)) for size in sizes)
        ),
        (ctypes.c_char_p * count)(*(str(array.dtype).encode() for array in arrays)),
        None,
        None,
    )
    for output, array in zip(outputs, arrays[len(inputs) :], strict=True):
        output[...] = array
    return done


def drawn(random: np.random.Generator, shape: tuple[int, ...], mean: float = 0) -> np.ndarray:
    """Numbers of float32 in float64, in which the expected outputs are computed."""
    return (random.standard_normal(shape) + mean).astype(np.float32).astype(np.float64)


def pads(side: int, kernel: int, stride: int, same: bool) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow's documentation has them for SAME."""
    if not same:
        return kernel // 2, kernel // 2
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def convolved(x: np.ndarray, weight: np.ndarray, stride: int, same: bool) -> np.ndarray:
    """The convolution as it is defined; linear in x and in weight, so it gives the gradients too."""
    kernel = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), *(pads(side, kernel, stride, same) for side in x.shape[2:])))
    # pyrefly: ignore [no-matching-overload]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,cij->nchw", windows, weight[:, 0])


def gradients(x: np.ndarray, weight: np.ndarray, dy: np.ndarray, stride: int, same: bool) -> tuple[np.ndarray, ...]:
    """Of the sum of dy times the convolution, by x and by weight: each tap of the kernel adds its share."""
    kernel = weight.shape[-1]
    before = [pads(side, kernel, stride, same) for side in x.shape[2:]]
    padded = np.pad(x, ((0, 0), (0, 0), *before))
    dx, dw = np.zeros_like(padded), np.zeros_like(weight)
    for i in range(kernel):
        for j in range(kernel):
            rows, columns = (
                slice(at, at + stride * (n - 1) + 1, stride) for at, n in zip((i, j), dy.shape[2:], strict=True)
            )
            dx[:, :, rows, columns] += dy * weight[:, 0, i, j, None, None]
            dw[:, 0, i, j] = (dy * padded[:, :, rows, columns]).sum((0, 2, 3))
    (top, _), (left, _) = before
    return dx[:, :, top : top + x.shape[2], left : left + x.shape[3]], dw


@pytest.mark.parametrize(("kernel", "stride", "same"), KINDS)
@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1))
def test_output_and_gradients_are_the_sums_of_the_definition(library, kernel, stride, same, shape, seed):
    random = np.random.default_rng(seed)
    x, weight = drawn(random, shape), drawn(random, (shape[1], 1, kernel, kernel))
    y = convolved(x, weight, stride, same)
    dy = drawn(random, y.shape)
    dx, dw = gradients(x, weight, dy, stride, same)
    kind = f"{stride}_same" if same else f"{stride}"
    x32, weight32, dy32 = (array.astype(np.float32) for array in (x, weight, dy))
    # Sums of at most 1200 products: float32 errs by some 1e-7 of the sum of their sizes.
    sizes = [convolved(abs(x), abs(weight), stride, same), *gradients(abs(x), abs(weight), abs(dy), stride, same)]
    for name, inputs, expected, size in zip(
        ("forward", "grad_input", "grad_weight"),
        ([x32, weight32], [dy32, weight32, x32], [dy32, x32, weight32]),
        (y, dx, dw),
        sizes,
        strict=True,
    ):
        output = np.full(expected.shape, np.nan, np.float32)
        assert call(library, f"{name}_{kind}", inputs, output) == 0
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-7 + 3e-7 * size.max(), err_msg=name)


def test_large_jobs_are_shared_out_without_a_gap(library):
    random = np.random.default_rng(0)
    x, weight, dy = (drawn(random, shape) for shape in ((5, 37, 56, 56), (37, 1, 5, 5), (5, 37, 28, 28)))
    dx, dw = gradients(x, weight, dy, 2, same=True)
    x32, weight32, dy32 = (array.astype(np.float32) for array in (x, weight, dy))
    for name, inputs, expected in (
        ("forward", [x32, weight32], convolved(x, weight, 2, same=True)),
        ("grad_input", [dy32, weight32, x32], dx),
        ("grad_weight", [dy32, x32, weight32], dw),
    ):
        output = np.full(expected.shape, np.nan, np.float32)
        assert call(library, f"{name}_2_same", inputs, output) == 0
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6 * np.abs(expected).max(), err_msg=name)
    require_norms(library, "hswish", (5, 37, 56, 56), random, mean=0)


@pytest.mark.parametrize("processors", [1, 4])
def test_they_use_as_many_processors_as_they_are_told(library, processors):
    x, weight = np.ones((32, 64, 56, 56), np.float32), np.ones((64, 1, 5, 5), np.float32)
    y = np.empty_like(x)
    library.use_processors(processors)
    try:
        ours, all_threads = time.thread_time(), time.process_time()
        assert call(library, "forward_1", [x, weight], y) == 0
        ours, all_threads = time.thread_time() - ours, time.process_time() - all_threads
    finally:
        library.use_processors(len(os.sched_getaffinity(0)))
    share = ours / all_threads
    assert share > 0.9 if processors == 1 else share < 0.7
    assert y[:, :, 2:-2, 2:-2].min() == 25


# What the activations do, their slopes, and where these jump or bend, as they are defined.
ACTIVATIONS = {
    "linear": (lambda y: y, np.ones_like, []),
    "relu": (lambda y: np.maximum(y, 0), lambda y: (y > 0).astype(y.dtype), [0]),
    "hswish": (
        lambda y: y * np.clip(y + 3, 0, 6) / 6,
        lambda y: np.where(y <= -3, 0, np.where(y >= 3, 1, y / 3 + 0.5)),
        [-3, 3],
    ),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1), mean=st.sampled_from([0, 10, -1000, 100000]))
def test_a_norm_and_its_gradients_are_those_of_the_definition(library, activation, shape, seed, mean):
    require_norms(library, activation, shape, np.random.default_rng(seed), mean)


def require_norms(
    library: ctypes.CDLL, activation: str, shape: tuple[int, ...], random: np.random.Generator, mean: float
) -> None:
    """Far from zero, too, mean and variance are to be found."""

    def as_given(numbers: np.ndarray) -> np.ndarray:
        return numbers.astype(np.float32).astype(np.float64)

    def of_channels(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    def require(task: str, inputs: list[np.ndarray], *expected: tuple[np.ndarray, float]) -> None:
        found = [np.full(values.shape, np.nan, np.float32) for values, _ in expected]
        assert call(library, f"norm_{task}_{activation}", [each.astype(np.float32) for each in inputs], *found) == 0
        for each, (values, error) in zip(found, expected, strict=True):
            np.testing.assert_allclose(each, values, rtol=2e-6, atol=error, err_msg=task)

    act, slope, jumps = ACTIVATIONS[activation]
    x, dy = drawn(random, shape, mean), drawn(random, shape)
    gamma, beta, old_mean, old_variance = (as_given(random.uniform(0.5, 2, shape[1])) for _ in range(4))
    epsilon, count = as_given(np.array([1e-3])), x.size / shape[1]
    last_bit = 1e-7 * (1 + abs(mean))  # what float32 leaves of a number of this size

    batch_mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = gamma / np.sqrt(variance + epsilon)
    y = act((x - of_channels(batch_mean)) * of_channels(scale) + of_channels(beta))
    off = 1e-5 + last_bit * scale.max()  # by the mean's last bit
    require("train", [x, gamma, beta, epsilon], (y, off), (batch_mean, last_bit), (variance, 1e-6))

    y = (x - of_channels(old_mean)) * of_channels(gamma / np.sqrt(old_variance + epsilon)) + of_channels(beta)
    require("evaluate", [x, gamma, beta, old_mean, old_variance, epsilon], (act(y), 1e-5 + last_bit))

    batch_mean, variance = as_given(batch_mean), as_given(variance)
    inverse = of_channels(1 / np.sqrt(variance + epsilon))
    normal = (x - of_channels(batch_mean)) * inverse
    y = normal * of_channels(gamma) + of_channels(beta)
    for jump in jumps:  # there a last bit would decide
        dy[np.abs(y - jump) < 1e-3] = 0
    g = dy * slope(y)
    dgamma, dbeta = (g * normal).sum((0, 2, 3)), g.sum((0, 2, 3))
    dx = of_channels(gamma) * inverse * (g - of_channels(dbeta / count) - normal * of_channels(dgamma / count))
    sizes = np.abs(g).sum((0, 2, 3)).max() + np.abs(g * normal).sum((0, 2, 3)).max()
    error = 1e-6 + 1e-6 * sizes
    inputs = [dy, x, gamma, beta, batch_mean, variance, epsilon]
    error_of_dx = 4 * gamma.max() * inverse.max() * (1e-6 + error / count)
    require("gradient", inputs, (dx, error_of_dx), (dgamma, error), (dbeta, error))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_no_number_stays_none(library, activation):
    x, y = np.full((2, 3, 5, 5), np.nan, np.float32), np.zeros((2, 3, 5, 5), np.float32)
    mean, variance = np.zeros(3, np.float32), np.zeros(3, np.float32)
    inputs = [x, CHANNELS, CHANNELS, EPSILON]
    assert call(library, f"norm_train_{activation}", inputs, y, mean, variance) == 0
    assert np.isnan(y).all()


@pytest.mark.parametrize("same", [False, True])
@settings(max_examples=50, deadline=None)
@given(shape=wide_shapes, outputs=st.sampled_from([8, 16]), seed=st.integers(0, 2**31))
def test_the_stem_and_its_gradient_are_the_sums_of_the_definition(library, same, shape, outputs, seed):
    random = np.random.default_rng(seed)
    batch, channels, height, width = shape
    x, weight = drawn(random, shape), drawn(random, (outputs, channels, 3, 3))
    dy = drawn(random, (batch, outputs, -(-height // 2), -(-width // 2)))
    padded = np.pad(x, ((0, 0), (0, 0), *(pads(side, 3, 2, same) for side in shape[2:])))
    expected_y, expected_dw = np.zeros(dy.shape), np.empty(weight.shape)
    for i in range(3):
        for j in range(3):
            taps = padded[:, :, i : i + 2 * dy.shape[2] - 1 : 2, j : j + 2 * dy.shape[3] - 1 : 2]
            expected_y += np.einsum("nchw,oc->nohw", taps, weight[:, :, i, j])
            expected_dw[:, :, i, j] = np.einsum("nohw,nchw->oc", dy, taps)
    y, dw = (np.full(each.shape, np.nan, np.float32) for each in (dy, weight))
    dy, x, weight = (each.astype(np.float32) for each in (dy, x, weight))
    assert call(library, "stem_forward" + "_same" * same, [x, weight], y) == 0
    np.testing.assert_allclose(y, expected_y, rtol=0, atol=1e-6 * np.sqrt(9 * channels) * 10)
    assert call(library, "stem_grad_weight" + "_same" * same, [dy, x, weight], dw) == 0
    np.testing.assert_allclose(dw, expected_dw, rtol=0, atol=1e-6 * np.sqrt(batch * height * width) * 10)


STEM = [np.zeros(shape, np.float32) for shape in ((2, 8, 4, 5), (2, 3, 8, 9), (8, 3, 3, 3))]


@pytest.mark.parametrize(
    ("inputs", "status"),
    [
        (STEM[:2], 1),
        ([STEM[0].astype(np.float64), *STEM[1:]], 2),
        ([STEM[0][0], *STEM[1:]], 2),
        ([STEM[0][:, :, :3], *STEM[1:]], 3),
        ([STEM[0], STEM[1][:, :2], STEM[2]], 3),
        ([STEM[0][:, :6], STEM[1], STEM[2][:6]], 4),
    ],
)
def test_what_the_stem_cannot_do_is_refused_by_a_number(library, inputs, status):
    y, *others = inputs
    assert call(library, "stem_grad_weight", inputs, inputs[-1].copy()) == status
    assert call(library, "stem_forward", others, y.copy()) == status


@settings(max_examples=50, deadline=None)
@given(shape=shapes, channels=st.sampled_from([1, 3]), seed=st.integers(0, 2**31))
def test_images_are_normalised(library, shape, channels, seed):
    random = np.random.default_rng(seed)
    batch, _, height, width = shape
    images = random.integers(0, 256, (batch, height, width, channels), np.uint8)
    scale, shift = random.uniform(0.001, 1, channels).astype(np.float32), drawn(random, (channels,))
    y = np.full((batch, channels, height, width), np.nan, np.float32)
    assert call(library, "normalize_images", [images, scale, shift.astype(np.float32)], y) == 0
    expected = (images * scale.astype(np.float64) + shift).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=5e-5)


IMAGES, SCALE = np.zeros((2, 8, 9, 3), np.uint8), np.ones(3, np.float32)
NORMALISED = np.zeros((2, 3, 8, 9), np.float32)


@pytest.mark.parametrize(
    ("inputs", "output", "status"),
    [
        ([IMAGES, SCALE], NORMALISED, 1),
        ([IMAGES.astype(np.float32), SCALE, SCALE], NORMALISED, 2),
        ([IMAGES[0], SCALE, SCALE], NORMALISED[0], 2),
        ([IMAGES, SCALE, SCALE[:2]], NORMALISED, 3),
        ([IMAGES, SCALE, SCALE], NORMALISED.transpose(0, 1, 3, 2), 3),
        ([IMAGES[..., :2], SCALE[:2], SCALE[:2]], NORMALISED[:, :2], 4),
    ],
)
def test_images_that_cannot_be_normalised_are_refused_by_a_number(library, inputs, output, status):
    assert call(library, "normalize_images", inputs, output.copy()) == status


@settings(max_examples=50, deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**31))
def test_means_and_products_of_planes_and_their_gradients_are_those_of_the_definition(library, shape, seed):
    random = np.random.default_rng(seed)
    x, dy, gates = drawn(random, shape), drawn(random, shape), drawn(random, (*shape[:2], 1, 1))
    pixels = shape[2] * shape[3]
    for name, inputs, *expected in (
        ("spatial_mean", [x], x.mean((2, 3), keepdims=True)),
        ("spatial_mean_gradient", [gates, x], np.broadcast_to(gates / pixels, shape)),
        ("scale_channels", [x, gates], x * gates),
        ("scale_channels_gradient", [dy, x, gates], dy * gates, (dy * x).sum((2, 3), keepdims=True)),
    ):
        found = [np.full(each.shape, np.nan, np.float32) for each in expected]
        assert call(library, name, [each.astype(np.float32) for each in inputs], *found) == 0
        for output, each in zip(found, expected, strict=True):
            np.testing.assert_allclose(output, each, rtol=1e-6, atol=2e-6 * np.sqrt(pixels), err_msg=name)


PLANES, NUMBERS = np.zeros((2, 3, 8, 8), np.float32), np.zeros((2, 3, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("inputs", "status"),
    [
        ([PLANES], 1),
        ([PLANES.astype(np.float64), NUMBERS], 2),
        ([PLANES, NUMBERS[..., 0]], 2),
        ([PLANES, NUMBERS[:, :2]], 3),
        ([PLANES, PLANES], 3),
    ],
)
def test_planes_that_cannot_be_scaled_are_refused_by_a_number(library, inputs, status):
    assert call(library, "scale_channels", inputs, PLANES.copy()) == status


X, WEIGHT, Y = (
    np.zeros((2, 3, 8, 8), np.float32),
    np.zeros((3, 1, 3, 3), np.float32),
    np.zeros((2, 3, 4, 4), np.float32),
)
CHANNELS, EPSILON = np.ones(3, np.float32), np.full(1, 1e-3, np.float32)


@pytest.mark.parametrize(
    ("inputs", "output", "status"),
    [
        ([X], Y, 1),
        ([X.astype(np.float64), WEIGHT], Y, 2),
        ([X[0], WEIGHT], Y, 2),
        ([X, WEIGHT[:2]], Y, 3),
        ([X, WEIGHT], X, 3),
        ([X, np.zeros((3, 1, 7, 7), np.float32)], Y, 4),
    ],
)
def test_what_they_cannot_do_is_refused_by_a_number(library, inputs, output, status):
    assert call(library, "forward_2", inputs, output.copy()) == status


@pytest.mark.parametrize(
    ("inputs", "output", "status"),
    [
        ([X, CHANNELS, CHANNELS, CHANNELS, CHANNELS], X, 1),
        ([X.astype(np.float64), CHANNELS, CHANNELS, CHANNELS, CHANNELS, EPSILON], X, 2),
        ([X, CHANNELS, CHANNELS, CHANNELS, CHANNELS[None], EPSILON], X, 2),
        ([X, CHANNELS, CHANNELS, CHANNELS, CHANNELS, CHANNELS], X, 3),
        ([X, CHANNELS[:2], CHANNELS, CHANNELS, CHANNELS, EPSILON], X, 3),
        ([X, CHANNELS, CHANNELS, CHANNELS, CHANNELS, EPSILON], Y, 3),
    ],
)
def test_what_a_norm_cannot_do_is_refused_by_a_number(library, inputs, output, status):
    assert call(library, "norm_evaluate_relu", inputs, output.copy()) == status


@settings(deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 9), max_size=4).map(tuple), min_size=1, max_size=6), seed=st.integers(0, 99)
)
def test_averages_move_by_a_share_of_the_way_to_their_weights(library, shapes, seed):
    random = np.random.default_rng(seed)
    averages, weights = ([drawn(random, shape) for shape in shapes] for _ in range(2))
    moved = [np.full(shape, np.nan, np.float32) for shape in shapes]
    inputs = [np.full(1, 0.3, np.float32), *(each.astype(np.float32) for each in (*averages, *weights))]
    assert call(library, "move_averages", inputs, *moved) == 0
    for average, weight, result in zip(averages, weights, moved, strict=True):
        np.testing.assert_allclose(result, average + np.float32(0.3) * (weight - average), rtol=0, atol=1e-6)


def test_very_many_averages_are_shared_out_without_a_gap(library):
    sizes = [700_001, 3, 1, 512, 900_007]
    averages, weights = ([np.full(size, value, np.float32) for size in sizes] for value in (1, 3))
    moved = [np.full(size, np.nan, np.float32) for size in sizes]
    assert call(library, "move_averages", [np.full(1, 0.5, np.float32), *averages, *weights], *moved) == 0
    assert all((each == 2).all() for each in moved)


ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("arrays", "status"),
    [
        ([ONE, ONE, ONE], 1),
        ([ONE, ONE, ONE, ONE, ONE], 1),
        ([ONE, ONE.astype(np.float16), ONE, ONE], 2),
        ([np.ones(0, np.float32), ONE, ONE, ONE], 3),
        ([ONE, ONE, np.ones(2, np.float32), ONE], 3),
        ([ONE, ONE, ONE, np.ones((1, 1), np.float32)], 3),
    ],
)
def test_what_is_no_average_of_a_weight_is_refused_by_a_number(library, arrays, status):
    assert call(library, "move_averages", arrays) == status
