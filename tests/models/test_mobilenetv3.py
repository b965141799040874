"""The network against the paper's tables, MindCV's names and logits, and NumPy."""

from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_lite.checkpoints.weights import load_weights, read_weights
from mindcv_lite.models.block_tables import LARGE, SMALL, VARIANTS, make_divisible
from mindcv_lite.models.mobilenetv3 import Bottleneck, MobileNetV3, SqueezeExcite

pytestmark = pytest.mark.usefixtures("pynative_mode")


def network_of(model: str, **keys: Any) -> Any:
    """As Any: MindSpore's containers do not say what is in them."""
    return MobileNetV3(VARIANTS[model], **keys)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# ---------------------------------------------------------------------------------------------------- size and shape

TRAINABLE = {  # the minimalistic ones are worked out below
    "mobilenet_v3_small_100": 2_542_856,
    "mobilenet_v3_small_075": 1_653_920,
    "mobilenet_v3_large_100": 5_483_032,
    "mobilenet_v3_large_075": 3_377_576,
    # As torchvision 0.29.1 counts its networks of that width_mult:
    "mobilenet_v3_small_035": 558_744,
    "mobilenet_v3_small_050": 917_264,
    "mobilenet_v3_small_125": 3_644_912,
    "mobilenet_v3_large_035": 997_064,
    "mobilenet_v3_large_050": 1_734_576,
    "mobilenet_v3_large_125": 8_164_744,
    # As timm 1.0.31 counts mobilenetv3_small_050, mobilenetv3_small_075 and mobilenetv3_large_075:
    "mobilenet_v3_small_timm_050": 1_593_224,
    "mobilenet_v3_small_timm_075": 2_041_872,
    "mobilenet_v3_large_timm_075": 3_993_528,
}
# With the BatchNorm statistics; parameters; trainable ones.
IN_ALL = {"mobilenet_v3_small_100": (2_554_968, 210, 142), "mobilenet_v3_large_100": (5_507_432, 266, 174)}


@pytest.mark.parametrize("model", TRAINABLE)
def test_the_parameters_number_as_in_mindcv_torchvision_and_timm(model):
    network = network_of(model)
    trainable, parameters = network.trainable_params(), network.parameters_dict().values()
    assert sum(parameter.size for parameter in trainable) == TRAINABLE[model]
    if model in IN_ALL:
        found = (sum(parameter.size for parameter in parameters), len(parameters), len(trainable))
        assert found == IN_ALL[model]


@pytest.mark.parametrize("size", ["small", "large"])
def test_minimalistic_is_the_full_network_without_squeeze_excite_and_with_3x3_kernels(size):
    rows = {"small": SMALL, "large": LARGE}[size]
    saved = 0
    for row in rows:
        squeezed = make_divisible(row.expanded / 4)
        saved += row.squeeze * (2 * row.expanded * squeezed + squeezed + row.expanded)
        saved += (row.kernel**2 - 9) * row.expanded
    network = network_of(f"mobilenet_v3_{size}_minimalistic_100")
    assert sum(p.size for p in network.trainable_params()) == TRAINABLE[f"mobilenet_v3_{size}_100"] - saved
    kinds = {type(cell) for _, cell in network.cells_and_names()}
    assert not kinds & {SqueezeExcite, nn.HSwish, nn.HSigmoid}
    assert nn.ReLU in kinds
    kernels = {cell.kernel_size for _, cell in network.cells_and_names() if isinstance(cell, nn.Conv2d)}
    assert kernels == {(1, 1), (3, 3)}


# (channels, side) after the stem, after each row of the paper's Table 2 or 1, and after the last convolution.
SHAPES = {
    "mobilenet_v3_small_100": [
        *[(16, 112), (16, 56), (24, 28), (24, 28), (40, 14), (40, 14), (40, 14), (48, 14), (48, 14)],
        *[(96, 7), (96, 7), (96, 7), (576, 7)],
    ],
    "mobilenet_v3_large_100": [
        *[(16, 112), (16, 112), (24, 56), (24, 56), (40, 28), (40, 28), (40, 28)],
        *[(80, 14), (80, 14), (80, 14), (80, 14), (112, 14), (112, 14), (160, 7), (160, 7), (160, 7), (960, 7)],
    ],
}


