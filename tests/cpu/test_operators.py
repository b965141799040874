"""The compiled operators against plain sums in float64, called as MindSpore calls them."""

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindcv_lite.cpu.operators import compiled_operators, find_compiler

KINDS = [(3, 1, False), (5, 1, False), (3, 2, False), (5, 2, False), (3, 2, True), (5, 2, True)]
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20))


@pytest.fixture(scope="session")
def operators() -> ctypes.CDLL:
    if not find_compiler({}):
        pytest.skip("no C++ compiler here")
    path = compiled_operators()
    assert path
    return ctypes.CDLL(str(path))


def call(operators: ctypes.CDLL, name: str, inputs: list[np.ndarray], *outputs: np.ndarray) -> int:
    """What `name` returns; it fills `outputs`."""
    arrays = [np.ascontiguousarray(array) for array in (*inputs, *outputs)]
    count = len(arrays)
    sizes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    done = getattr(operators, name)(
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
def test_output_and_gradients_are_the_sums_of_the_definition(operators, kernel, stride, same, shape, seed):
    random = np.random.default_rng(seed)
    x, weight = random.standard_normal(shape), random.standard_normal((shape[1], 1, kernel, kernel))
    y = convolved(x, weight, stride, same)
    dy = random.standard_normal(y.shape)
    dx, dw = gradients(x, weight, dy, stride, same)
    kind = f"{stride}_same" if same else f"{stride}"
    x32, weight32, dy32 = (array.astype(np.float32) for array in (x, weight, dy))
    for name, inputs, expected in (
        ("forward", [x32, weight32], y),
        ("grad_input", [dy32, weight32, x32], dx),
        ("grad_weight", [dy32, x32, weight32], dw),
    ):
        output = np.full(expected.shape, np.nan, np.float32)
        assert call(operators, f"{name}_{kind}", inputs, output) == 0
        # Sums of at most 1200 products: float32 errs by some 1e-7 of the sum of their sizes.
        np.testing.assert_allclose(output, expected, rtol=0, atol=2e-5, err_msg=name)


def test_large_jobs_are_shared_out_without_a_gap(operators):
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((5, 37, 56, 56)), random.standard_normal((37, 1, 5, 5))
    output = np.full((5, 37, 28, 28), np.nan, np.float32)
    assert call(operators, "forward_2_same", [x.astype(np.float32), weight.astype(np.float32)], output) == 0
    np.testing.assert_allclose(output, convolved(x, weight, 2, same=True), rtol=0, atol=2e-5)


# What the activations do, and their slopes, as they are defined.
ACTIVATIONS = {
    "linear": (lambda y: y, np.ones_like),
    "relu": (lambda y: np.maximum(y, 0), lambda y: (y > 0).astype(y.dtype)),
    "hswish": (
        lambda y: y * np.clip(y + 3, 0, 6) / 6,
        lambda y: np.where(y <= -3, 0, np.where(y >= 3, 1, y / 3 + 0.5)),
    ),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1), mean=st.sampled_from([0, 10, -1000]))
