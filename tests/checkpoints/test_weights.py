"""Weights files: ours and MindCV's read each other's, and what does not fit is named."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindcv_lite.checkpoints.model_card import model_card, settled_by_card
from mindcv_lite.checkpoints.pretrained import starting_weights
from mindcv_lite.checkpoints.weights import (
    STEM,
    Weights,
    load_weights,
    read_weights,
    with_image_size_of,
    with_input_channels,
    with_outputs_of,
)
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.errors import UserError
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.mobilenetv3 import MobileNetV3
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.runs.checkpoint_saver import save_weights
from tests.conftest import SMALLEST

CLASSES = ("daisy", "rose", "tulip")


def network_of(model: str = "mobilenet_v3_small_075", num_classes: int = 3, in_channels: int = 3) -> Any:
    return MobileNetV3(VARIANTS[model], num_classes, in_channels)


def values_of(network: Any) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in network.parameters_dict().items()}


@pytest.fixture(scope="module")
def small(recipe):
    """The recipe of the file below."""

    def build(**keys):
        return recipe(**{"model": "mobilenet_v3_small_075", "num_classes": 3} | keys)

    return build


@pytest.fixture(scope="module")
def saved(tmp_path_factory, small) -> tuple[Path, dict[str, np.ndarray]]:
    """A file of this project, and what is in it: random in its statistics, too."""
    network, random = network_of(), np.random.default_rng(0)
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(random.normal(size=parameter.shape).astype(np.float32)))
    path = tmp_path_factory.mktemp("weights") / "model.ckpt"
    save_weights(path, values_of(network), model_card(small(), CLASSES, epoch=3, top1=0.5))
    return path, values_of(network)


# --------------------------------------------------------------------------------------------------------- round trip


def test_a_round_trip_keeps_every_bit_and_the_card(saved, small, log):
    path, values = saved
    weights = read_weights(str(path))
    network = network_of()
    load_weights(network, weights)
    assert values_of(network).keys() == values.keys()
    for name, value in values_of(network).items():
        assert np.array_equal(value, values[name]), name
    assert weights.path == str(path)
    assert weights.class_names == CLASSES
    assert f"{path}: 210 parameters taken" in log.text
    assert "passed over" not in log.text


def test_the_card_says_what_the_numbers_mean(saved):
    card = read_weights(str(saved[0])).card
    assert card == {
        "model": "mobilenet_v3_small_075",
        "num_classes": 3,
        "in_channels": 3,
        "conv_padding": "mindcv",
        "bn_eps": 1e-5,
        "image_resize": 32,
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "class_names": list(CLASSES),
        "epoch": 3,
        "top1": 0.5,
    }


def test_the_outputs_of_a_file_are_those_of_its_last_layer_and_the_recipe_must_not_have_others(saved, small):
    weights = read_weights(str(saved[0]))
    assert weights.num_classes == 3
    assert with_outputs_of(weights, small(num_classes=None)) == small(num_classes=3)
    assert with_outputs_of(weights, small(num_classes=3)) == small(num_classes=3)
    with pytest.raises(UserError, match="its num_classes is 3, the recipe's 5; --num_classes 3"):
        with_outputs_of(weights, small(num_classes=5))


@pytest.mark.parametrize("value", [None, 1.0])
def test_a_file_without_a_last_layer_has_no_outputs(small, value):
    weights = Weights("x.ckpt", {"classifier.3.weight": Parameter(value)} if value else {}, None)
    with pytest.raises(UserError, match=r"x\.ckpt: no weights of MobileNetV3, .*'classifier\.3\.weight' is missing"):
        with_outputs_of(weights, small())


@pytest.mark.parametrize("names", [None, []])
def test_a_card_may_lack_the_names_of_the_classes(saved, small, tmp_path, names):
    save_weights(tmp_path / "x.ckpt", saved[1], model_card(small(), CLASSES) | {"class_names": names})
    weights = read_weights(str(tmp_path / "x.ckpt"))
    assert weights.class_names is None
    load_weights(network_of(), weights, small())


def test_class_names_of_all_languages_survive(tmp_path, small):
    names = ("Gänseblümchen", "薔薇", 'tulip "red"\n')
    save_weights(tmp_path / "x.ckpt", values_of(network_of()), model_card(small(), names))
    assert read_weights(str(tmp_path / "x.ckpt")).class_names == names


def test_class_names_may_be_unknown(saved, small, tmp_path):
    card = model_card(small(), CLASSES) | {"class_names": None}
    save_weights(tmp_path / "x.ckpt", values_of(network_of()), card)
    weights = read_weights(str(tmp_path / "x.ckpt"))
    assert weights.class_names is None
    load_weights(network_of(), weights, small())


def test_plain_mindspore_loads_our_file_strictly_under_mindcvs_names(saved):
    path, values = saved
    content = mindspore.load_checkpoint(str(path))
    network = network_of()
    missing, unused = mindspore.load_param_into_net(network, content, strict_load=True)
    assert missing == []
    assert unused == ["model_card"]
    for name, value in values_of(network).items():
        assert np.array_equal(value, values[name]), name
    card = content.pop("model_card")
    assert json.loads(str(card))["model"] == "mobilenet_v3_small_075"
    assert {"features.0.weight", "features.1.moving_mean", "classifier.3.bias"} < content.keys()


def test_a_file_without_a_card_is_taken_as_the_recipe_says(saved, small, tmp_path):
    _, values = saved
    mindspore.save_checkpoint([{"name": n, "data": Tensor(v)} for n, v in values.items()], str(tmp_path / "plain.ckpt"))
    weights = read_weights(str(tmp_path / "plain.ckpt"))
    assert weights.card is None
    assert weights.class_names is None
    network = network_of()
    load_weights(network, weights)
    assert np.array_equal(values_of(network)["classifier.3.weight"], values["classifier.3.weight"])


def test_optimizer_state_in_a_training_file_of_mindcv_is_passed_over_with_a_line(saved, small, tmp_path, log):
    _, values = saved
    others = {
        "moments.features.0.weight": np.ones((16, 3, 3, 3), np.float32),
        "learning_rate": np.float32(0.1),
        "global_step": np.array([7], np.int32),
        "ema.features.0.weight": np.ones((16, 3, 3, 3), np.float32),
    }
    entries = [{"name": name, "data": Tensor(value)} for name, value in (others | values).items()]
    mindspore.save_checkpoint(entries, str(tmp_path / "train.ckpt"))
    network = network_of()
    load_weights(network, read_weights(str(tmp_path / "train.ckpt")))
    assert np.array_equal(values_of(network)["features.0.weight"], values["features.0.weight"])
    assert "4 entries that are no weights are passed over, such as moments.features.0.weight" in log.text


# --------------------------------------------------------------------------------------------------------- mismatches


def message_of(network: Any, weights: Any, remake_head: bool = False) -> str:
    """What is said of weights that do not fit; the network is left as it was."""
    before = values_of(network)
    with pytest.raises(UserError) as error:
        load_weights(network, weights, remake_head)
    for name, value in values_of(network).items():
        assert np.array_equal(value, before[name]), name
    return str(error.value)


def test_another_class_count_names_both_shapes_of_the_last_layer(saved):
    message = message_of(network_of(num_classes=5), read_weights(str(saved[0])))
    assert "does not fit the network: " in message
    assert "'classifier.3.weight' is (3, 768) in the file, (5, 768) in the network" in message
    assert "'classifier.3.bias' is (3,) in the file, (5,) in the network" in message
    assert message.endswith("check --model and --num_classes")


def test_a_head_of_another_class_count_is_made_anew_where_asked_and_all_else_is_taken(saved, log):
    path, values = saved
    network = network_of(num_classes=5)
    drawn = values_of(network)
    load_weights(network, read_weights(str(path)), remake_head=True)
    for name, value in values_of(network).items():
        expected = drawn if name in ("classifier.3.weight", "classifier.3.bias") else values
        assert np.array_equal(value, expected[name]), name
    assert f"{path}: 208 parameters taken" in log.text
    assert "classifier.3.weight and classifier.3.bias made anew, for 5 classes" in log.text


def test_a_head_that_fits_is_taken_though_a_new_one_was_allowed(saved, log):
    network = network_of()
    load_weights(network, read_weights(str(saved[0])), remake_head=True)
    assert np.array_equal(values_of(network)["classifier.3.weight"], saved[1]["classifier.3.weight"])
    assert "made anew" not in log.text


def test_a_new_head_excuses_no_other_difference(saved):
    weights = read_weights(str(saved[0]))
    message = message_of(network_of(in_channels=1), weights, remake_head=True)
    assert "'features.0.weight' is (16, 3, 3, 3) in the file, (16, 1, 3, 3) in the network; check" in message
    message = message_of(network_of("mobilenet_v3_large_075", num_classes=5), weights, remake_head=True)
    assert "more; check --model and --num_classes" in message
    head = {name: value for name, value in weights.parameters.items() if name != "classifier.3.bias"}
    message = message_of(network_of(), replace(weights, parameters=head), remake_head=True)
    assert "does not fit the network: 'classifier.3.bias' is missing; check" in message


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_parameter_that_is_not_finite_is_named_and_nothing_is_taken(saved, number):
    weights, network = read_weights(str(saved[0])), network_of()
    before = values_of(network)
    value = saved[1]["features.1.moving_variance"].copy()
    value[3] = number
    broken = weights.parameters | {"features.1.moving_variance": Parameter(Tensor(value))}
    message = message_of(network, replace(weights, parameters=broken))
    fault = "'features.1.moving_variance' is not finite, as after a run that broke; use an earlier checkpoint"
    assert message == f"{saved[0]}: {fault}"
    assert all(np.array_equal(value, before[name]) for name, value in values_of(network).items())


def test_missing_and_foreign_parameters_are_named(saved, small, tmp_path):
    _, values = saved
    changed = {name: value for name, value in values.items() if name != "features.1.gamma"}
    changed["features.99.weight"] = np.zeros(3, np.float32)
    entries = [{"name": name, "data": Tensor(value)} for name, value in changed.items()]
    mindspore.save_checkpoint(entries, str(tmp_path / "changed.ckpt"))
    message = message_of(network_of(), read_weights(str(tmp_path / "changed.ckpt")))
    assert "'features.1.gamma' is missing; 'features.99.weight' is not in the network; check" in message


def test_another_model_without_a_card_names_three_faults_and_counts_the_others(saved, small, tmp_path):
    network = network_of("mobilenet_v3_large_075")
    entries = [{"name": n, "data": Tensor(v)} for n, v in values_of(network).items()]
    mindspore.save_checkpoint(entries, str(tmp_path / "large.ckpt"))
    message = message_of(network_of(), read_weights(str(tmp_path / "large.ckpt")))
    assert message.count("'features.") == 3
    names, other = values_of(network), saved[1]
    faults = len([name for name in other if name not in names]) + len([name for name in names if name not in other])
    faults += len([name for name in names if name in other and names[name].shape != other[name].shape])
    assert f" and {faults - 3} more; check" in message


def test_float16_weights_are_taken_as_float32(saved, small, tmp_path):
    _, values = saved
    entries = [{"name": name, "data": Tensor(value.astype(np.float16))} for name, value in values.items()]
    mindspore.save_checkpoint(entries, str(tmp_path / "half.ckpt"))
    network = network_of()
    load_weights(network, read_weights(str(tmp_path / "half.ckpt")))
    for name, value in values_of(network).items():
        assert value.dtype == np.float32
        assert np.array_equal(value, values[name].astype(np.float16).astype(np.float32)), name


# ------------------------------------------------------------------------------------------- images of other channels


def logits_of(weights: Weights, in_channels: int, images: np.ndarray) -> np.ndarray:
    """Of images uint8 (batch, height, width, channels), normalised by the weights' card."""
    assert weights.card
    network = network_of(in_channels=in_channels)
    load_weights(network, weights)
    x = Normalize(weights.card["mean"], weights.card["std"])(Tensor(images))
    return network.set_train(False)(x).asnumpy()


