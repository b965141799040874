"""Quantisation to int8 after training: the numbers that the layers and what flows between them are rounded to.

A tensor that an integer layer reads or gives is uint8 with one scale, as integer kernels want it. Its channels differ
by a factor of 100 and more in this network. So each channel is divided by a factor of its own first (cross-layer
equalisation, Nagel et al. 2019, https://arxiv.org/abs/1906.04721): the layer before takes over the division, the layer
after the multiplication. Hard-swish does not scale: around it, Mul nodes do this.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mindcv_lite.models.onnx_graph import LAST, LAYERS, Graph, Node, Wiring

Compute = Callable[[Node, Mapping[str, np.ndarray], np.ndarray], np.ndarray]  # a node with weights, on one input
BINS = 4000  # of the histogram by which a range is chosen
LEAST_SCALE = 1e-10  # of a weight
LARGEST_BIAS = 2.0**28  # in units of input scale x weight scale: int32 with room for the sum of products


class Activation(NamedTuple):
    """How a tensor is rounded: uint8 = round(x / (scale * factor of the channel)) + zero, clipped."""

    scale: np.float32
    zero: int
    factors: np.ndarray  # (channels,)

    def rounded(self, x: np.ndarray) -> np.ndarray:
        step = by_channel(self.scale * self.factors, x)
        whole = np.divide(x, step, dtype=np.float32)  # the same array from here on: x may have hundreds of megabytes
        np.rint(whole, out=whole)
        np.clip(whole, -self.zero, 255 - self.zero, out=whole)
        return np.multiply(whole, step, out=whole)


class Layer(NamedTuple):
    """A layer's weight in int8, of the weights times the factors of the input, and its scales (out,)."""

    weight: np.ndarray
    scales: np.ndarray


@dataclass
class Quantised:
    """What is rounded, by the names of tensors and layers. `biases`: corrected, (out,) float64. `in_float`: layers that
    compute in float32; their weights are int8 too, which costs hardly anything. `multiply_adds`: for one image."""

    activations: dict[str, Activation]
    layers: dict[str, Layer]
    biases: dict[str, np.ndarray]
    multiply_adds: dict[str, int]
    noise: dict[str, float]  # for each tensor, what its rounding adds to the variance of the logits, estimated
    in_float: frozenset[str]
    logits: np.ndarray  # of the calibration images, computed with all that is rounded


