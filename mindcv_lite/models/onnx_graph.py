"""The network as ONNX operators, put together along the block table like the network in mobilenetv3.py."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mindcv_lite.models.block_tables import ROWS_BEGIN, VARIANTS, Part
from mindcv_lite.models.folding import fold_norms
from mindcv_lite.recipe.keys import Augmentation, Model, Recipe

INPUT, LAST = "images", "logits"
PREPARED = "prepared"  # the images that a file has resized and cropped
LAYERS = ("Conv", "Gemm")  # the nodes with weights
NUMBER_FORMATS = {"float32": 1, "float16": 10}  # ONNX's numbers of them
# Operator sets before 11 mean other things by the same operators. HardSwish came with 14; the default is older, because
# MindSpore Lite's converter does not know it.
OLDEST_OPSET, DEFAULT_OPSET, HARD_SWISH_OPSET = 11, 13, 14
# How ONNX resizes as OpenCV does, and MindSpore by it. It has no mean over an area. For `nearest`, onnxruntime computes
# in float32 what OpenCV does in float64, and takes another pixel for 1.6 % of them.
RESIZES = {
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "bicubic": {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75},
}


class Node(NamedTuple):
    """An operator, what goes in, and what comes out, whose name is the node's too."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


@dataclass
class Graph:
    """Nodes in the order in which they compute, and the arrays that they read. `size`: height and width so far."""

    constants: dict[str, np.ndarray]
    size: tuple[int, int]
    opset: int = DEFAULT_OPSET
    precision: str = "float32"  # of the output
    takes_any_size: bool = False  # images of any height and width, the same for a batch
    nodes: list[Node] = field(default_factory=list)

    def shape_of(self, images: np.ndarray) -> list[int | str]:
        """The shape of one image that the graph takes, where `images` is a batch of some that it takes."""
        return ["height", "width", images.shape[3]] if self.takes_any_size else [*images.shape[1:]]

    def add(self, operator: str, output: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(Node(operator, inputs, output, attributes))
        return output

    def layer(self, operator: str, name: str, x: str, **attributes: Any) -> str:
        """An operator with the weight and the bias of the layer `name`."""
        return self.add(operator, name, x, f"{name}.weight", f"{name}.bias", **attributes)

    def activation(self, kind: str, output: str, x: str) -> str:
        if kind == "relu":
            return self.add("Relu", output, x)
        if self.opset >= HARD_SWISH_OPSET:
            return self.add("HardSwish", output, x)
        return self.add("Mul", output, x, self.hard_sigmoid(f"{output}.gate", x))

    def hard_sigmoid(self, output: str, x: str) -> str:
        # ONNX's own slope is 0.2. Its offset is 0.5 already: OpenCV, where it is told so, takes any product with the
        # result for a HardSwish, the one of squeeze-excite too, and is silently wrong (4.8 to 5.0).
        return self.add("HardSigmoid", output, x, alpha=1 / 6)

    def convolution(self, name: str, x: str, stride: int = 1, group: int = 1, same: bool = False) -> str:
        """All attributes are written: OpenCV before 5.0 and MindSpore Lite refuse a file without `kernel_shape`."""
        kernel = self.constants[f"{name}.weight"].shape[-1]
        around = [_same_padding(side, kernel, stride) if same else (kernel // 2, kernel // 2) for side in self.size]
        height, width = (
            (side + before + after - kernel) // stride + 1
            for side, (before, after) in zip(self.size, around, strict=True)
        )
        self.size = height, width
        pads, ones = [before for before, _ in around] + [after for _, after in around], [1, 1]
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads, "dilations": ones}
        return self.layer("Conv", name, x, **shape, group=group)


class Wiring:
    """Who reads what in a graph."""

    def __init__(self, graph: Graph):
        self.nodes = {node.output: node for node in graph.nodes}
        self.readers: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        first = next(index for index, node in enumerate(graph.nodes) if node.operator in LAYERS)
        self.entry = graph.nodes[first].inputs[0]  # the normalised images
        last = next(index for index, node in enumerate(graph.nodes) if node.output == LAST)
        self.network = graph.nodes[first : last + 1]  # without normalising and softmax

    def is_hard_swish(self, node: Node) -> bool:
        """Whether the node gives a hard-swish, as one operator or as its second part."""
        gate = self.nodes.get(node.inputs[-1])
        by_parts = node.operator == "Mul" and gate is not None and gate.inputs[0] == node.inputs[0]
        return by_parts or node.operator == "HardSwish"

    def activation_after(self, name: str) -> str | None:
        """What a layer's output goes through before the next: Relu, HardSigmoid, HardSwish, or nothing."""
        readers = self.readers[name]
        if any(self.is_hard_swish(node) for node in readers):
            return "HardSwish"
        return next((node.operator for node in readers if node.operator in ("Relu", "HardSigmoid")), None)

    def is_rounded(self, name: str) -> bool:
        """Whether a tensor of the network is rounded, where all layers compute in integers: not what only a Relu reads,
        nor the logits; what is flattened is rounded already."""
        node = self.nodes.get(name)
        if node is None or node.operator not in LAYERS:
            return node is None or node.operator != "Flatten"
        return name != LAST and self.activation_after(name) != "Relu"

    def exact_tensors(self, in_float: Collection[str]) -> set[str]:
        """What is not rounded because these layers are in float32: what goes from them into hard-swish or a gate, and
        what they alone read."""
        exact = {name for name in in_float if self.activation_after(name) in ("HardSwish", "HardSigmoid")}
        for name, readers in self.readers.items():
            node = self.nodes.get(name)
            activated = node is not None and (node.operator == "Relu" or self.is_hard_swish(node))
            if (activated or name == self.entry) and all(reader.output in in_float for reader in readers):
                exact.add(name)
        return exact

    def stored_as(self, layer: str) -> str:
        """The tensor whose factors divide a layer's output: its own, or that of the Relu behind it."""
        return self.readers[layer][0].output if self.activation_after(layer) == "Relu" else layer


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: as many outputs as strides begin in `side`; an odd one goes behind."""
    total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
    return total // 2, total - total // 2


def network_graph(
    recipe: Recipe,
    parameters: Mapping[str, np.ndarray],
    include_preprocess: bool,
    softmax: bool,
    opset: int = DEFAULT_OPSET,
    precision: str = "float32",
    include_resize: bool = False,
) -> Graph:
    """The network of `recipe` in evaluation: `images`, (batch, channels, height, width), to `logits`, (batch, classes).

    `include_preprocess`: the images are uint8 (batch, height, width, channels), and normalised here. `softmax`: the
    output is `probabilities`. `opset`: the number of ONNX's operator set. `precision`: float32 or float16, of weights,
    logits and probabilities, and of the images unless they are uint8. `include_resize`: with `include_preprocess`, the
    images are of any height and width, and resized and cropped here as in validation.
    """
    with np.errstate(over="ignore"):  # a weight beyond float16 is infinite then, and so are the predictions
        folded = {name: value.astype(precision) for name, value in fold_norms(parameters, recipe.model.bn_eps).items()}
    graph = Graph(folded, recipe.augmentation.input_size, opset, precision, include_resize)
    x = INPUT
    if include_preprocess:
        x = add_floats(graph, x)
        if include_resize:
            x = _add_resize(graph, x, recipe.augmentation, recipe.model.in_channels)
        x = add_normalize(graph, x, recipe.augmentation.mean, recipe.augmentation.std)
        if precision != "float32":
            x = graph.add("Cast", "rounded", x, to=NUMBER_FORMATS[precision])
    x = add_network(graph, x, recipe.model)
    if softmax:
        graph.add("Softmax", "probabilities", x, axis=-1)
    return graph


def add_network(graph: Graph, x: str, model: Model) -> str:
    """Normalised images (batch, channels, height, width) -> logits (batch, classes)."""
    x = _add_features(graph, x, model.model, model.conv_padding)
    return _add_classifier(graph, x, VARIANTS[model.model].activation)


def add_floats(graph: Graph, x: str) -> str:
    """uint8 (batch, height, width, channels) -> float32 (batch, channels, height, width), from 0 to 255."""
    x = graph.add("Transpose", "transposed", x, perm=[0, 3, 1, 2])
    return graph.add("Cast", "floats", x, to=NUMBER_FORMATS["float32"])


def add_normalize(graph: Graph, x: str, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """(batch, channels, height, width), by the mean and the deviation of each channel."""
    for name, values in (("mean", mean), ("std", std)):
        graph.constants[name] = np.array(values, np.float32).reshape(-1, 1, 1)
    x = graph.add("Sub", "centred", x, "mean")
    return graph.add("Div", "normalised", x, "std")


def _add_resize(graph: Graph, x: str, augmentation: Augmentation, channels: int) -> str:
    """(batch, channels, any height, any width) -> (batch, channels, *input_size), as validation prepares images."""
    wanted, resized = augmentation.input_size, augmentation.resized_size

    def whole(name: str, *numbers: int) -> str:
        graph.constants[name] = np.array(numbers, np.int64)
        return name

    shape = graph.add("Shape", "shape", x)  # (batch, channels, height, width)
    sides = graph.add("Slice", "sides", shape, whole("two", 2), whole("four", 4))
    if resized[0] == resized[1]:  # the shorter side becomes that long
        shorter = graph.add("ReduceMin", "shorter", sides, axes=[0], keepdims=1)
        longer = graph.add("Mul", "sides_times_resized", sides, whole("resized_side", resized[0]))
        covering = graph.add("Div", "covering", longer, shorter)  # whole numbers, rounded down
    else:  # the largest part of that shape, from the centre, becomes that large
        covering = whole("covering", *resized)
        turned = graph.add("Gather", "width_height", sides, whole("one_zero", 1, 0))
        scaled = graph.add("Mul", "twice_scaled", turned, whole("twice_resized", 2 * resized[0], 2 * resized[1]))
        rounded_up = graph.add("Add", "scaled_and_half", scaled, whole("other_side", resized[1], resized[0]))
        shaped = graph.add("Div", "shaped", rounded_up, whole("twice_other_side", 2 * resized[1], 2 * resized[0]))
        x = _add_crop(graph, "part", x, sides, graph.add("Min", "part_sides", sides, shaped), half_up=True)
    outer = graph.add("Slice", "batch_channels", shape, whole("zero", 0), "two")
    sizes = graph.add("Concat", "sizes", outer, covering, axis=0)
    x = graph.add("Resize", "resized", x, "", "", sizes, **RESIZES[augmentation.interpolation])
    x = graph.add("Round", "whole_levels", x)
    if augmentation.interpolation == "bicubic":
        for name, level in (("black", 0), ("white", 255)):
            graph.constants[name] = np.array(level, np.float32)
        x = graph.add("Clip", "levels", x, "black", "white")
    x = _add_crop(graph, "cropped", x, covering, whole("input_size", *wanted), half_up=False)
    return graph.add("Reshape", PREPARED, x, whole("prepared_shape", 0, channels, *wanted))  # now its sides are known


def _add_crop(graph: Graph, name: str, x: str, sides: str, wanted: str, half_up: bool) -> str:
    """The centre of x: `wanted` of its `sides`, both height and width. `half_up`: half a pixel is rounded up."""
    rest = graph.add("Sub", f"{name}.rest", sides, wanted)
    graph.constants |= {"halves": np.array([2], np.int64), "height_width": np.array([2, 3], np.int64)}
    if half_up:
        graph.constants["one"] = np.array([1], np.int64)
        rest = graph.add("Add", f"{name}.rest_up", rest, "one")
    begin = graph.add("Div", f"{name}.begin", rest, "halves")
    end = graph.add("Add", f"{name}.end", begin, wanted)
    return graph.add("Slice", name, x, begin, end, "height_width")


def _add_features(graph: Graph, x: str, model: str, conv_padding: str) -> str:
    """Stem, rows and last convolution: (batch, channels, height, width) -> (batch, last, height / 32, width / 32)."""
    variant = VARIANTS[model]
    x = graph.convolution("features.0", x, stride=2, same=conv_padding == "same")
    x = graph.activation(variant.activation, "features.2", x)
    for index, (row, parts) in enumerate(variant.bottlenecks(), ROWS_BEGIN):
        y = _add_parts(graph, f"features.{index}", x, parts, conv_padding != "symmetric")
        has_shortcut = row.stride == 1 and parts[0].inputs == row.out
        x = graph.add("Add", f"features.{index}", x, y) if has_shortcut else y
    last = ROWS_BEGIN + len(variant.rows)
    x = graph.convolution(f"features.{last}", x)
    return graph.activation(variant.activation, f"features.{last + 2}", x)


def _add_parts(graph: Graph, name: str, x: str, parts: list[Part], same: bool) -> str:
    """One bottleneck without its shortcut. A BatchNorm that was folded still counts in the names of the layers."""
    for part in parts:
        layer = f"{name}.layers.{part.index}"
        if part.name == "squeeze_excite":
            x = _add_squeeze_excite(graph, layer, x)
        else:
            x = graph.convolution(layer, x, part.stride, part.group, same and part.name == "depthwise")
        if part.activation:
            x = graph.activation(part.activation, f"{name}.layers.{part.index + 2}", x)
    return x


def _add_squeeze_excite(graph: Graph, name: str, x: str) -> str:
    s = graph.add("GlobalAveragePool", f"{name}.mean", x)  # (batch, channels, 1, 1)
    s = graph.convolution(f"{name}.conv_reduce", s)
    s = graph.add("Relu", f"{name}.relu", s)
    s = graph.convolution(f"{name}.conv_expand", s)
    return graph.add("Mul", name, x, graph.hard_sigmoid(f"{name}.gate", s))


def _add_classifier(graph: Graph, x: str, activation: str) -> str:
    """(batch, last, height, width) -> logits (batch, classes)."""
    x = graph.add("GlobalAveragePool", "mean_of_features", x)
    x = graph.add("Flatten", "flattened", x)  # (batch, last)
    x = graph.layer("Gemm", "classifier.0", x, transB=1)
    x = graph.activation(activation, "classifier.1", x)
    return graph.add("Gemm", LAST, x, "classifier.3.weight", "classifier.3.bias", transB=1)
