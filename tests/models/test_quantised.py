"""A network that is trained with everything rounded: it rounds what the int8 file rounds, and all of it is trained."""

from collections.abc import Callable

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_lite.export.quantisation import Activation
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.build import build_network
from mindcv_lite.models.quantised import LOG_SCALE, ZERO, QuantisedNetwork, Rounding
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.training.optimizers import RateTable, build_optimizer, parameter_groups

SCALE, ZERO_POINT = 0.1, 100.0


@pytest.fixture
def network_of(
    recipe: Callable[..., Recipe], pynative_mode: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., QuantisedNetwork]:
    """A network of few rows and random weights, whose tensors have one range, -10 to 15.5."""
    small = VARIANTS["mobilenet_v3_small_100"]
    monkeypatch.setitem(VARIANTS, "mobilenet_v3_small_100", small._replace(rows=small.rows[2:4]))

    def network_of(**keys: object) -> QuantisedNetwork:
        given = recipe(ckpt_path="x.ckpt", quantize="int8", num_classes=3, **keys)
        network = build_network(given.model, given.precision.amp_level)
        assert isinstance(network, QuantisedNetwork)
        for parameter in network.get_parameters():
            if parameter.name.endswith(LOG_SCALE):
                parameter.set_data(Tensor(np.log([SCALE]).astype(np.float32)))
            if parameter.name.endswith(f".{ZERO}"):
                parameter.set_data(Tensor(np.array([ZERO_POINT], np.float32)))
        return network

    return network_of


def tensors(*shapes: tuple[int, ...], spread: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [(spread * random.normal(size=shape)).astype(np.float32) for shape in shapes]


def gradients_of(rounding: nn.Cell, x: np.ndarray, dy: np.ndarray, log_scale: float) -> tuple[np.ndarray, ...]:
    """The result, and the gradients of x and of the logarithm of the scale."""
    given = Tensor(x), Tensor(np.array([log_scale], np.float32)), Tensor(np.array([ZERO_POINT], np.float32))
    _, gradients = ops.value_and_grad(lambda *inputs: (rounding(*inputs) * Tensor(dy)).sum(), (0, 1))(*given)
    return rounding(*given).asnumpy(), *(each.asnumpy() for each in gradients)


@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (4, 6)])
@pytest.mark.parametrize("by_kernels", [False, True])
def test_rounding_is_numpys_and_its_gradients_are_those_of_lsq(shape, by_kernels, request, pynative_mode):
    library = request.getfixturevalue("operators") if by_kernels else None
    x, dy = tensors(shape, shape, spread=10)
    rounded, dx, dlog = gradients_of(Rounding(library), x, dy, np.log(SCALE))
    scale = np.exp(np.float32(np.log(SCALE)))
    expected = Activation(scale, int(ZERO_POINT), np.ones(shape[1], np.float32)).rounded(x)
    np.testing.assert_allclose(rounded, expected, atol=1e-5)
    assert (expected == expected.max()).any(), "some are beyond the range"
    within = np.abs(expected - x) <= scale / 2
    assert 0.1 < within.mean() < 0.9
    np.testing.assert_array_equal(dx, dy * within)
    share = (255 * x.size / len(x)) ** -0.5
    np.testing.assert_allclose(dlog, [share * (dy * (expected - within * x)).sum()], rtol=1e-4)


def test_the_gradient_of_a_scale_beyond_the_range_is_that_of_finite_differences(pynative_mode):
    x, dy = np.full((1, 4), 40, np.float32), np.ones((1, 4), np.float32)

    def rounded(log_scale: float) -> float:
        return float(gradients_of(Rounding(None), x, dy, log_scale)[0].sum())

    _, _, dlog = gradients_of(Rounding(None), x, dy, np.log(SCALE))
    slope = (rounded(np.log(SCALE) + 0.01) - rounded(np.log(SCALE) - 0.01)) / 0.02
    np.testing.assert_allclose(dlog, [slope * (255 * 4) ** -0.5], rtol=1e-3)


def test_in_float16_layers_multiply_and_ranges_stay_float32(network_of):
    (images,) = tensors((2, 3, 32, 32))
    exact, half = network_of(), network_of(amp_level="O3")
    for name, parameter in half.parameters_dict().items():
        parameter.set_data(exact.parameters_dict()[name])
    found = [network.set_train(False)(Tensor(images)) for network in (exact, half)]
    assert {str(each.dtype) for each in (*found, *half.get_parameters())} == {"Float32"}
    np.testing.assert_allclose(found[1].asnumpy(), found[0].asnumpy(), atol=0.05 * np.abs(found[0].asnumpy()).max())


@pytest.mark.parametrize(("freeze", "frozen"), [("backbone", "features."), (1, "features.3."), (None, "none")])
def test_what_is_frozen_keeps_its_ranges(network_of, freeze, frozen):
    parameters = network_of(freeze=freeze).get_parameters()
    scales = {each.name: each.requires_grad for each in parameters if each.name.endswith(LOG_SCALE)}
    assert scales == {name: not name.startswith(frozen) for name in scales}


def test_weight_decay_spares_the_scales_and_they_have_the_rate_of_their_layer(network_of, recipe):
    given = recipe(opt="adamw", weight_decay=0.1, weight_decay_filter="disable", layer_decay=0.5)
    parameters = network_of().trainable_params()
    groups = parameter_groups(parameters, given)[:-1]
    decays = {each.name: group["weight_decay"] for group in groups for each in group["params"]}
    optimizer = build_optimizer(parameters, given, RateTable(lambda step: 1.0, 1), "CPU")
    of = {each.name: (decays[each.name], share) for each, share in zip(parameters, optimizer.shares, strict=True)}
    assert of["features.3.layers.0.weight"] == (0.1, of["features.3.layers.1.gamma"][1])
    assert of["features.3.layers.2.log_scale"] == (0.0, of["features.3.layers.0.weight"][1])
    assert of["features.0.input.log_scale"] == (0.0, of["features.0.weight"][1])
    assert of["classifier.0.input.log_scale"] == (0.0, 1.0)