def by_channel(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Values (channels,) in the shape in which they multiply (batch, channels, ...)."""
    return np.asarray(values, np.float32).reshape(1, -1, *[1] * (like.ndim - 2))


def by_input(weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Factors of the input's channels in the shape in which they multiply a layer's weight (out, in, ...)."""
    is_depthwise = weight.shape[1] == 1 < len(factors)
    shape = (-1, 1) if is_depthwise else (1, -1)
    return np.asarray(factors, np.float32).reshape(*shape, *[1] * (weight.ndim - 2))


def importance(network: list[Node], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How much the variance of the logits grows with that of an error in each channel, (channels,) for each tensor.

    As if errors were independent and activations passed them on: squared weights, backwards.
    """
    gains = {LAST: np.ones(len(weights[network[-1].inputs[1]]))}
    for node in reversed(network):
        gain, passed = gains[node.output], dict.fromkeys(node.inputs, gains[node.output])
        if node.operator in LAYERS:
            weight = weights[node.inputs[1]].astype(np.float64)
            squares = (weight**2).reshape(*weight.shape[:2], -1).sum(-1)  # (out, in / group)
            is_depthwise = node.attributes.get("group", 1) > 1
            passed = {node.inputs[0]: gain * squares[:, 0] if is_depthwise else gain @ squares}
        elif node.operator in ("GlobalAveragePool", "HardSigmoid"):  # an image's mean; a slope of 1/6
            passed = {node.inputs[0]: gain / 36}
        for name, value in passed.items():
            gains[name] = gains.get(name, 0) + value
    return {name: gain + 1e-30 for name, gain in gains.items()}


def factors_of(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """What each channel of x (batch, channels, ...) is divided by so that all fill the range, (channels,).

    They share the zero point: the one with the least error, weighted by `gain`, is taken.
    """
    around = (0, *range(2, x.ndim))
    low, high = np.minimum(x.min(around), 0).astype(np.float64), np.maximum(x.max(around), 0).astype(np.float64)
    best, least = high, np.inf
    for zero in (0,) if not low.any() else range(4, 132, 4):
        steps = np.maximum(high / (255 - zero), -low / max(zero, 1))
        steps = np.maximum(steps, max(steps.max() * 1e-4, 1e-9))  # a channel may be dead, and a tensor
        if (error := (gain * steps**2).sum()) < least:
            best, least = steps, error
    return 255 * best


def best_range(x: np.ndarray, gain: np.ndarray) -> tuple[np.float32, int]:
    """Scale and zero point of x (batch, channels, ...) with the least squared error, weighted by `gain` (channels,)."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 1e-6)
    counts, edges = np.zeros(BINS), np.linspace(low, high, BINS + 1)
    for channel, weight in enumerate(gain):
        counts += weight * np.histogram(x[:, channel], BINS, (low, high))[0]
    filled = counts > 0
    centres, counts, one = ((edges[1:] + edges[:-1]) / 2)[filled], counts[filled], np.ones(1)
    best, least = Activation(np.float32(high / 255), 0, one), np.inf
    for below in np.linspace(1, 0.1, 31) * low if low < 0 else (0.0,):
        for above in np.geomspace(1, 0.1, 36) * high:
            scale = np.float32((above - below) / 255)
            tried = Activation(scale, round(-below / scale), one)
            error = (counts * (tried.rounded(centres[:, None])[:, 0] - centres) ** 2).sum()
            if error < least:
                best, least = tried, error
    return best.scale, best.zero


def quantised_weight(weight: np.ndarray, least_scales: np.ndarray | float = 0.0) -> Layer:
    """int8 weights, symmetric, and their scales (out,), none of them below `least_scales`."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(1)
    scales = np.maximum(largest / 127, np.maximum(least_scales, LEAST_SCALE)).astype(np.float32)
    return Layer(np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8), scales)


def quantise(graph: Graph, images: np.ndarray, compute: Compute, in_float: Collection[str] = ()) -> Quantised:
    """Choose what everything is rounded to, by what normalised images (batch, channels, height, width) become.

    `graph`: the network in float32, its BatchNorms folded. `compute`: what one node gives. `in_float`: layers that
    compute in float32. The network is walked through once, with each tensor as it is in float32 and as it is with all
    that was rounded before. A layer's bias takes up what the means of its channels are off by (bias correction, Nagel
    et al. 2019, as above).
    """
    return _Walk(graph, compute, frozenset(in_float)).through(images)


class _Walk:
    def __init__(self, graph: Graph, compute: Compute, in_float: frozenset[str]):
        self.weights, self.compute = graph.constants, compute
        self.wiring = Wiring(graph)
        self.exact = self.wiring.exact_tensors(in_float)
        self.gains = importance(self.wiring.network, graph.constants)
        self.found = Quantised({}, {}, {}, {}, {}, in_float, np.zeros(0))

    def through(self, images: np.ndarray) -> Quantised:
        entry, network = self.wiring.entry, self.wiring.network
        last_reader = {name: node.output for node in network for name in node.inputs}
        values = {entry: (images, self._rounded(entry, images, np.ones(images.shape[1])))}
        for node in network:
            if node.operator in LAYERS:
                values[node.output] = self._layer(node, *values[node.inputs[0]])
            else:
                exact, rounded = (
                    _computed(node, [values[name][version] for name in node.inputs]) for version in (0, 1)
                )
                values[node.output] = exact, self._after(node, rounded)
            for name in {name for name in node.inputs if last_reader[name] == node.output}:
                values.pop(name, None)
        self.found.logits = values[LAST][1]
        return self.found

    def _rounded(self, name: str, x: np.ndarray, factors: np.ndarray | None = None) -> np.ndarray:
        """x as the tensor `name` holds it from now on. `factors`: those of the tensor it is made of or added to."""
        if name in self.exact:
            return x
        if factors is None:
            factors = factors_of(x, self.gains[name])
        scale, zero = best_range(x / by_channel(factors, x), self.gains[name] * factors**2)
        return self._with(name, Activation(scale, zero, factors), x)

    def _with(self, name: str, activation: Activation, x: np.ndarray) -> np.ndarray:
        """x rounded, and noted how."""
        self.found.activations[name] = activation
        rounded = activation.rounded(x)
        squares = ((rounded - x) ** 2).mean((0, *range(2, x.ndim)), dtype=np.float64)
        self.found.noise[name] = float(squares @ self.gains[name])
        return rounded

    def _factors(self, *names: str) -> np.ndarray | None:
        return next((self.found.activations[name].factors for name in names if name in self.found.activations), None)

    def _layer(self, node: Node, exact: np.ndarray, rounded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        name, (source, weight, bias) = node.output, node.inputs
        around = (0, 2, 3)[: 1 if exact.ndim == 2 else 3]
        wanted = self.compute(node, self.weights, exact)
        self.found.multiply_adds[name] = self.weights[weight].size * int(np.prod(wanted.shape[2:]))
        largest = np.abs(self.weights[bias]) + np.abs(wanted).max(around)
        used = self._rounded_weight(name, self.weights[weight], self.found.activations.get(source), largest)
        found = self.compute(node, {**self.weights, weight: used}, rounded)
        correction = (wanted - found).mean(around, dtype=np.float64)
        self.found.biases[name] = self.weights[bias] + correction
        return wanted, self._before_activation(name, found + by_channel(correction, found))

    def _rounded_weight(
        self, name: str, weight: np.ndarray, given: Activation | None, largest_outputs: np.ndarray
    ) -> np.ndarray:
        """What the weight of a layer is, rounded. `given`: how its input is rounded, if it is."""
        factors, least = np.ones(1, np.float32), np.zeros(len(weight))
        if given:
            factors = by_input(weight, given.factors)
            # A dead channel has hardly a weight, but a bias, which must fit into int32 all the same.
            least = largest_outputs / (given.scale * LARGEST_BIAS)
        whole, scales = self.found.layers[name] = quantised_weight(weight * factors, least)
        return (whole * scales.reshape(-1, *[1] * (whole.ndim - 1)) / factors).astype(np.float32)

    def _before_activation(self, name: str, x: np.ndarray) -> np.ndarray:
        """A layer's output: rounded where the next nodes see it, and only where they tell its values apart."""
        kind = self.wiring.activation_after(name)
        if kind == "Relu" or name == LAST:
            return x
        if kind is None:
            partners = [partner for add in self.wiring.readers[name] if add.operator == "Add" for partner in add.inputs]
            return self._rounded(name, x, self._factors(*partners))
        if name in self.exact:
            return x
        if kind == "HardSigmoid":  # constant outside of -3 to 3
            seen, factors = np.clip(x, -3, 3), np.ones(x.shape[1])
        else:  # hard-swish is 0 below -3
            seen = np.maximum(x, -3)
            factors = factors_of(seen, self.gains[name])
        scale, zero = best_range(seen / by_channel(factors, x), self.gains[name] * factors**2)
        return self._with(name, Activation(scale, zero, factors), seen)

    def _after(self, node: Node, x: np.ndarray) -> np.ndarray:
        """What another node than a layer gives, rounded."""
        if node.operator == "HardSigmoid":
            if self.wiring.activation_after(node.inputs[0]) == "HardSwish":
                return x  # its two parts are computed as one, in float32
            return self._with(node.output, Activation(np.float32(1 / 255), 0, np.ones(x.shape[1])), x)
        if node.operator == "Flatten":
            self.found.activations[node.output] = self.found.activations[node.inputs[0]]
            return x
        if node.operator == "Relu" or self.wiring.is_hard_swish(node):
            return self._rounded(node.output, x)
        return self._rounded(node.output, x, self._factors(*node.inputs))


def _computed(node: Node, values: list[np.ndarray]) -> np.ndarray:
    """What a node that has no weights gives."""
    x, y = values[0], values[-1]
    if node.operator == "Mul":
        return x * y
    if node.operator == "Add":
        return x + y
    if node.operator == "Relu":
        return np.maximum(x, 0)
    if node.operator == "Flatten":
        return x.reshape(len(x), -1)
    if node.operator == "GlobalAveragePool":
        return x.mean((2, 3), keepdims=True)
    gate = np.clip(x * np.float32(1 / 6) + np.float32(0.5), 0, 1)
    return gate if node.operator == "HardSigmoid" else x * gate
