"""Networks with the compiled CPU kernels are those without: parameters, random streams, logits and gradients."""

import numpy as np
import pytest
from mindspore import ParameterTuple, Tensor, nn, ops, set_seed

from mindcv_lite.cpu_kernels.depthwise import DepthwiseConv2d
from mindcv_lite.cpu_kernels.norm import BatchNormAct2d
from mindcv_lite.cpu_kernels.stem import StemConv2d
from mindcv_lite.models.build import build_network, moving_statistics
from mindcv_lite.models.mobilenetv3 import Bottleneck

NETWORKS = [
    ("mobilenet_v3_large_100", "mindcv"),
    ("mobilenet_v3_small_100", "mindcv"),
    ("mobilenet_v3_small_100", "symmetric"),
    ("mobilenet_v3_small_100", "same"),
]


@pytest.fixture
def pair(operators, recipe, pynative_mode):
    """A network of MindSpore's convolutions and one of ours, each drawn from the same seed."""

    def pair(**keys: object) -> list[nn.Cell]:
        networks = []
        for path in (None, operators):
            set_seed(1)
            networks.append(build_network(recipe(num_classes=7, **keys).model, "O0", cpu_kernels=path))
        return networks

    return pair


def test_parameters_have_the_same_names_and_draws(pair):
    stock, ours = ({each.name: each.asnumpy() for each in network.get_parameters()} for network in pair())
    assert list(stock) == list(ours)
    assert all(np.array_equal(stock[name], ours[name]) for name in stock)


@pytest.mark.parametrize(("kind", "count"), [(StemConv2d, 1), (DepthwiseConv2d, 15), (BatchNormAct2d, 46)])
def test_stem_depthwise_convolutions_and_norms_are_replaced(pair, kind, count):
    stock, ours = pair(model="mobilenet_v3_large_100")
    assert sum(isinstance(cell, kind) for _, cell in ours.cells_and_names()) == count
    assert not any(isinstance(cell, kind) for _, cell in stock.cells_and_names())


def layers_of(network: nn.Cell) -> list[nn.Cell]:
    """What is called one after the other, from the images on, shortcuts left out."""
    return [layer for cell in network.features for layer in (cell.layers if isinstance(cell, Bottleneck) else [cell])]


def gradients_of(cell: nn.Cell, x: Tensor, dy: np.ndarray) -> list[np.ndarray]:
    """Of the sum of dy times the output for x: by x, then by the parameters."""
    parameters = ParameterTuple(cell.set_train().trainable_params())
    by_x, by_parameters = ops.grad(lambda x: (cell(x) * Tensor(dy)).sum(), 0, parameters)(x)
    return [gradient.asnumpy() for gradient in (by_x, *by_parameters)]


@pytest.mark.parametrize(("model", "conv_padding"), NETWORKS)
def test_gradients_of_each_layer_are_those_of_the_stock_layer(pair, model, conv_padding):
    random = np.random.default_rng(0)
    x = Tensor(random.standard_normal((2, 3, 224, 224)).astype(np.float32))
    stock_layers, layers = map(layers_of, pair(model=model, conv_padding=conv_padding))
    for index, (stock, ours) in enumerate(zip(stock_layers, layers, strict=True)):
        if isinstance(ours, BatchNormAct2d) and isinstance(layers[min(index + 1, len(layers) - 1)], nn.Identity):
            stock = nn.SequentialCell(stock, stock_layers[index + 1])
        y = ours.set_train()(x)
        if isinstance(ours, StemConv2d | DepthwiseConv2d | BatchNormAct2d):
            dy = random.standard_normal(y.shape).astype(np.float32)
            # The sums that gamma and beta take of all pixels are held to float64, beside which MindSpore's are off by
            # up to 3e-6: see test_operators.
            compared = 1 if isinstance(ours, BatchNormAct2d) else 2
            pairs = zip(gradients_of(ours, x, dy)[:compared], gradients_of(stock, x, dy)[:compared], strict=True)
            for found, expected in pairs:
                error = np.abs(found - expected).max() / np.abs(expected).max()
                assert error <= 1e-6, f"layer {index}, {type(ours).__name__}: {error}"
        x = y


@pytest.mark.parametrize(("model", "conv_padding"), NETWORKS)
def test_logits_and_all_gradients_are_those_of_the_stock_network(pair, model, conv_padding):
    random = np.random.default_rng(0)
    images = Tensor(random.standard_normal((4, 3, 70, 75)).astype(np.float32))
    weights = Tensor(random.standard_normal((4, 7)).astype(np.float32))
    results = []
    for network in pair(model=model, conv_padding=conv_padding):
        network.set_train()
        parameters = network.trainable_params()

        def loss(network: nn.Cell = network) -> Tensor:
            return (network(images) * weights).sum()

        value, gradients = ops.value_and_grad(loss, None, parameters)()
        named = {each.name: gradient.asnumpy() for each, gradient in zip(parameters, gradients, strict=True)}
        statistics = np.concatenate([statistic.asnumpy() for statistic in moving_statistics(network)])
        logits = network.set_train(False)(images).asnumpy()
        results.append((value.asnumpy(), named, statistics, logits))
    (expected, expected_gradients, *expected_numbers), (value, gradients, *numbers) = results
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, wanted in zip(numbers, expected_numbers, strict=True):  # the moving statistics, and logits by them
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    largest = max(np.abs(gradient).max() for gradient in expected_gradients.values())
    # Some are zero but for rounding: a BatchNorm takes off what they add. The stock network's own gradients move
    # as much, by up to 2.2e-5 of a parameter's largest, when the last bit of the images does.
    for name, gradient in gradients.items():
        scale = np.abs(expected_gradients[name]).max()
        error = 3e-5 * scale + 2e-7 * largest
        np.testing.assert_allclose(gradient, expected_gradients[name], rtol=0, atol=error, err_msg=name)


def test_frozen_rows_keep_still_and_let_gradients_through(pair):
    images = Tensor(np.random.default_rng(0).standard_normal((4, 3, 64, 64)).astype(np.float32))
    results = []
    for network in pair(freeze=2):
        network.set_train()
        frozen = list(network.features[3].get_parameters())
        before = [each.asnumpy() for each in frozen]
        parameters = network.trainable_params()
        gradients = ops.grad(lambda images, network=network: network(images).sum(), None, parameters)(images)
        assert all(np.array_equal(each.asnumpy(), value) for each, value in zip(frozen, before, strict=True))
        results.append({each.name: grad.asnumpy() for each, grad in zip(parameters, gradients, strict=True)})
    expected, found = results
    stem = "features.0.weight"
    assert np.abs(expected[stem]).max() > 0
    np.testing.assert_allclose(found[stem], expected[stem], rtol=0, atol=3e-5 * np.abs(expected[stem]).max())