@pytest.fixture(scope="module")
def of_colour(saved, small, tmp_path_factory) -> Weights:
    """A fresh network for colour images with the same mean and std in all channels."""
    path = tmp_path_factory.mktemp("colour") / "x.ckpt"
    save_weights(path, values_of(network_of()), model_card(small(mean="[100, 100, 100]", std="[50, 50, 50]"), CLASSES))
    return read_weights(str(path))


@pytest.mark.usefixtures("pynative_mode")
def test_colour_weights_see_a_grey_image_as_three_equal_channels(of_colour, log):
    grey = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 1), np.uint8)
    expected = logits_of(of_colour, 3, grey.repeat(3, axis=-1))
    log.clear()
    summed = with_input_channels(of_colour, 1)
    assert log.messages == [
        f"{of_colour.path}: the first convolution is summed over the 3 channels of colour images, for grey ones"
    ]
    assert summed.card == (of_colour.card or {}) | {"in_channels": 1, "mean": (100.0,), "std": (50.0,)}
    np.testing.assert_allclose(logits_of(summed, 1, grey), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_more_channels_repeat_those_of_colour_images_as_in_timm(of_colour):
    """timm's `adapt_input_conv`: repeat, cut off, times 3 / channels."""
    kernels = of_colour.parameters[STEM].asnumpy()
    for channels in (2, 4, 8):
        found = with_input_channels(of_colour, channels).parameters[STEM].asnumpy()
        assert found.shape == (16, channels, 3, 3)
        for channel in range(channels):
            assert np.allclose(found[:, channel], kernels[:, channel % 3] * 3 / channels, rtol=1e-6)
    grey = with_input_channels(of_colour, 1)
    assert with_input_channels(of_colour, 3) is of_colour
    assert with_input_channels(grey, 1) is grey


def test_a_recipe_for_grey_images_starts_from_colour_weights(of_colour, world, tmp_path):
    given = given_by(tmp_path, "in_channels: 1\n", "--model", "mobilenet_v3_small_075", "--ckpt_path", of_colour.path)
    weights = starting_weights(given, world(given))
    assert weights
    settled = settled_by_card(given, weights.card or {}, weights.path)
    assert (settled.model.in_channels, settled.augmentation.mean, settled.augmentation.std) == (1, (100.0,), (50.0,))
    load_weights(network_of(in_channels=1), weights)
    with pytest.raises(
        UserError, match=r"key 'in_channels' is 1, but the weights in .* mean 3"
    ):  # not to evaluate them
        settled_by_card(given, of_colour.card or {}, of_colour.path)


# ----------------------------------------------------------------------------------------------------- the card decides


def given_by(tmp_path: Path, lines: str, *flags: str) -> Recipe:
    """A recipe of the required keys, lines of YAML and flags; the model is in neither."""
    required = {name: value for name, value in SMALLEST.items() if name != "model"}
    path = tmp_path / "r.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in required.items()) + lines)
    return load_recipe(["--config", str(path), *flags], "")


MODEL = "model: mobilenet_v3_small_075\n"


@pytest.fixture(scope="module")
def card(small) -> dict[str, Any]:
    """As it comes out of a file: of weights that mean something else than the defaults in each key."""
    keys = {"in_channels": 1, "conv_padding": "same", "bn_eps": 0.001, "mean": "[127.5]", "std": "[64]"}
    return json.loads(json.dumps(model_card(small(**keys, interpolation="bicubic", crop_pct=0.9), CLASSES)))


def test_keys_that_were_not_given_are_taken_from_the_card(tmp_path, card, log):
    before = given_by(tmp_path, MODEL)
    settled = settled_by_card(before, card, "x.ckpt").flat()
    expected = {
        "in_channels": 1,
        "conv_padding": "same",
        "bn_eps": 0.001,
        "mean": (127.5,),
        "std": (64.0,),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
    }
    assert settled == before.flat() | expected
    assert "x.ckpt: in_channels 1, conv_padding same, bn_eps 0.001, mean [127.5], std [64.0]," in log.text


def test_a_card_that_agrees_with_what_was_given_changes_and_says_nothing(tmp_path, card, log):
    lines = f"{MODEL}in_channels: 1\nconv_padding: same\nbn_eps: 1e-3\nmean: [127.5]\nstd: [64]\n"
    given = given_by(tmp_path, lines + "interpolation: bicubic\n", "--crop_pct", "0.9")
    assert settled_by_card(given, card, "x.ckpt") == given
    assert log.text == ""


@pytest.mark.parametrize(
    ("name", "given", "means", "flag"),
    [
        ("model", "mobilenet_v3_small_100", "mobilenet_v3_small_075", "mobilenet_v3_small_075"),
        ("conv_padding", "symmetric", "same", "same"),
        ("bn_eps", "0.01", "0.001", "0.001"),
        ("mean", "[1.0, 2.0, 3.0]", "[127.5]", "'[127.5]'"),
        ("interpolation", "area", "bicubic", "bicubic"),
        ("crop_pct", "0.5", "0.9", "0.9"),
    ],
)
def test_a_key_that_was_given_and_contradicts_the_card_is_named_with_both_values_and_its_origin(
    tmp_path, card, name, given, means, flag
):
    said = f"key '{name}' is {given}, but the weights in x.ckpt mean {means}; leave it out, or give --{name} {flag}"
    model = "" if name == "model" else MODEL
    from_file = given_by(tmp_path, f"{model}{name}: {given}\n")
    from_flag = given_by(tmp_path, MODEL, f"--{name}", given)
    for recipe, origin in ((from_file, tmp_path / "r.yaml"), (from_flag, "command line")):
        with pytest.raises(UserError) as error:
            settled_by_card(recipe, card, "x.ckpt")
        assert str(error.value) == f"{origin}: {said}"


def test_images_are_as_large_as_in_training_unless_the_recipe_says_otherwise(saved, recipe, log):
    weights = read_weights(str(saved[0]))
    assert weights.card
    side = weights.card["image_resize"]
    unsaid = recipe()
    unsaid.origin.pop("image_resize")
    assert with_image_size_of(weights, unsaid.with_keys(image_resize=side + 1)).augmentation.image_resize == side
    assert log.text == ""
    assert with_image_size_of(weights, recipe(image_resize=side + 1)).augmentation.image_resize == side + 1
    assert f"was trained on images of {side} x {side} pixels, image_resize is {side + 1} x {side + 1}" in log.text
    assert with_image_size_of(replace(weights, card=None), unsaid) == unsaid
    wide = replace(weights, card=weights.card | {"image_resize": [48, 64]})  # as JSON holds it
    assert with_image_size_of(wide, unsaid).augmentation.image_resize == (48, 64)
    with_image_size_of(wide, recipe(image_resize="[48, 60]"))
    assert "was trained on images of 48 x 64 pixels, image_resize is 48 x 60" in log.text


def test_keys_that_bind_nothing_may_differ_from_the_card(tmp_path, card):
    given = given_by(tmp_path, MODEL + "num_classes: 7\n", "--image_resize", "64")
    settled = settled_by_card(given, card, "x.ckpt")
    assert (settled.model.num_classes, settled.augmentation.image_resize) == (7, 64)


def test_a_card_whose_value_is_none_that_the_key_takes_is_refused_with_the_file(tmp_path, card):
    with pytest.raises(UserError, match=r"x\.ckpt: model_card: key 'conv_padding': expected one of mindcv, .* 'odd'"):
        settled_by_card(given_by(tmp_path, MODEL), card | {"conv_padding": "odd"}, "x.ckpt")


# ------------------------------------------------------------------------------------------------------ damaged files


def test_a_missing_file_and_a_folder_are_no_weights_files(tmp_path):
    for path in (tmp_path / "nothing.ckpt", tmp_path):
        with pytest.raises(UserError, match=r"no such file; expected a \.ckpt file") as error:
            read_weights(str(path))
        assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 1000, b"not a checkpoint", bytes(range(256)) * 40, b"\x89PNG\r\n"])