def test_a_norm_and_its_gradients_are_those_of_the_definition(operators, activation, shape, seed, mean):
    random, eps = np.random.default_rng(seed), 1e-3
    act, slope = ACTIVATIONS[activation]
    # Numbers of float32 in float64: their mean and variance are to be found, however far from zero they lie.
    x, dy, gamma, beta, old_mean, old_variance = (
        array.astype(np.float32).astype(np.float64)
        for array in (
            random.standard_normal(shape) + mean,
            random.standard_normal(shape),
            *(random.uniform(0.5, 2, shape[1]) for _ in range(4)),
        )
    )

    def of_channels(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    found_mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    inverse = of_channels(1 / np.sqrt(variance + eps))
    normal = (x - of_channels(found_mean)) * inverse
    y = normal * of_channels(gamma) + of_channels(beta)
    g = dy * slope(y)
    dgamma, dbeta = (g * normal).sum((0, 2, 3)), g.sum((0, 2, 3))
    count = x.size / shape[1]
    dx = of_channels(gamma) * inverse * (g - of_channels(dbeta / count) - normal * of_channels(dgamma / count))
    evaluated = (x - of_channels(old_mean)) / of_channels(np.sqrt(old_variance + eps))
    evaluated = act(evaluated * of_channels(gamma) + of_channels(beta))

    epsilon = np.array([eps])
    scale = 1 + abs(mean)  # what a difference of two numbers loses in float32
    near_edge = np.abs(np.abs(y) - 3).min() < 1e-3 * scale or np.abs(y).min() < 1e-3 * scale  # slopes jump there
    for task, inputs, outputs in (
        ("train", [x, gamma, beta, epsilon], [act(y), found_mean, variance]),
        ("evaluate", [x, gamma, beta, old_mean, old_variance, epsilon], [evaluated]),
        ("gradient", [dy, x, gamma, beta, found_mean, variance, epsilon], [dx, dgamma, dbeta]),
    ):
        if task == "gradient" and near_edge and activation != "linear":
            continue
        found = [np.full(expected.shape, np.nan, np.float32) for expected in outputs]
        assert call(operators, f"norm_{task}_{activation}", [each.astype(np.float32) for each in inputs], *found) == 0
        for each, expected in zip(found, outputs, strict=True):
            error = 2e-5 * scale * max(1, np.abs(expected).max())
            np.testing.assert_allclose(each, expected, rtol=0, atol=error, err_msg=task)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_no_number_stays_none(operators, activation):
    x, y = np.full((2, 3, 5, 5), np.nan, np.float32), np.zeros((2, 3, 5, 5), np.float32)
    mean, variance = np.zeros(3, np.float32), np.zeros(3, np.float32)
    inputs = [x, CHANNELS, CHANNELS, EPSILON]
    assert call(operators, f"norm_train_{activation}", inputs, y, mean, variance) == 0
    assert np.isnan(y).all()


X, WEIGHT, Y = (
    np.zeros((2, 3, 8, 8), np.float32),
    np.zeros((3, 1, 3, 3), np.float32),
    np.zeros((2, 3, 4, 4), np.float32),
)
CHANNELS, EPSILON = np.ones(3, np.float32), np.full(1, 1e-3, np.float32)


@pytest.mark.parametrize(
    ("inputs", "output", "answer"),
    [
        ([X], Y, 1),
        ([X.astype(np.float64), WEIGHT], Y, 2),
        ([X[0], WEIGHT], Y, 2),
        ([X, WEIGHT[:2]], Y, 3),
        ([X, WEIGHT], X, 3),
        ([X, np.zeros((3, 1, 7, 7), np.float32)], Y, 4),
    ],
)
def test_what_they_cannot_do_is_refused_by_a_number(operators, inputs, output, answer):
    assert call(operators, "forward_2", inputs, output.copy()) == answer


@pytest.mark.parametrize(
    ("inputs", "output", "answer"),
    [
        ([X, CHANNELS, CHANNELS, CHANNELS, CHANNELS], X, 1),
        ([X.astype(np.float64), CHANNELS, CHANNELS, CHANNELS, CHANNELS, EPSILON], X, 2),
        ([X, CHANNELS, CHANNELS, CHANNELS, CHANNELS[None], EPSILON], X, 2),
        ([X, CHANNELS, CHANNELS, CHANNELS, CHANNELS, CHANNELS], X, 3),
        ([X, CHANNELS[:2], CHANNELS, CHANNELS, CHANNELS, EPSILON], X, 3),
        ([X, CHANNELS, CHANNELS, CHANNELS, CHANNELS, EPSILON], Y, 3),
    ],
)
def test_what_a_norm_cannot_do_is_refused_by_a_number(operators, inputs, output, answer):
    assert call(operators, "norm_evaluate_relu", inputs, output.copy()) == answer
