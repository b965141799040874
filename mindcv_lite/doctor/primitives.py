"""The primitives of which the project's graphs consist, and a small graph for each group of them with NumPy's result.

`primitives.txt` lists them as MindSpore 2.10 names them. `python -m tests.doctor.graphs` rewrites it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mindspore import Parameter, Tensor, amp, dtype, nn, ops

from mindcv_lite.models.quantised import Rounding

LIST = Path(__file__).with_name("primitives.txt")


class Row(NamedTuple):
    """A primitive with the types of the tensors that it takes and gives: `Float16*2`; a tuple of any length in ().

    `group`: of `GROUPS`, or `ranks`; `mindcv`: yes, where the training graph of MindCV has it too, by which the
    published results were made on Ascend; `ge`: direct, where MindSpore 2.10 has an adapter to Ascend's graph engine
    for it, else as what it is replaced before (read in its wheels, not run on an NPU); `graphs`: where it is found.
    """

    primitive: str
    operands: str
    results: str
    group: str
    mindcv: str
    ge: str
    graphs: str


def read_list() -> list[Row]:
    """The rows of `primitives.txt`."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return [Row(*map(str.strip, line.split("|"))) for line in lines if not line.startswith("#")][1:]


class SmallGraph(NamedTuple):
    """A graph, its inputs, and the outputs that it must give: integers to the bit, other numbers within a share of the
    largest number of each output."""

    graph: nn.Cell
    inputs: tuple[np.ndarray, ...]
    expected: tuple[Any, ...]
    tolerance: float = 1e-6

    def fault(self) -> str | None:
        """What this device computes otherwise than NumPy, in a sentence; None: nothing."""
        found = self.graph(*map(Tensor, self.inputs))
        for index, (output, expected) in enumerate(zip(found, self.expected, strict=True)):
            values, wanted = output.asnumpy(), np.asarray(expected, np.float64)
            allowed = 0 if values.dtype.kind in "iu" else self.tolerance
            if values.shape != wanted.shape:
                return f"output {index} has shape {values.shape}, expected {wanted.shape}"
            error = np.abs(values.astype(np.float64) - wanted).max() / max(np.abs(wanted).max(), 1e-30)
            if not error <= allowed:
                return f"output {index} is off by {error:.2g} of the largest number, allowed are {allowed:g}"
        return None


class Computing(nn.Cell):
    """A function of tensors as a graph."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def construct(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def with_gradients(function: Callable, inputs: int) -> Computing:
    """A graph of `function`, whose last input is the gradient of its output: the output, gradients by the others."""

    def weighted(*given: Tensor) -> tuple[Tensor, Tensor]:
        y = function(*given[:-1])
        return (y.float() * given[-1].float()).sum(), y

    both = ops.value_and_grad(weighted, tuple(range(inputs)), None, has_aux=True)

    def graph(*given: Tensor) -> tuple[Tensor, ...]:
        (_, y), gradients = both(*given)
        if inputs == 1:  # then it is no tuple
            return y, gradients
        return y, *gradients

    return Computing(graph)


def floats(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def draws(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Normal numbers that float16 holds."""
    random = np.random.default_rng(0)
    return [random.normal(size=shape).astype(np.float16) for shape in shapes]


HALF = 4e-3  # of float16, of which sums are made
APPROXIMATE = 1e-4  # of Log, Cos, Sin, Sqrt and Div, which a device may compute by a series; no NPU was tried


# ------------------------------------------------------------------------------------------------- the network's groups


def images() -> SmallGraph:
    """uint8 to normalised numbers, channels first."""

    def normalise(x: Tensor, scale: Tensor) -> tuple[Tensor]:
        return (x.transpose(0, 3, 1, 2).float() * scale + scale,)

    x, scale = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3), floats([0.5, 2, 3]).reshape(1, 3, 1, 1)
    return SmallGraph(Computing(normalise), (x, scale), (x.transpose(0, 3, 1, 2) * scale + scale,))


