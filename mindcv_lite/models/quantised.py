"""A network that computes in training what its int8 file will compute: fake quantisation (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877).

It is put together of the nodes of the ONNX graph, so that the same tensors are rounded as in the file. Between the
layers a channel is divided by its factor, as it is there. Factors and zero points are chosen before the training (see
`export.quantisation`) and stay; weights, BatchNorms and scales are trained.
"""

from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, dtype, nn, ops

from mindcv_lite.cpu_kernels import rounding
from mindcv_lite.models.folding import norm_of
from mindcv_lite.models.mobilenetv3 import MobileNetV3, Operators
from mindcv_lite.models.onnx_graph import HARD_SWISH_OPSET, INPUT, LAYERS, Graph, Node, Wiring, add_network
from mindcv_lite.recipe.keys import Model

LEVELS = 255.0  # of uint8, above the lowest
LARGEST_WEIGHT = 127.0  # of int8, symmetric
LEAST_SCALE, LEAST_UNIT = 1e-10, 1e-30
LOG_SCALE, ZERO, FACTORS = "log_scale", "zero", "factors"  # what the names of a quantiser's parameters end in


def quantiser_name(tensor: str) -> str:
    """What the names of the parameters begin with by which a tensor of the ONNX graph is rounded."""
    return {INPUT: "features.0.input", "mean_of_features": "classifier.0.input"}.get(tensor, tensor)


