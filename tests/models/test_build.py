"""Which layer a parameter belongs to, and what freezing keeps still."""

from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, ops

from mindcv_lite.cpu_kernels import pooling
from mindcv_lite.errors import UserError
from mindcv_lite.models import mobilenetv3
from mindcv_lite.models.build import build_network, layer_names, layer_of, moving_statistics
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("graph_mode")

LAYERS = {
    "mobilenet_v3_small_100": {
        "features.0.weight": 0,
        "features.1.gamma": 0,
        "features.3.layers.0.weight": 1,
        "features.3.layers.3.conv_reduce.bias": 1,
        "features.4.layers.0.weight": 2,
        "features.12.layers.7.weight": 10,
        "features.13.layers.8.beta": 11,
        "features.14.weight": 12,
        "features.15.beta": 12,
        "classifier.0.weight": 13,
        "classifier.3.bias": 13,
    },
    "mobilenet_v3_large_100": {
        "features.0.weight": 0,
        "features.1.beta": 0,
        "features.3.layers.0.weight": 1,
        "features.13.layers.0.weight": 11,
        "features.17.layers.6.conv_reduce.weight": 15,
        "features.18.weight": 16,
        "features.19.gamma": 16,
        "classifier.0.bias": 17,
        "classifier.3.weight": 17,
    },
}


@pytest.mark.parametrize("model", LAYERS)
def test_a_parameter_belongs_to_the_layer_of_its_index(model):
    assert {name: layer_of(name, model) for name in LAYERS[model]} == LAYERS[model]
    names = layer_names(model)
    assert len(names) == max(LAYERS[model].values()) + 1
    assert (names[0], names[1], names[-3:]) == ("stem", "row 1", [f"row {len(names) - 3}", "last convolution", "head"])


def test_pooling_and_squeeze_excite_on_a_cpu_are_those_of_an_accelerator_in_two_dimensions(recipe, pynative_mode):
    assert build_network(recipe(num_classes=5).model, "O0", "Ascend").spatial_mean is mobilenetv3.spatial_mean
    assert build_network(recipe(num_classes=5).model, "O0").spatial_mean is pooling.spatial_mean
    random = np.random.default_rng(0)
    x, dy = (Tensor(random.standard_normal((2, 3, 5, 7)).astype(np.float32)) for _ in range(2))
    gates = Tensor(random.random((2, 3, 1, 1)).astype(np.float32))
    results = []
    for ways in (mobilenetv3, pooling):

        def excited(x: Tensor, gates: Tensor, ways: Any = ways) -> Tensor:
            return (ways.scale_channels(x, gates + ways.spatial_mean(x)) * dy).sum()

        results.append([ways.spatial_mean(x), ways.scale_channels(x, gates), *ops.grad(excited, (0, 1))(x, gates)])
    for accelerated, flat in zip(*results, strict=True):
        np.testing.assert_allclose(flat.asnumpy(), accelerated.asnumpy(), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ freezing


@pytest.mark.parametrize(
    ("freeze", "prefixes"),
    [
        (1, ("features.3.",)),  # and not features.10 ... features.13
        (3, ("features.3.", "features.4.", "features.5.")),
        (11, tuple(f"features.{index}." for index in range(3, 14))),
        ("backbone", ("features.",)),
        (None, ()),
    ],
)
def test_freezing_takes_exactly_its_rows_out_of_training(recipe, freeze, prefixes):
    keys = {} if freeze is None else {"freeze": freeze}
    network = build_network(recipe(model="mobilenet_v3_small_075", num_classes=5, **keys).model, "O0")
    names = [parameter.name for parameter in network.get_parameters()]
    trained = {
        name
        for name in names
        if not name.startswith(prefixes) and not name.endswith(("moving_mean", "moving_variance"))
    }
    assert {parameter.name for parameter in network.trainable_params()} == trained
    gathered = {name for name in names if not name.startswith(prefixes) and "moving_" in name}
    assert {statistic.name for statistic in moving_statistics(network)} == gathered


@pytest.mark.parametrize(("size", "rows"), [("small", 11), ("large", 15)])
def test_more_rows_than_the_network_has_cannot_be_frozen(recipe, size, rows):
    model = f"mobilenet_v3_{size}_100"
    with pytest.raises(UserError, match=rf"freeze is {rows + 1}, but {model} has {rows} rows; --freeze {rows}"):
        build_network(recipe(model=model, num_classes=5, freeze=rows + 1).model, "O0")


def test_training_keeps_a_frozen_row_to_the_bit_and_moves_its_neighbours(recipe, world):
    keys = {"model": "mobilenet_v3_small_075", "num_classes": 5, "weight_decay": 0.1, "ema": True}
    given = recipe(freeze=1, **keys)
    mindspore.set_seed(1)
    network = build_network(given.model, "O0")
    optimizer = build_optimizer(network.trainable_params(), given, RateTable(lambda step: 0.1, 1), "CPU")
    step = TrainStep(network, optimizer, given, world(given), 2)
    step.set_train()  # as the product does; it must not wake the frozen BatchNorms
    before = {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}
    random = np.random.default_rng(0)
    for _ in range(2):
        images = random.integers(0, 256, (4, 32, 32, 3), np.uint8)
        step(Tensor(images), Tensor(np.array([0, 4, 2, 1], np.int32)), Tensor(np.ones(4, np.float32)))
    assert int(step.broken_step.asnumpy()) == -1
    assert step.average
    averages, frozen = step.average.of(), 0
    for name, parameter in network.parameters_dict().items():
        is_frozen = name.startswith("features.3.")
        frozen += is_frozen
        assert np.array_equal(parameter.asnumpy(), before[name]) is is_frozen, name
        assert np.array_equal(averages[name].asnumpy(), before[name]) is is_frozen, name
    assert frozen == 14  # 2 convolutions, 2 BatchNorms of four, squeeze-excite of four