def pointwise_convolution() -> SmallGraph:
    """A convolution of 1 x 1 with a bias."""
    convolve = ops.Conv2D(out_channel=4, kernel_size=1)

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.bias_add(convolve(x, weight), bias)

    x, weight, bias, dy = draws((2, 3, 5, 5), (4, 3, 1, 1), (4,), (2, 4, 5, 5))
    exact, w, d = x.astype(float), weight[:, :, 0, 0].astype(float), dy.astype(float)
    y = np.einsum("bchw,oc->bohw", exact, w) + bias.reshape(-1, 1, 1)
    dx, dw = np.einsum("bohw,oc->bchw", d, w), np.einsum("bohw,bchw->oc", d, exact)
    expected = (y, dx, dw.reshape(4, 3, 1, 1), d.sum((0, 2, 3)))
    return SmallGraph(with_gradients(layer, 3), (x, weight, bias, dy), expected, HALF)


def depthwise_convolution() -> SmallGraph:
    """A depthwise convolution of 3 x 3, with a shortcut around it."""
    convolve = ops.Conv2D(out_channel=4, kernel_size=3, pad_mode="pad", pad=1, group=4)

    def layer(x: Tensor, weight: Tensor) -> Tensor:
        return x + convolve(x, weight)

    def seen(x: np.ndarray) -> np.ndarray:
        """What each pixel sees: (batch, channels, height, width, 3, 3)."""
        padded = np.pad(x.astype(float), ((0, 0), (0, 0), (1, 1), (1, 1)))
        return np.lib.stride_tricks.sliding_window_view(padded, (1, 1, 3, 3))[:, :, :, :, 0, 0]

    x, weight, dy = draws((2, 4, 5, 5), (4, 1, 3, 3), (2, 4, 5, 5))
    w = weight[:, 0].astype(float)
    y, dx = (
        x + np.einsum("bchwij,cij->bchw", seen(x), w),
        dy + np.einsum("bchwij,cij->bchw", seen(dy), w[:, ::-1, ::-1]),
    )
    dw = np.einsum("bchw,bchwij->cij", dy.astype(float), seen(x))
    return SmallGraph(with_gradients(layer, 2), (x, weight, dy), (y, dx, dw[:, None]), HALF)