class QuantisedNetwork(nn.Cell):
    """Logits (batch, classes) of normalised images (batch, channels, height, width), all rounded that the file rounds.

    Its BatchNorms keep their statistics. `network`: its layers compute, its parameters are trained. `number_format`: in
    which layers multiply; all else is float32.
    """

    def __init__(
        self,
        network: MobileNetV3,
        model: Model,
        operators: Operators,
        number_format: Any = dtype.float32,
        cpu_kernels: Path | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.network = network
        for _, cell in network.cells_and_names():
            if isinstance(cell, nn.BatchNorm2d):
                cell.use_batch_statistics = False
        graph = graph_of(network, model)
        maker = _StepMaker(network, graph, operators, number_format, cpu_kernels)
        *nodes, last = Wiring(graph).network
        self.round_images = maker.quantisers[INPUT]
        # In blocks, because MindSpore's compiler calls itself for each turn of a loop, and no more than 1000 times.
        blocks = [maker.block([*some]) for _, some in groupby(nodes, lambda node: node.output.split(".")[:2])]
        # pyrefly: ignore [bad-argument-count, unexpected-keyword]  (MindSpore's decorator hides the signature)
        self.blocks = nn.CellList(blocks, auto_prefix=False)
        self.dropout, self.classify = network.classifier[2], maker.layer(last)

    def construct(self, x: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        """`dropout_seed`: in training, an int32 that is another one in each step."""
        x = self.round_images(x)
        for block in self.blocks:
            x = block(x)
        if dropout_seed is not None:  # x: (batch, hidden)
            x = self.dropout(x, dropout_seed)
        return self.classify(x)  # (batch, classes)


def graph_of(network: nn.Cell, model: Model) -> Graph:
    """The graph of a network's nodes. Its layers pad by themselves: the side of the images does not matter."""
    graph = Graph({each.name: each for each in network.get_parameters()}, (224, 224), HARD_SWISH_OPSET)
    add_network(graph, INPUT, model)
    return graph


class _StepMaker:
    """Makes the cells of a graph's nodes, of the layers of `network`, and the quantisers of its tensors."""

    def __init__(
        self,
        network: MobileNetV3,
        graph: Graph,
        operators: Operators,
        number_format: Any,
        cpu_kernels: Path | None,
    ):
        self.cells, self.number_format = dict(network.cells_and_names()), number_format
        self.wiring = Wiring(graph)
        self.quantisers: dict[str, Quantiser] = {}
        channels = {INPUT: network.features[0].in_channels}
        for name in [INPUT, *(node.output for node in self.wiring.network)]:
            node = self.wiring.nodes.get(name)
            if node:
                is_layer = node.operator in LAYERS
                channels[name] = graph.constants[node.inputs[1]].shape[0] if is_layer else channels[node.inputs[0]]
            if self.wiring.is_rounded(name):
                self.quantisers[name] = Quantiser(quantiser_name(name), channels[name], cpu_kernels)
        self.functions: Mapping[str, Callable] = {
            "Relu": nn.ReLU(),
            "HardSigmoid": nn.HSigmoid(),
            "GlobalAveragePool": operators.spatial_mean,
            "Mul": operators.scale_channels,
            "Add": add,
            "Flatten": flattened,
        }

    def block(self, nodes: list[Node]) -> "Block":
        index_of = {node.output: index for index, node in enumerate(nodes, 1)}  # 0: what comes before the block
        sources = tuple((index_of.get(node.inputs[0], 0), index_of.get(node.inputs[-1], 0)) for node in nodes)
        return Block([self.step(node) for node in nodes], sources)

    def step(self, node: Node) -> "Step":
        if node.operator in LAYERS:
            function = self.layer(node)
        elif node.operator == "HardSwish":
            function = HardSwish(self.quantisers[node.inputs[0]], self.quantisers[node.output])
        else:
            function = self.functions[node.operator]
        return Step(function, node.operator in ("Mul", "Add"), self.quantisers.get(node.output))

    def layer(self, node: Node) -> "Layer":
        source, weight, _ = node.inputs
        name = weight.removesuffix(".weight")
        if source not in self.quantisers:  # flattened, which is rounded as what it was before
            (source,) = self.wiring.nodes[source].inputs
        stored = self.quantisers.get(self.wiring.stored_as(node.output))
        norm = self.cells.get(norm_of(name))
        norm = norm if isinstance(norm, nn.BatchNorm2d) else None
        return Layer(self.cells[name], norm, self.quantisers[source], stored, self.number_format)


class Quantiser(nn.Cell):
    """x (batch, channels, ...), divided by the channels' factors, float32 -> the nearest that uint8 can hold.

    `name`: what the names of its parameters begin with. `cpu_kernels`: the compiled library, on a CPU that has one.
    """

    def __init__(self, name: str, channels: int, cpu_kernels: Path | None = None):
        super().__init__(auto_prefix=False)
        # By its logarithm, a scale stays above 0, and a step of training moves it by a share (Jain et al. 2019,
        # https://arxiv.org/abs/1903.08066).
        self.log_scale = Parameter(Tensor(np.zeros(1, np.float32)), f"{name}.{LOG_SCALE}")
        self.zero = Parameter(Tensor(np.zeros(1, np.float32)), f"{name}.{ZERO}", requires_grad=False)
        self.factors = Parameter(Tensor(np.ones(channels, np.float32)), f"{name}.{FACTORS}", requires_grad=False)
        self.round = Rounding(cpu_kernels)

    def construct(self, x: Tensor) -> Tensor:
        return self.round(x, self.log_scale, self.zero)


class Rounding(nn.Cell):
    """x -> round(x / scale) * scale, between -zero and 255 - zero scales.

    The gradient of x is that of the result within the range, and 0 beyond. The gradient of the scale's logarithm is
    that of LSQ (Esser et al. 2020, https://arxiv.org/abs/1902.08153), times the scale.
    """

    def __init__(self, cpu_kernels: Path | None = None):
        super().__init__()
        self.rint = ops.Rint()
        self.forward = rounding.forward(cpu_kernels) if cpu_kernels else None
        self.gradient = rounding.gradient(cpu_kernels) if cpu_kernels else None

    # pyrefly: ignore [bad-override]
    def construct(self, x: Tensor, log_scale: Tensor, zero: Tensor) -> Tensor:
        scale = ops.exp(log_scale)
        if self.forward is not None:
            return self.forward(x, scale, zero)
        # Bounds that are numbers: by tensors of one element the CPU takes 30 times as long.
        return (ops.clip_by_value(self.rint(x / scale) + zero, 0.0, LEVELS) - zero) * scale

    # pyrefly: ignore [bad-override]
    def bprop(self, x: Tensor, log_scale: Tensor, zero: Tensor, y: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, scale = x.shape[0], ops.exp(log_scale)
        share = (LEVELS * x.size / batch) ** -0.5  # LSQ's
        if self.gradient is not None:
            # pyrefly: ignore [not-iterable]
            dx, summed = self.gradient(dy, x, scale, zero)
            return dx, summed * share, ops.zeros_like(zero)
        is_within = (ops.abs(y - x) <= scale * 0.5001).astype(dtype.float32)  # a tie may be off in its last bits
        # Summed up in two dimensions, which is several times as fast on a CPU.
        summed = (dy * (y - x * is_within)).reshape(batch, -1).sum(1).sum().reshape(1)
        return dy * is_within, summed * share, ops.zeros_like(zero)


class Layer(nn.Cell):
    """x (batch, in, ...) -> (batch, out, ...), by int8 weights: a convolution and its BatchNorm, or a dense layer.

    `given`, `stored`: by whose factors the channels of x and of the result are divided; None: the result's by none.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Dense,
        norm: nn.BatchNorm2d | None,
        given: Quantiser,
        stored: Quantiser | None,
        number_format: Any,
    ):
        super().__init__(auto_prefix=False)
        self.number_format = number_format
        self.weight = layer.weight
        outputs, inputs, *kernel = self.weight.shape
        ones, is_depthwise = (1,) * len(kernel), inputs == 1 < len(given.factors)
        self.by_output, self.by_input = (outputs, 1, *ones), ((-1, 1) if is_depthwise else (1, -1)) + ones
        self.multiply: Any = layer.conv2d if kernel else ops.MatMul(transpose_b=True)
        self.given_factors, self.stored_factors = given.factors, stored.factors if stored else 1.0
        self.given_log_scale = given.log_scale
        self.has_norm = norm is not None
        if norm is None:
            self.bias: Any = layer.bias
        else:
            self.gamma, self.beta, self.epsilon = norm.gamma, norm.beta, norm.eps
            self.mean, self.variance = norm.moving_mean, norm.moving_variance
        self.rint, self.largest = ops.Rint(), ops.ReduceMax()

    def construct(self, x: Tensor) -> Tensor:
        if self.has_norm:  # folded, as in the file
            scale = self.gamma / ops.sqrt(self.variance + self.epsilon)
            bias = (self.beta - self.mean * scale) / self.stored_factors
        else:
            scale, bias = ops.ones_like(self.bias), self.bias / self.stored_factors
        weight = self.weight * self.given_factors.reshape(self.by_input)
        largest = self.largest(ops.abs(weight).reshape(weight.shape[0], -1), 1)
        units = ops.maximum(largest / LARGEST_WEIGHT, LEAST_SCALE)  # (out,)
        scale = scale / self.stored_factors
        weight = self.in_units(weight, units.reshape(self.by_output)) * scale.reshape(self.by_output)
        # The file's biases are whole numbers of what the products of whole numbers stand for.
        units = ops.exp(self.given_log_scale) * units * ops.abs(scale)
        bias = self.in_units(bias, ops.maximum(units, LEAST_UNIT))
        y = self.multiply(x.astype(self.number_format), weight.astype(self.number_format))
        return ops.bias_add(y.astype(dtype.float32), bias)

    def in_units(self, x: Tensor, units: Tensor) -> Tensor:
        """The nearest whole number of units; the gradient passes straight through."""
        return x + ops.stop_gradient(self.rint(x / units) * units - x)


class HardSwish(nn.Cell):
    """Hard-swish, which does not scale: `given` and `stored` divide the channels of x and of the result by factors."""

    def __init__(self, given: Quantiser, stored: Quantiser):
        super().__init__(auto_prefix=False)
        self.hard_swish = nn.HSwish()
        self.given_factors, self.stored_factors = given.factors, stored.factors

    def construct(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return self.hard_swish(x * self.given_factors.reshape(shape)) / self.stored_factors.reshape(shape)


class Block(nn.Cell):
    """The nodes of a bottleneck, or a layer outside of them. `sources`: which two tensors each step takes, if two; 0 is
    the block's input, 1 the result of its first step."""

    def __init__(self, steps: list["Step"], sources: tuple[tuple[int, int], ...]):
        super().__init__(auto_prefix=False)
        # pyrefly: ignore [bad-argument-count, unexpected-keyword]  (MindSpore's decorator hides the signature)
        self.steps, self.sources = nn.CellList(steps, auto_prefix=False), sources

    def construct(self, x: Tensor) -> Tensor:
        values = (x,)
        for step, (first, second) in zip(self.steps, self.sources):  # noqa: B905  (graphs know no strict=)
            values += (step(values[first], values[second]),)
        return values[-1]


class Step(nn.Cell):
    """What a node computes of one or two tensors, rounded if the file rounds it."""

    def __init__(self, function: Callable, takes_two: bool, quantiser: Quantiser | None):
        super().__init__(auto_prefix=False)
        self.function, self.takes_two, self.quantiser = function, takes_two, quantiser

    # pyrefly: ignore [bad-override]
    def construct(self, first: Tensor, second: Tensor) -> Tensor:
        y = self.function(first, second) if self.takes_two else self.function(first)
        return y if self.quantiser is None else self.quantiser(y)


def add(x: Tensor, y: Tensor) -> Tensor:
    """The shortcut's sum: both have the same factors."""
    return x + y


def flattened(x: Tensor) -> Tensor:
    """(batch, channels, 1, 1) -> (batch, channels)."""
    return x.reshape(x.shape[:2])
