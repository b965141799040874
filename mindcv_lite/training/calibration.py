"""The start of quantisation-aware training: what a network that was trained without rounding is rounded to."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from mindspore import Parameter, Tensor

from mindcv_lite.checkpoints.weights import Weights, load_weights
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.pipeline import evaluation_batches
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.export.quantisation import Activation, quantise
from mindcv_lite.models.build import build_network
from mindcv_lite.models.folding import norm_of
from mindcv_lite.models.onnx_graph import HARD_SWISH_OPSET, LAYERS, Node, Wiring, network_graph
from mindcv_lite.models.quantised import FACTORS, LOG_SCALE, ZERO, quantiser_name
from mindcv_lite.recipe.keys import Recipe

log = logging.getLogger(__name__)

MOST_CALIBRATED = 128  # images; training does what more of them would
CHUNK = 32  # images at once in a layer


def quantised_weights(weights: Weights, images: Split, recipe: Recipe, world: World) -> Weights:
    """The weights with what a network of `recipe`, whose `quantize` is int8, has besides: ranges chosen on some of the
    training images, and biases corrected. Those that have it already come back as they are.

    Every rank must call it. Raises `UserError` if the weights are no whole network of the recipe's classes.
    """
    if weights.card and weights.card.get("quantize"):
        return weights
    if weights.num_classes != recipe.model.num_classes:
        raise UserError(
            f"{weights.path}: its num_classes is {weights.num_classes}, the recipe's {recipe.model.num_classes}, and "
            f"quantize {recipe.model.quantize} begins with a network that was trained for the same classes; train it "
            "for these without --quantize first"
        )
    began = time.perf_counter()
    wanted = build_network(recipe.model, "O0").parameters_dict()
    numbers = world.all_or_none(lambda: _calibrated(weights, images, recipe, world) if world.rank == 0 else {})
    flat = np.concatenate([numbers.get(name, np.zeros(each.size)).ravel() for name, each in wanted.items()])
    parts = np.split(world.sum(flat), np.cumsum([each.size for each in wanted.values()])[:-1])
    found = {
        name: Parameter(Tensor(part.reshape(each.shape).astype(np.float32)), name=name)
        for (name, each), part in zip(wanted.items(), parts, strict=True)
    }
    log.info(
        "quantize %s: the ranges of what flows between the layers are chosen on %d training images, in %.1f s",
        *(recipe.model.quantize, min(MOST_CALIBRATED, len(images)), time.perf_counter() - began),
    )
    return replace(weights, parameters=found)


def _calibrated(weights: Weights, images: Split, recipe: Recipe, world: World) -> dict[str, np.ndarray]:
    """All parameters of the quantised network, by their names.

    Raises `UserError` if the weights do not fit, or an image cannot be decoded.
    """
    network = build_network(replace(recipe.model, quantize=None), "O0")
    load_weights(network, weights)
    parameters = {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}
    graph = network_graph(recipe, parameters, False, False, HARD_SWISH_OPSET)
    cells = dict(network.cells_and_names())

    def compute(node: Node, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        weight, bias = (arrays[name] for name in node.inputs[1:])
        if node.operator == "Gemm":
            return x @ weight.T + bias
        convolve = cells[node.output].conv2d
        chunks = np.array_split(x, -(-len(x) // CHUNK))
        found = [convolve(Tensor(chunk), Tensor(weight)).asnumpy() for chunk in chunks]
        return np.concatenate(found) + bias.reshape(-1, 1, 1)

    quantised = quantise(graph, _some_images(images, recipe, world), compute)
    numbers = parameters | _of_quantisers(quantised.activations)
    for node in Wiring(graph).network:
        if node.operator in LAYERS:
            layer, bias = node.inputs[1].removesuffix(".weight"), node.inputs[2]
            name = f"{norm_of(layer)}.beta"
            numbers[name if name in parameters else bias] += quantised.biases[node.output] - graph.constants[bias]
    return numbers


def _of_quantisers(activations: Mapping[str, Activation]) -> dict[str, np.ndarray]:
    numbers = {}
    for tensor, activation in activations.items():
        name = quantiser_name(tensor)
        numbers[f"{name}.{LOG_SCALE}"] = np.log(activation.scale)
        numbers[f"{name}.{ZERO}"] = np.array(activation.zero)
        numbers[f"{name}.{FACTORS}"] = activation.factors
    return numbers


def _some_images(images: Split, recipe: Recipe, world: World) -> np.ndarray:
    """Training images, drawn by a fixed seed and prepared as for evaluation: float32 (images, channels, height, width),
    normalised."""
    chosen = np.zeros(len(images), bool)
    chosen[np.random.default_rng(0).permutation(len(images))[:MOST_CALIBRATED]] = True
    batches = evaluation_batches(images.part(chosen), recipe, replace(world, rank=0, size=1))
    normalize = Normalize(recipe.augmentation.mean, recipe.augmentation.std)
    return np.concatenate([normalize(Tensor(some)).asnumpy()[weights > 0] for some, _, weights, *_ in batches])