def norm() -> SmallGraph:
    """BatchNorm in training, with its gradients and statistics, and in evaluation, all of whose numbers are float16."""
    eps, share = 1e-5, 0.1
    train: Any = ops.BatchNorm(is_training=True, epsilon=eps, momentum=share)
    evaluate: Any = ops.BatchNorm(is_training=False, epsilon=eps)
    before = {"mean": floats([1, 1, 1]), "variance": floats([2, 2, 2])}
    mean, variance = (Parameter(Tensor(each), name=name, requires_grad=False) for name, each in before.items())

    def layer(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return train(x, gamma, beta, mean, variance)[0]

    graph = with_gradients(layer, 3)
    trained = graph.function

    def both(x: Tensor, gamma: Tensor, beta: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
        half = gamma.half()
        return *trained(x, gamma, beta, dy), evaluate(x, half, beta.half(), half, half)[0], mean, variance

    x, dy = draws((4, 3, 5, 5), (4, 3, 5, 5))
    gamma, beta = floats([1, 2, 0.5]), floats([0, -1, 1])
    graph.function, graph.mean, graph.variance = both, mean, variance

    def shaped(values: np.ndarray) -> np.ndarray:
        return values.reshape(1, 3, 1, 1)

    axes, exact, d, g = (0, 2, 3), x.astype(float), dy.astype(float), shaped(gamma)
    deviation = np.sqrt(exact.var(axes, keepdims=True) + eps)
    normal = (exact - exact.mean(axes, keepdims=True)) / deviation
    through_mean, through_variance = d.mean(axes, keepdims=True), (d * normal).mean(axes, keepdims=True)
    dx = g / deviation * (d - through_mean - normal * through_variance)
    evaluated = (exact - g) / np.sqrt(g + eps) * g + shaped(beta)
    # The variance is that of a sample; to divide it by 100 rather than by 99 would be within the tolerance.
    batch = {"mean": exact.mean(axes), "variance": exact.var(axes, ddof=1)}
    moved = [(1 - share) * before[name] + share * batch[name] for name in before]
    expected = (normal * g + shaped(beta), dx, (d * normal).sum(axes), d.sum(axes), evaluated, *moved)
    return SmallGraph(graph, (x, gamma, beta, dy), expected, HALF)


def activations() -> SmallGraph:
    """ReLU, hard-swish and hard-sigmoid."""

    def layer(x: Tensor) -> Tensor:
        return ops.concat((ops.relu(x), ops.hardswish(x), ops.hardsigmoid(x)))

    x, dy = draws((4, 50), (12, 50))
    x *= 3
    exact, (d_relu, d_swish, d_sigmoid) = x.astype(float), np.split(dy.astype(float), 3)
    gate, within = np.clip(exact / 6 + 0.5, 0, 1), np.abs(exact) < 3
    dx = d_relu * (exact > 0) + d_swish * (gate + within * exact / 6) + d_sigmoid * within / 6
    return SmallGraph(
        with_gradients(layer, 1), (x, dy), (np.concatenate([np.maximum(exact, 0), exact * gate, gate]), dx), HALF
    )


def pooling() -> SmallGraph:
    """The mean over height and width, which scales each channel."""

    def layer(x: Tensor) -> Tensor:
        return x * ops.mean(x, (2, 3), keep_dims=True)

    x, dy = draws((2, 3, 4, 4), (2, 3, 4, 4))
    x += 1
    exact, d = x.astype(float), dy.astype(float)
    mean = exact.mean((2, 3), keepdims=True)
    dx = d * mean + (d * exact).mean((2, 3), keepdims=True)
    return SmallGraph(with_gradients(layer, 1), (x, dy), (exact * mean, dx), HALF)


def head() -> SmallGraph:
    """A dense layer behind a change of shape."""

    def layer(x: Tensor, weight: Tensor) -> Tensor:
        return ops.MatMul(transpose_b=True)(x.reshape(2, 8), weight)

    x, weight, dy = draws((2, 8, 1, 1), (3, 8), (2, 3))
    flat, w, d = x.reshape(2, 8).astype(float), weight.astype(float), dy.astype(float)
    return SmallGraph(
        with_gradients(layer, 2), (x, weight, dy), (flat @ w.T, (d @ w).reshape(x.shape), d.T @ flat), HALF
    )


def dropout() -> SmallGraph:
    """A share of the numbers zeroed."""

    def layer(x: Tensor, drawn: Tensor) -> tuple[Tensor]:
        return (x * ops.greater_equal(drawn, 3).astype(x.dtype) / 0.75,)

    (x,), drawn = draws((8, 8)), np.arange(64, dtype=np.int32).reshape(8, 8) % 7
    return SmallGraph(Computing(layer), (x, drawn), (x.astype(float) * (drawn >= 3) / 0.75,), HALF)


def rounding() -> SmallGraph:
    """What a network has that is trained with everything rounded: all of it float32."""
    round_to_uint8, largest, zero = Rounding(), ops.ReduceMax(), Tensor(floats([100]))

    def layer(x: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
        # pyrefly: ignore [missing-attribute]  (MindSpore does not say what its primitives return)
        rounded = round_to_uint8(x, log_scale, zero) * ops.stop_gradient(largest(ops.abs(x), 1)).reshape(-1, 1)
        y = ops.bias_add(rounded, bias)
        return ops.concat((ops.relu(y), ops.hardswish(y), ops.hardsigmoid(y)))

    x, bias, dy = (each.astype(np.float32) for each in draws((4, 50), (50,), (12, 50)))
    x *= 10
    scale, exact = 0.1, x.astype(float)
    rounded = (np.clip(np.rint(exact / scale) + 100, 0, 255) - 100) * scale
    within, most = np.abs(rounded - exact) <= scale / 2, np.abs(exact).max(1, keepdims=True)
    y = rounded * most + bias
    gate, slopes = np.clip(y / 6 + 0.5, 0, 1), np.abs(y) < 3
    d_relu, d_swish, d_sigmoid = np.split(dy.astype(float), 3)
    d = d_relu * (y > 0) + d_swish * (gate + slopes * y / 6) + d_sigmoid * slopes / 6
    by_scale = (d * most * (rounded - within * exact)).sum().reshape(1) * (255 * 50) ** -0.5
    expected = np.concatenate([np.maximum(y, 0), y * gate, gate]), d * most * within, by_scale, d.sum(0)
    given = x, floats([np.log(scale)]), bias, dy
    return SmallGraph(with_gradients(layer, 3), given, expected, APPROXIMATE)


# ------------------------------------------------------------------------------------------------------- the training's


def loss() -> SmallGraph:
    """Cross-entropy of logits in float16, with the gradient by them."""

    def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
        targets = ops.one_hot(labels, 5, 0.9, 0.0) + 0.02
        return (-(targets * ops.log_softmax(logits.float(), -1)).sum(-1)).mean()

    gradient = ops.value_and_grad(mean_loss, 0)
    (logits,), labels = draws((4, 5)), np.array([0, 4, 2, 2], np.int32)
    exact, targets = logits.astype(float), 0.9 * np.eye(5)[labels] + 0.02
    log_shares = exact - np.log(np.exp(exact).sum(1, keepdims=True))
    expected = -(targets * log_shares).sum(1).mean(), (np.exp(log_shares) - targets) / 4
    return SmallGraph(Computing(gradient), (logits, labels), expected, HALF)


def teaching() -> SmallGraph:
    """The shares that a teacher gives to images which are resized for it."""

    def predict(x: Tensor) -> tuple[Tensor, ...]:
        larger = ops.interpolate(x, (4, 4), mode="bilinear", align_corners=False)
        return larger, ops.softmax(larger.reshape(2, 16), -1)

    x = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2) / 4
    columns = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])  # between the centres of two pixels
    larger = columns @ x @ columns.T
    shares = np.exp(larger.reshape(2, 16))
    return SmallGraph(Computing(predict), (x,), (larger, shares / shares.sum(1, keepdims=True)), APPROXIMATE)