@pytest.mark.parametrize(
    ("model", "conv_padding"),
    [
        ("mobilenet_v3_large_100", "mindcv"),
        *[("mobilenet_v3_small_100", padding) for padding in ("mindcv", "symmetric", "same")],
    ],
)
def test_features_have_the_papers_shapes_at_224(model, conv_padding):
    x, shapes = Tensor(np.zeros((1, 3, 224, 224), np.float32)), []
    for cell in network_of(model, conv_padding=conv_padding).features:
        x = cell(x)
        if isinstance(cell, (Bottleneck, nn.HSwish)):
            shapes.append(x.shape)
    assert shapes == [(1, channels, side, side) for channels, side in SHAPES[model]]


def test_activations_and_squeeze_excite_stand_in_the_papers_rows():
    def letters(model: str) -> str:
        """Per row: R or H for ReLU or hard-swish, in capitals with squeeze-excite."""
        rows = [list(row.layers) for row in network_of(model).features if isinstance(row, Bottleneck)]
        squeezed = [any(isinstance(cell, SqueezeExcite) for cell in row) for row in rows]
        hswish = [any(isinstance(cell, nn.HSwish) for cell in row) for row in rows]
        kinds = ["h" if h else "r" for h in hswish]
        return "".join(kind.upper() if se else kind for kind, se in zip(kinds, squeezed, strict=True))

    assert letters("mobilenet_v3_small_100") == "RrrHHHHHHHH"
    assert letters("mobilenet_v3_large_100") == "rrrRRRhhhhHHHHH"


def test_a_shortcut_adds_the_input_where_stride_and_channels_allow():
    network = network_of("mobilenet_v3_small_100")
    network.set_train(False)
    third, second = network.features[5], network.features[4]  # 24 -> 24 at stride 1; 16 -> 24 at stride 2
    x = Tensor(random(1, 24, 6, 6))
    np.testing.assert_allclose((third(x) - third.layers(x)).asnumpy(), x.asnumpy(), atol=1e-5)
    x = Tensor(random(1, 16, 6, 6))
    assert np.array_equal(second(x).asnumpy(), second.layers(x).asnumpy())


def test_one_channel_in_gives_a_network_for_grey_images():
    network = network_of("mobilenet_v3_small_100", num_classes=7, in_channels=1)
    network.set_train(False)
    assert network.features[0].weight.shape == (16, 1, 3, 3)
    assert network(Tensor(random(2, 1, 32, 32))).shape == (2, 7)


# ------------------------------------------------------------------------------------------------ names and parity


def test_parameters_have_mindcvs_names_and_shapes():
    small, large = (network_of(f"mobilenet_v3_{size}_100").parameters_dict() for size in ("small", "large"))
    expected = {
        "features.0.weight": (16, 3, 3, 3),
        "features.1.moving_variance": (16,),
        "features.3.layers.0.weight": (16, 1, 3, 3),  # the first row has no expansion
        "features.3.layers.3.conv_reduce.bias": (8,),
        "features.3.layers.4.weight": (16, 16, 1, 1),
        "features.4.layers.6.weight": (24, 72, 1, 1),  # no squeeze-excite
        "features.4.layers.7.gamma": (24,),
        "features.6.layers.3.weight": (96, 1, 5, 5),
        "features.6.layers.6.conv_expand.weight": (96, 24, 1, 1),
        "features.6.layers.8.moving_mean": (40,),
        "features.13.layers.7.weight": (96, 576, 1, 1),
        "features.14.weight": (576, 96, 1, 1),
        "features.15.beta": (576,),
        "classifier.0.weight": (1024, 576),
        "classifier.3.bias": (1000,),
    }
    assert {name: small[name].shape for name in expected if name in small} == expected
    expected = {
        "features.3.layers.3.weight": (16, 16, 1, 1),
        "features.3.layers.4.beta": (16,),
        "features.17.layers.6.conv_reduce.weight": (240, 960, 1, 1),
        "features.18.weight": (960, 160, 1, 1),
        "features.19.moving_mean": (960,),
        "classifier.0.bias": (1280,),
    }
    assert {name: large[name].shape for name in expected if name in large} == expected


