"""Quantisation-aware training begins with a network that was trained without; its file computes what it computes."""

from dataclasses import replace
from typing import NamedTuple

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.checkpoints.weights import Weights, load_weights
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.datasets.splits import training_splits
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.export.onnx_files import onnx_file, open_onnx
from mindcv_lite.export.qdq_graph import qdq_graph
from mindcv_lite.export.quantised_checkpoint import quantised_of
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.build import build_network
from mindcv_lite.models.onnx_graph import Graph, network_graph
from mindcv_lite.models.quantised import FACTORS, LOG_SCALE, ZERO, quantiser_name
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.training.calibration import quantised_weights
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.resume import numbers_of
from mindcv_lite.training.train_step import TrainStep
from tests.export.conftest import TITLES, blots, random_network

CARD = {"model": "small", "mindcv_lite": "0"}
SIDE = 64


class Start(NamedTuple):
    """`weights`: of a network without rounding; `quantised`: what training begins with."""

    weights: Weights
    images: Split
    recipe: Recipe
    world: World
    quantised: Weights


@pytest.fixture(scope="module", autouse=True)
def few_rows_operator_by_operator(graph_mode):
    """The first rows of the network, which have all that others have, and no graph to compile."""
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    with pytest.MonkeyPatch.context() as patch:
        small = VARIANTS["mobilenet_v3_small_100"]
        patch.setitem(VARIANTS, "mobilenet_v3_small_100", small._replace(rows=(*small.rows[:2], *small.rows[3:5])))
        yield
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.fixture(scope="module")
def start(recipe, world, few_rows_operator_by_operator, tmp_path_factory) -> Start:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(2)
    for number in range(30):
        path = folder / "train" / "abcde"[number % 5] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blots(random, (SIDE, SIDE)).save(path)
    given = recipe(
        image_resize=SIDE, num_classes=len(TITLES), bn_momentum=0, drop_rate=0, data_dir=folder, ckpt_path="x.ckpt"
    )
    weights = random_network(given).weights
    images, _ = training_splits(given)
    given = given.with_keys(quantize="int8")
    return Start(weights, images, given, world(given), quantised_weights(weights, images, given, world(given)))


@pytest.fixture
def network(start) -> nn.Cell:
    network = build_network(start.recipe.model, "O0").set_train(False)
    load_weights(network, start.quantised)
    return network


def pictures(recipe: Recipe, count: int) -> np.ndarray:
    random = np.random.default_rng(1)
    images = Tensor(np.stack([np.asarray(blots(random, (SIDE, SIDE))) for _ in range(count)]))
    return Normalize(recipe.augmentation.mean, recipe.augmentation.std)(images).asnumpy()


def file_of(network: nn.Cell, recipe: Recipe, opset: int, images: np.ndarray) -> tuple[Graph, bytes]:
    parameters = {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}
    graph = network_graph(recipe, parameters, include_preprocess=False, softmax=False, opset=opset)
    graph = qdq_graph(graph, quantised_of(graph, parameters, recipe.model.bn_eps))
    return graph, onnx_file(graph, images, CARD)


@pytest.mark.parametrize("opset", [13, 17])
def test_onnxruntime_computes_the_file_as_the_network_computes(start, network, opset):
    images = pictures(start.recipe, 48)
    for number, parameter in enumerate(network.trainable_params()):  # as if it had been trained
        random = np.random.default_rng(number)
        is_scale = parameter.name.endswith(LOG_SCALE)
        change = 0.03 * random.normal(size=parameter.shape) * (1 if is_scale else parameter.asnumpy())
        parameter.set_data(Tensor((parameter.asnumpy() + change).astype(np.float32)))
    gamma = network.parameters_dict()["features.4.layers.1.gamma"]
    gamma.set_data(Tensor(gamma.asnumpy() * np.where(np.arange(gamma.size) % 3, 1, -1).astype(np.float32)))
    expected = network(Tensor(images)).asnumpy()
    found = open_onnx(file_of(network, start.recipe, opset, images)[1])(images)
    # One rounding here and there apart; a scale, a zero point or a bias of another channel is far more.
    assert ((found - expected) ** 2).mean() < 3e-3 * expected.var()
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.95


def test_the_network_rounds_what_the_file_rounds(start, network):
    graph, _ = file_of(network, start.recipe, 17, pictures(start.recipe, 1))
    rounded = {node.output.removesuffix(".quantised") for node in graph.nodes if node.operator == "QuantizeLinear"}
    names = {name.removesuffix(f".{ZERO}") for name in network.parameters_dict() if name.endswith(f".{ZERO}")}
    assert {quantiser_name(tensor) for tensor in rounded - {"flattened"}} == names


def test_it_begins_near_the_network_without_rounding(start, network):
    plain = build_network(replace(start.recipe.model, quantize=None), "O0").set_train(False)
    load_weights(plain, start.weights)
    images = Tensor(pictures(start.recipe, 48))
    exact, found = plain(images).asnumpy(), network(images).asnumpy()
    assert 1e-6 < ((found - exact) ** 2).mean() / exact.var() < 0.1


def test_weights_batch_norms_and_ranges_are_trained_and_nothing_else(start, network):
    trained = network.set_train().trainable_params()
    kinds = {name.rsplit(".", 1)[-1] for name in network.parameters_dict()}
    assert kinds == {"weight", "bias", "gamma", "beta", "moving_mean", "moving_variance", LOG_SCALE, ZERO, FACTORS}
    assert {each.name.rsplit(".", 1)[-1] for each in trained} == {"weight", "bias", "gamma", "beta", LOG_SCALE}
    statistics = network.parameters_dict()["features.1.moving_mean"]
    before, images = statistics.asnumpy().copy(), Tensor(pictures(start.recipe, 8))
    weights = Tensor(np.random.default_rng(0).normal(size=(8, len(TITLES))).astype(np.float32))
    loss = ops.value_and_grad(lambda: (network(images, Tensor(np.int32(1))) * weights).sum(), None, tuple(trained))
    _, gradients = loss()
    assert [each.name for each, dy in zip(trained, gradients, strict=True) if not dy.asnumpy().any()] == []
    np.testing.assert_array_equal(statistics.asnumpy(), before)


def test_a_state_holds_ranges_and_the_average_of_the_weights_holds_them_too(start, network):
    given = start.recipe.with_keys(ema=True)
    optimizer = build_optimizer(network.trainable_params(), given, RateTable(lambda step: 0.1, 9), "CPU")
    step = TrainStep(network, optimizer, given, start.world, steps_per_epoch=10)
    numbers = numbers_of(step, start.world)
    assert {f"ema.{name}" for name in network.parameters_dict()} | {*network.parameters_dict()} <= {*numbers}
    np.testing.assert_array_equal(numbers["features.2.factors"], start.quantised.parameters["features.2.factors"])
    assert {"moments.features.2.log_scale"} <= {*numbers}


def test_weights_that_are_quantised_already_stay_as_they_are(start):
    card = model_card(start.recipe, TITLES)
    assert card["quantize"] == "int8"
    quantised = replace(start.quantised, card=card)
    assert quantised_weights(quantised, start.images, start.recipe, start.world) is quantised


def test_a_network_of_other_classes_is_refused(start):
    with pytest.raises(UserError, match=r"random.ckpt: its num_classes is 5, the recipe's 7, and quantize int8 begins"):
        quantised_weights(start.weights, start.images, start.recipe.with_keys(num_classes=7), start.world)