def update() -> SmallGraph:
    """An update of weights by scaled gradients with weight decay, and the weights in float16 after it."""
    weight = Parameter(Tensor(floats([1, 2, 3])), name="weight")
    moment = Parameter(Tensor(np.zeros(3, np.float32)), name="moment")
    momentum = Tensor(0.9, dtype.float32)
    apply_momentum = ops.ApplyMomentum()

    def step(gradient: Tensor, scale: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        decayed = ops.addn((weight * 0.5, gradient * ops.reciprocal(scale)))
        updated = ops.depend(weight, apply_momentum(weight, moment, rate, decayed, momentum))
        return updated.half(), moment

    graph = Computing(step)
    graph.weight, graph.moment = weight, moment
    gradient = floats([4, -2, 1])
    decayed = gradient + floats([0.5, 1, 1.5])
    return SmallGraph(
        graph, (4 * gradient, floats(4), floats(0.25)), (floats([1, 2, 3]) - 0.25 * decayed, decayed), HALF
    )


def counting() -> SmallGraph:
    """A step's counters, the learning rate of a step, and whether a loss is a number."""
    count = Parameter(Tensor(6, dtype.int32), name="count", requires_grad=False)
    total = Parameter(Tensor(1.5, dtype.float32), name="total", requires_grad=False)
    rates = Tensor(floats([0, 10, 20, 30]))

    def step(loss: Tensor) -> tuple[Tensor, ...]:
        position = count * 2 % 5
        rate = ops.gather(rates, ops.minimum(position, 3), 0)
        broken = ops.logical_and(ops.logical_not(ops.isfinite(loss)), position < 3)
        first = ops.select(broken, count, position)
        summed = ops.select(position == 2, ops.zeros_like(loss), total) + 1.0
        before = ops.depend(rate, ops.assign(total, summed))
        after = ops.depend(before, ops.assign(count, first))
        return ops.depend(after, ops.assign_add(count, 1)), first, summed

    graph = Computing(step)
    graph.count, graph.total, graph.rates = count, total, rates
    return SmallGraph(graph, (floats(np.inf),), (20, 6, 1))


def branches() -> SmallGraph:
    """A branch that is taken only if all gradients are finite, behind a scale that changes."""
    made = Parameter(Tensor(0, dtype.int32), name="made", requires_grad=False)

    def step(first: Tensor, second: Tensor) -> tuple[Tensor]:
        finite = (1.0 - amp.all_finite((first, second)).float()) == 0
        scale = ops.maximum(first.sum() / 2, Tensor(1.0, dtype.float32)) * 3
        if finite:
            scale = ops.depend(scale + 1, ops.assign_add(made, 1))
        else:
            scale = ops.depend(scale + 10, ops.assign_add(made, 10))
        return (scale,)

    graph = Computing(step)
    graph.made = made
    return SmallGraph(graph, (floats([1, 7]), floats([2, np.inf])), (22,), APPROXIMATE)


def averaging() -> SmallGraph:
    """The norm of gradients, and an average that moves by a share which the count of updates limits."""
    average = Parameter(Tensor(floats([1, 2])), name="average", requires_grad=False)
    sum_all = ops.ReduceSum()

    def step(gradient: Tensor, updates: Tensor) -> tuple[Tensor, ...]:
        norm = ops.sqrt(ops.addn((sum_all(ops.square(gradient), ()), sum_all(ops.square(gradient), ()))))
        share = ops.minimum(2.0 / norm, (1 + updates.float()) / (10 + updates.float()))
        return norm, ops.assign_add(average, share * (gradient - average))

    graph = Computing(step)
    graph.average = average
    norm, share = np.sqrt(50), min(2 / np.sqrt(50), 3 / 12)
    return SmallGraph(
        graph,
        (floats([3, 4]), np.array(2, np.int32)),
        (norm, np.array([1, 2]) + share * np.array([2, 2])),
        APPROXIMATE,
    )


# -------------------------------------------------------------------------------------- augmentation's and evaluation's


def integers() -> SmallGraph:
    """Of int32: bits, sums and products, and the numbers that are made of them."""

    def compute(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        mixed = x ^ (y // 8)
        low = mixed & 1023
        product = low * y % 1000 + x
        share = (low.float() + 1.0) / 1024.0
        return mixed, product, ops.sqrt(-2.0 * ops.log(share)) * (ops.cos(share) + ops.sin(share))

    x, y = np.array([5, 1000, -7, 2**20], np.int32), np.array([9, 77, 12345, 999], np.int32)
    mixed = x ^ (y // 8)
    low = mixed & 1023
    share = (low + 1) / 1024
    expected = mixed, low * y % 1000 + x, np.sqrt(-2 * np.log(share)) * (np.cos(share) + np.sin(share))
    return SmallGraph(Computing(compute), (x, y), expected, APPROXIMATE)


def mixing() -> SmallGraph:
    """A rectangle of each image filled from another one."""

    def compute(x: Tensor, corners: Tensor) -> tuple[Tensor]:
        position = Tensor(np.arange(4, dtype=np.int32))
        box = corners[2:].reshape(1, 2).astype(dtype.int32)
        inside = ops.logical_and(position >= box[:, :1], position < box[:, 1:]).reshape(1, 1, 4)
        others = ops.concat((x[1:], x[:1]))
        mixed = x * corners[0] + others * (1.0 - corners[0])
        return (ops.where(inside, others, mixed),)

    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    others, inside = x[::-1], np.array([False, True, True, False])
    expected = np.where(inside, others, 0.25 * x + 0.75 * others)
    return SmallGraph(Computing(compute), (x, floats([0.25, 0, 1, 3])), (expected,))


def ranking() -> SmallGraph:
    """How many classes rank before the right one, and the counts of a batch."""

    def compute(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        classes = Tensor(np.arange(4, dtype=np.int32)[None])
        labels = labels.reshape(-1, 1)
        right = ops.gather_elements(logits, 1, labels)
        behind = ops.logical_or(logits < right, ops.logical_and(logits == right, classes >= labels))
        rank = 4 - behind.float().sum(-1)
        return rank, ops.stack([(rank < 1).float().sum(), rank.sum()])

    logits = floats([[1, 3, 3, 0], [5, 1, 2, 3]])
    return SmallGraph(Computing(compute), (logits, np.array([2, 0], np.int32)), ([1, 0], [1, 1]))


# The group `ranks` is missing: it needs other ranks, and `device.World.sum` computes it.
GROUPS: dict[str, Callable[[], SmallGraph]] = {
    group.__name__: group
    for group in (
        *(images, pointwise_convolution, depthwise_convolution, norm, activations, pooling, head, dropout, rounding),
        *(loss, teaching, update, counting, branches, averaging, integers, mixing, ranking),
    )
}