def test_foreign_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "foreign.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"foreign\.ckpt: (not a MindSpore checkpoint, or damaged|empty)") as error:
        read_weights(str(path))
    assert "\n" not in str(error.value)


def refuse(path: Path, network: Any) -> None:
    """Reading or loading must say what is wrong; any other exception, and none, is a failure."""
    with pytest.raises(UserError, match=re.escape(str(path))):
        load_weights(network, read_weights(str(path)))


def test_a_truncated_file_is_refused_wherever_it_ends(saved, small, tmp_path):
    whole, cut, network = saved[0].read_bytes(), tmp_path / "cut.ckpt", network_of()
    card = whole.rindex(b"model_card")
    ends = {1, 2, 10, 100, 1000, len(whole) - 1, len(whole) - 2, card + 5, card - 100}
    ends |= {int(end) for end in np.linspace(0, len(whole), 40)[1:-1]}
    for name in (b"features.1.gamma", b"features.5.layers.1.beta", b"classifier.3.bias"):
        start = whole.index(name) - 3
        ends |= set(range(start - 6, start + 4))  # a boundary between two entries is among them
    for end in sorted(ends):
        cut.write_bytes(whole[:end])
        refuse(cut, network)


def test_others_may_read_what_was_saved(saved):
    umask = os.umask(0)
    os.umask(umask)
    assert saved[0].stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("card", ["{", "[]", "3", '{"model": "mobilenet_v3_small_075"}', '{"class_names": "abc"}'])
def test_a_card_that_is_none_of_ours_is_refused(saved, small, tmp_path, card):
    path = tmp_path / "odd.ckpt"
    entries = [{"name": name, "data": Tensor(value)} for name, value in saved[1].items()]
    mindspore.save_checkpoint(entries, str(path), append_dict={"model_card": card})
    refuse(path, network_of())