def test_mindcvs_weights_give_mindcvs_logits(shared, recipe):
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    parity = shared / "parity"
    weights = read_weights(str(parity / "mindcv_small.ckpt"))
    network = network_of("mobilenet_v3_small_100")
    assert list(weights.parameters) == list(network.parameters_dict())
    load_weights(network, weights, recipe(num_classes=1000))
    for name, parameter in network.parameters_dict().items():
        assert np.array_equal(parameter.asnumpy(), weights.parameters[name].asnumpy()), name
    network.set_train(False)
    logits = network(Tensor(np.load(parity / "input.npy"))).asnumpy()
    # float32 against float32 of another program; the smallest mistake in padding or epsilon moves them by 5.
    np.testing.assert_allclose(logits, np.load(parity / "logits_mindcv_small.npy"), rtol=0, atol=1e-4)


# -------------------------------------------------------------------------------------------------------- padding


def convolve(x: np.ndarray, weight: np.ndarray, stride: int, same: bool) -> np.ndarray:
    """A convolution in float64, depthwise if each filter has one channel; TensorFlow's SAME or kernel // 2 around."""
    kernel, out = weight.shape[-1], -(-x.shape[-1] // stride)
    total = max((out - 1) * stride + kernel - x.shape[-1], 0)
    before, after = (total // 2, total - total // 2) if same else (kernel // 2, kernel // 2)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (before, after), (before, after)))
    product = "bchw,cx->bchw" if weight.shape[1] == 1 else "bchw,oc->bohw"
    y = 0
    for row in range(kernel):
        for column in range(kernel):
            seen = padded[:, :, row : row + stride * out : stride, column : column + stride * out : stride]
            y = y + np.einsum(product, seen, weight[:, :, row, column])
    return np.asarray(y)


@pytest.mark.parametrize("size", [16, 15])
@pytest.mark.parametrize(
    ("conv_padding", "same_stem", "same_depthwise"),
    [("mindcv", False, True), ("symmetric", False, False), ("same", True, True)],
)
def test_strided_convolutions_pad_as_each_convention_does(conv_padding, same_stem, same_depthwise, size):
    network = network_of("mobilenet_v3_small_100", conv_padding=conv_padding)
    layers = [
        (network.features[0], 3, same_stem),
        (network.features[3].layers[0], 16, same_depthwise),  # 3 x 3
        (network.features[6].layers[3], 96, same_depthwise),  # 5 x 5
    ]
    for layer, channels, same in layers:
        x = random(2, channels, size, size)
        expected = convolve(x, layer.weight.asnumpy(), 2, same)
        np.testing.assert_allclose(layer(Tensor(x)).asnumpy(), expected, atol=1e-5)


@pytest.mark.parametrize("conv_padding", ["mindcv", "symmetric", "same"])
def test_convolutions_without_stride_pad_alike_in_all_conventions(conv_padding):
    layer = network_of("mobilenet_v3_small_100", conv_padding=conv_padding).features[7].layers[3]  # 5 x 5, stride 1
    x = random(1, 240, 7, 7)
    np.testing.assert_allclose(layer(Tensor(x)).asnumpy(), convolve(x, layer.weight.asnumpy(), 1, False), atol=1e-5)


# ------------------------------------------------------------------------------ batch norm, initial weights, dropout


@pytest.mark.parametrize("bn_eps", [1e-5, 1e-3])
def test_a_training_step_of_batch_norm_keeps_nine_tenths_of_the_old_statistics(bn_eps):
    layer = network_of("mobilenet_v3_small_100", bn_eps=bn_eps).features[1]
    old_mean, old_variance, gamma, beta = np.abs(random(4, 16)) + 0.5
    for parameter, value in zip(
        (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta),
        (old_mean, old_variance, gamma, beta),
        strict=True,
    ):
        parameter.set_data(Tensor(value))
    x = 3 + 0.1 * random(4, 16, 3, 3)  # a small variance shows the epsilon
    layer.set_train()
    y = layer(Tensor(x)).asnumpy()

    def shaped(values: np.ndarray) -> np.ndarray:
        return values.reshape(1, 16, 1, 1)

    mean, variance = x.mean((0, 2, 3), np.float64), x.var((0, 2, 3), np.float64)
    expected = (x - shaped(mean)) / np.sqrt(shaped(variance) + bn_eps) * shaped(gamma) + shaped(beta)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    unbiased = variance * 36 / 35  # 4 x 3 x 3 numbers a channel
    np.testing.assert_allclose(layer.moving_mean.asnumpy(), 0.9 * old_mean + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.asnumpy(), 0.9 * old_variance + 0.1 * unbiased, rtol=1e-5)


@pytest.mark.parametrize("bn_eps", [1e-5, 1e-3])
def test_every_batch_norm_has_the_epsilon_and_momentum_asked_for(bn_eps):
    network = network_of("mobilenet_v3_small_100", bn_eps=bn_eps)
    norms = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    assert len(norms) == 34
    assert {(norm.eps, round(1 - float(norm.momentum), 6)) for norm in norms} == {(bn_eps, 0.9)}


def test_weights_start_as_in_mindcv():
    mindspore.set_seed(1)
    drawn = []
    for name, cell in network_of("mobilenet_v3_small_100").cells_and_names():
        if isinstance(cell, nn.Conv2d):
            size, (out, _, height, width) = cell.weight.size, cell.weight.shape
            drawn.append(cell.weight.asnumpy().ravel() / np.sqrt(2 / (height * width * out)))
        elif isinstance(cell, nn.Dense):
            size = cell.weight.size
            drawn.append(cell.weight.asnumpy().ravel() / 0.01)
        else:
            if isinstance(cell, nn.BatchNorm2d):
                assert np.all(cell.gamma.asnumpy() == 1), name
                assert np.all(cell.beta.asnumpy() == 0), name
            continue
        assert not cell.has_bias or np.all(cell.bias.asnumpy() == 0), name
        # Five standard errors of `size` normal numbers.
        assert drawn[-1].std() == pytest.approx(1, abs=5 / np.sqrt(2 * size)), name
        assert drawn[-1].mean() == pytest.approx(0, abs=5 / np.sqrt(size)), name
    fourth_moment = (np.concatenate(drawn).astype(np.float64) ** 4).mean()
    assert fourth_moment == pytest.approx(3, abs=0.1)  # normal; 1.8 if uniform, 2.6 if cut at two deviations


def test_dropout_zeroes_its_share_of_the_hidden_layer_and_scales_up_the_others():
    dropout = network_of("mobilenet_v3_small_100", drop_rate=0.25).classifier[2]
    values = dropout(Tensor(np.ones((40, 1024), np.float32)), Tensor(7, mindspore.int32)).asnumpy()
    assert np.unique(values) == pytest.approx([0, 1 / 0.75])
    assert (values == 0).mean() == pytest.approx(0.25, abs=0.011)  # five standard errors


def test_a_dropout_seed_gives_the_same_mask_every_time_and_another_one_another():
    dropout = network_of("mobilenet_v3_small_100", drop_rate=0.5).classifier[2]
    ones = Tensor(np.ones((40, 1024), np.float32))
    first, again, other = (dropout(ones, Tensor(seed, mindspore.int32)).asnumpy() for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert (first == other).mean() == pytest.approx(0.5, abs=0.0125)  # as unlike as two coins


def test_the_head_drops_out_with_a_seed_only_and_not_at_a_rate_of_zero():
    images, seeds = Tensor(random(2, 3, 32, 32)), [None, *(Tensor(seed, mindspore.int32) for seed in (1, 2))]
    for drop_rate, same in ((0.5, False), (0.0, True)):
        network = network_of("mobilenet_v3_small_100", drop_rate=drop_rate)
        network.set_train(False)
        without, one, two = (network(images, seed).asnumpy() for seed in seeds)
        assert np.array_equal(without, network(images).asnumpy())
        assert np.array_equal(without, one) is np.array_equal(one, two) is same
