"""Networks with the compiled operators are those without: parameters, random streams, logits and gradients."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops, set_seed

from mindcv_lite.cpu.depthwise import DepthwiseConv2d
from mindcv_lite.cpu.operators import compiled_operators
from mindcv_lite.network import build_network

PADDINGS = ["mindcv", "symmetric", "same"]


@pytest.fixture(scope="module")
def operators():
    path = compiled_operators()
    if not path:
        pytest.skip("no C++ compiler here")
    return path


@pytest.fixture
def pair(operators, recipe, pynative_mode):
    """A network of MindSpore's convolutions and one of ours, each drawn from the same seed."""

    def pair(**keys: object) -> list[nn.Cell]:
        networks = []
        for path in (None, operators):
            set_seed(1)
            networks.append(build_network(recipe(num_classes=7, **keys).model, "O0", path))
        return networks

    return pair


def test_parameters_have_the_same_names_and_draws(pair):
    stock, ours = ({each.name: each.asnumpy() for each in network.get_parameters()} for network in pair())
    assert list(stock) == list(ours)
    assert all(np.array_equal(stock[name], ours[name]) for name in stock)


def test_all_depthwise_convolutions_are_replaced(pair):
    stock, ours = pair(model="mobilenet_v3_large_100")
    assert sum(isinstance(cell, DepthwiseConv2d) for _, cell in ours.cells_and_names()) == 15
    assert not any(isinstance(cell, DepthwiseConv2d) for _, cell in stock.cells_and_names())


@pytest.mark.parametrize("conv_padding", PADDINGS)
@pytest.mark.parametrize("model", ["mobilenet_v3_small_100", "mobilenet_v3_large_100"])
def test_logits_and_all_gradients_are_those_of_the_stock_network(pair, model, conv_padding):
    random = np.random.default_rng(0)
    images = Tensor(random.standard_normal((4, 3, 70, 75)).astype(np.float32))
    weights = Tensor(random.standard_normal((4, 7)).astype(np.float32))
    answers = []
    for network in pair(model=model, conv_padding=conv_padding):
        network.set_train()
        parameters = network.trainable_params()

        def loss(network: nn.Cell = network) -> Tensor:
            return (network(images) * weights).sum()

        value, gradients = ops.value_and_grad(loss, None, parameters)()
        named = {each.name: gradient.asnumpy() for each, gradient in zip(parameters, gradients, strict=True)}
        answers.append((value.asnumpy(), named))
    (expected, expected_gradients), (value, gradients) = answers
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    largest = max(np.abs(gradient).max() for gradient in expected_gradients.values())
    for name, gradient in gradients.items():  # some are zero but for rounding: a BatchNorm takes off what they add
        scale = np.abs(expected_gradients[name]).max()
        error = 5e-6 * scale + 2e-7 * largest
        np.testing.assert_allclose(gradient, expected_gradients[name], rtol=0, atol=error, err_msg=name)
