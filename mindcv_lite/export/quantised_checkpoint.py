"""The numbers of an int8 file, from the parameters of a network that was trained with everything rounded."""

from collections.abc import Mapping

import numpy as np

from mindcv_lite.export.quantisation import (
    LARGEST_BIAS,
    LEAST_SCALE,
    Activation,
    Layer,
    Quantised,
    by_input,
    quantised_weight,
)
from mindcv_lite.models.folding import norm_of
from mindcv_lite.models.onnx_graph import INPUT, LAYERS, Graph, Wiring
from mindcv_lite.models.quantised import FACTORS, LOG_SCALE, ZERO, quantiser_name


def quantised_of(graph: Graph, parameters: Mapping[str, np.ndarray], bn_eps: float) -> Quantised:
    """What everything in `graph` is rounded to. `graph`: of the same parameters, in float32, its BatchNorms folded."""
    wiring = Wiring(graph)
    activations: dict[str, Activation] = {}
    for name in (wiring.entry, *(node.output for node in wiring.network)):
        quantiser = quantiser_name(INPUT if name == wiring.entry else name)
        if f"{quantiser}.{LOG_SCALE}" in parameters:
            log_scale, zero, factors = (parameters[f"{quantiser}.{part}"] for part in (LOG_SCALE, ZERO, FACTORS))
            activations[name] = Activation(np.exp(log_scale)[0], int(zero[0]), factors)
        elif wiring.nodes[name].operator == "Flatten":
            activations[name] = activations[wiring.nodes[name].inputs[0]]
    layers, biases = {}, {}
    for node in wiring.network:
        if node.operator in LAYERS:
            source, weight, bias = node.inputs
            biases[node.output] = graph.constants[bias].astype(np.float64)
            layer = _layer(weight.removesuffix(".weight"), parameters, activations[source], bn_eps)
            least = np.abs(biases[node.output]) / (activations[source].scale * LARGEST_BIAS)
            layers[node.output] = _with_scales_from(layer, least)
    return Quantised(activations, layers, biases, {}, {}, frozenset(), np.zeros(0))


def _layer(name: str, parameters: Mapping[str, np.ndarray], given: Activation, bn_eps: float) -> Layer:
    """A layer's weight, rounded as in training: before the BatchNorm scales each output, which leaves its integers."""
    weight = parameters[f"{name}.weight"]
    whole, scales = quantised_weight(weight * by_input(weight, given.factors))
    norm = norm_of(name)
    if f"{norm}.gamma" not in parameters:
        return Layer(whole, scales)
    scale = parameters[f"{norm}.gamma"] / np.sqrt(parameters[f"{norm}.moving_variance"] + np.float32(bn_eps))
    signs = np.sign(scale).astype(np.int8).reshape(-1, *[1] * (whole.ndim - 1))
    return Layer(whole * signs, scales * np.abs(scale))


def _with_scales_from(layer: Layer, least: np.ndarray) -> Layer:
    """The layer with no scale below the `least` (out,) with which its bias fits into int32: of a channel that is dead,
    whose weights hardly matter."""
    scales = np.maximum(layer.scales, np.maximum(least, LEAST_SCALE)).astype(np.float32)
    share = (layer.scales / scales).reshape(-1, *[1] * (layer.weight.ndim - 1))
    return Layer(np.rint(layer.weight * share).astype(np.int8), scales)
