"""The nodes of a quantised network: QuantizeLinear and DequantizeLinear around what computes in integers (QDQ)."""

import numpy as np

from mindcv_lite.export.quantisation import Activation, Quantised
from mindcv_lite.models.onnx_graph import LAYERS, Graph, Node, Wiring


def qdq_graph(graph: Graph, quantised: Quantised) -> Graph:
    """The network of `graph`, a graph in float32, with the numbers of `quantised`. Weights are int8, biases int32."""
    return _Builder(graph, quantised).built()


class _Builder:
    def __init__(self, graph: Graph, quantised: Quantised):
        self.source, self.quantised, self.wiring = graph, quantised, Wiring(graph)
        of_layers = {name for node in graph.nodes if node.operator in LAYERS for name in node.inputs[1:]}
        others = {name: value for name, value in graph.constants.items() if name not in of_layers}
        self.graph = Graph(others, graph.size, graph.opset)
        self.rounded = quantised.activations

    def built(self) -> Graph:
        if self.wiring.entry not in self.wiring.nodes:
            self._round(self.wiring.entry)  # the images, which no node gives
        for node in self.source.nodes:
            if node.operator in LAYERS:
                self._layer(node)
            else:
                inputs = tuple(self._read(name) for name in node.inputs)
                self.graph.add(node.operator, node.output, *inputs, **node.attributes)
            self._round(node.output)
        return self.graph

    def _read(self, name: str) -> str:
        return f"{name}.dequantised" if name in self.rounded else name

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.graph.constants[name] = value
        return name

    def _round(self, name: str) -> None:
        """Round the tensor, if it is one of those. Around a hard-swish, a Mul divides and multiplies by the factors."""
        if name not in self.rounded:
            return
        activation, node, x = self.rounded[name], self.wiring.nodes.get(name), name
        scale = self._constant(f"{name}.scale", np.asarray(activation.scale, np.float32))
        zero = self._constant(f"{name}.zero", np.asarray(activation.zero, np.uint8))
        if node and self.wiring.is_hard_swish(node):
            x = self.graph.add("Mul", f"{name}.divided", x, self._factors(f"{name}.divisors", node, activation, -1))
        x = self.graph.add("QuantizeLinear", f"{name}.quantised", x, scale, zero)
        if node and node.operator in LAYERS and self.wiring.activation_after(name) == "HardSwish":
            x = self.graph.add("DequantizeLinear", f"{name}.undivided", x, scale, zero)
            self.graph.add("Mul", self._read(name), x, self._factors(f"{name}.factors", node, activation, 1))
        else:
            self.graph.add("DequantizeLinear", self._read(name), x, scale, zero)

    def _factors(self, name: str, node: Node, activation: Activation, power: int) -> str:
        layer = node if node.operator in LAYERS else self.wiring.nodes[node.inputs[0]]
        ones = [1] * (self.source.constants[layer.inputs[1]].ndim - 2)
        return self._constant(name, (activation.factors**power).reshape(-1, *ones).astype(np.float32))

    def _layer(self, node: Node) -> None:
        """A layer whose weight takes over the factors of its input, and the division by those of its output."""
        name, (source, weight, bias) = node.output, node.inputs
        stored = self.quantised.activations.get(self.wiring.stored_as(name))
        division = stored.factors if stored else np.ones(1)
        divided = self.quantised.biases[name] / division
        layer = self.quantised.layers[name]
        scales = (layer.scales / division).astype(np.float32)
        weight = self._dequantised(weight, layer.weight, scales)
        if name in self.quantised.in_float:
            self._constant(bias, divided.astype(np.float32))
        else:
            bias_scales = (self.quantised.activations[source].scale * scales).astype(np.float32)
            units = np.rint(divided / bias_scales.astype(np.float64)).astype(np.int32)
            bias = self._dequantised(bias, units, bias_scales)
        self.graph.add(node.operator, name, self._read(source), weight, bias, **node.attributes)

    def _dequantised(self, name: str, whole: np.ndarray, scales: np.ndarray) -> str:
        """An array of whole numbers with a scale for each output, as the floats that the layer reads."""
        self._constant(name, whole)
        self._constant(f"{name}.scales", scales)
        zeros = self._constant(f"{name}.zeros", np.zeros(len(scales), whole.dtype))
        return self.graph.add("DequantizeLinear", f"{name}.dequantised", name, f"{name}.scales", zeros, axis=0)
