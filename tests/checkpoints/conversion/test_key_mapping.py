"""Names and shapes against the other projects' own state dicts, and how it is told whose weights a file holds."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindcv_lite.checkpoints.conversion.key_mapping import (
    NETWORKS,
    ORIGINS,
    foreign_parameters,
    images_of,
    naming_of,
    network_there,
    origin_of,
    our_parameters,
    read_hub_config,
    their_tensors,
)
from mindcv_lite.checkpoints.weights import STEM
from mindcv_lite.errors import UserError
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.mobilenetv3 import MobileNetV3
from mindcv_lite.recipe.values import checked_value

FIXTURES = Path(__file__).parents[2] / "fixtures"
CLASSES = 1000  # of the fixtures
THERE = sorted({(ORIGINS[origin].naming, model) for origin, networks in NETWORKS.items() for model in networks})
FILE = Path("some/weights.safetensors")


def state_dict(name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each entry of another project's state dict, as written by fixtures/write_state_dicts.py."""
    entries = {}
    for line in (FIXTURES / f"{name}.txt").read_text().splitlines():
        entry, kind, shape = line.split(" ")
        entries[entry] = kind, tuple(int(length) for length in shape.split(",") if length)
    return entries


def zeros(name: str) -> dict[str, np.ndarray]:
    """A state dict of another project, without its counters, as the files are read."""
    entries = {entry: shape for entry, (kind, shape) in state_dict(name).items() if kind == "float32"}
    return {entry: np.zeros(shape, np.float32) for entry, shape in entries.items()}


def shapes_of(model: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    return {name: ours.our_shape for name, ours in foreign_parameters(model, num_classes, "mindcv").items()}


def drawn(model: str, num_classes: int = CLASSES) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.random(shape, np.float32) for name, shape in shapes_of(model, num_classes).items()}


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("model", VARIANTS)
def test_our_names_and_shapes_are_those_of_the_network(model):
    network = MobileNetV3(VARIANTS[model], num_classes=7)
    assert shapes_of(model, 7) == {name: parameter.shape for name, parameter in network.parameters_dict().items()}


@pytest.mark.parametrize(("naming", "model"), THERE)
def test_what_is_written_for_others_has_the_names_types_and_shapes_of_their_state_dict(naming, model):
    tensors = their_tensors(drawn(model), model, naming)
    found = {name: (str(value.dtype), value.shape) for name, value in tensors.items()}
    assert found == state_dict(f"{naming}_{model}")


@pytest.mark.parametrize(("naming", "model"), THERE)
def test_a_state_dict_of_others_is_known_as_the_model_it_is(naming, model):
    tensors = zeros(f"{naming}_{model}")
    assert naming_of(tensors, FILE) == naming
    found, parameters = our_parameters(tensors, naming, FILE)
    assert found == model
    assert {name: value.shape for name, value in parameters.items()} == shapes_of(model, CLASSES)


@pytest.mark.parametrize("naming", ["torchvision", "timm"])
@pytest.mark.parametrize("model", VARIANTS)
def test_a_round_trip_of_any_model_keeps_every_bit(model, naming):
    parameters = drawn(model, num_classes=7)
    tensors = their_tensors(parameters, model, naming)
    tensors = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    assert naming_of(tensors, FILE) == naming
    found, returned = our_parameters(tensors, naming, FILE)
    assert found == model
    assert returned.keys() == parameters.keys()
    for name, value in parameters.items():
        assert np.array_equal(returned[name], value), name


@pytest.mark.parametrize("naming", ["torchvision", "timm"])
def test_a_network_for_grey_images_is_known(naming):
    parameters = drawn("mobilenet_v3_small_100") | {STEM: np.ones((16, 1, 3, 3), np.float32)}
    tensors = their_tensors(parameters, "mobilenet_v3_small_100", naming)
    tensors = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    found, returned = our_parameters(tensors, naming, FILE)
    assert (found, returned[STEM].shape) == ("mobilenet_v3_small_100", (16, 1, 3, 3))


@pytest.mark.parametrize(("naming", "model"), THERE)
def test_layers_and_their_parameters_go_to_their_like(naming, model):
    """A parameter of the right shape may be another layer's; but all projects hold their layers in the same order."""
    parameters = drawn(model)
    tensors = their_tensors(parameters, model, naming)
    ours = list(dict.fromkeys(name.rpartition(".")[0] for name in shapes_of(model, CLASSES)))
    theirs = list(dict.fromkeys(name.rpartition(".")[0] for name in state_dict(f"{naming}_{model}")))
    like = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    for our_layer, their_layer in zip(ours, theirs, strict=True):
        for name, value in parameters.items():
            layer, _, part = name.rpartition(".")
            if layer == our_layer:
                assert np.array_equal(tensors[f"{their_layer}.{like.get(part, part)}"].ravel(), value.ravel()), name


def test_the_network_there_is_the_one_of_the_padding_if_there_is_a_choice():
    assert network_there("mobilenet_v3_small_100", "timm", "symmetric") == ("timm", "mobilenetv3_small_100")
    assert network_there("mobilenet_v3_small_100", "timm", "mindcv") == ("timm", "mobilenetv3_small_100")
    assert network_there("mobilenet_v3_small_100", "timm", "same") == ("tf", "tf_mobilenetv3_small_100")
    minimalistic = "mobilenet_v3_large_minimalistic_100"
    assert network_there(minimalistic, "timm", "symmetric") == ("tf", "tf_mobilenetv3_large_minimal_100")
    assert network_there("mobilenet_v3_small_timm_075", "timm", "same") == ("tf", "tf_mobilenetv3_small_075")
    assert network_there("mobilenet_v3_small_timm_050", "timm", "same") == ("timm", "mobilenetv3_small_050")
    network = "mobilenet_v3_small(width_mult=0.75)"
    assert network_there("mobilenet_v3_small_075", "torchvision", "same") == ("torchvision", network)


@pytest.mark.parametrize(
    ("model", "naming", "sentence"),
    [
        ("mobilenet_v3_small_minimalistic_100", "torchvision", "torchvision has no network that takes the weights of "),
        (
            "mobilenet_v3_large_075",
            "timm",
            "large_075; it scales a width by other rules, those of the models",
        ),
        ("mobilenet_v3_small_timm_050", "torchvision", "torchvision has no network that takes the weights of "),
    ],
)
def test_a_network_that_others_lack_is_refused(model, naming, sentence):
    with pytest.raises(UserError, match=sentence):
        network_there(model, naming, "symmetric")


# ---------------------------------------------------------------------------------------------------------- refusals


def refusal(tensors: dict[str, np.ndarray]) -> str:
    with pytest.raises(UserError) as error:
        our_parameters(tensors, naming_of(tensors, FILE), FILE)
    assert str(error.value).startswith(f"{FILE}: ")
    return str(error.value)


def test_a_network_of_timm_that_is_not_here_is_refused():
    tensors = zeros("timm_mobilenet_v3_large_timm_075")
    tensors["conv_head.weight"] = np.zeros((1280, 480, 1, 1), np.float32)
    sentence = refusal(tensors)
    fault = "'conv_head.weight' is (1280, 480, 1, 1) in the file, (1280, 720, 1, 1) in the network"
    assert sentence.endswith(f"it comes nearest to mobilenet_v3_large_timm_075, but {fault}")


def test_a_narrow_network_with_a_head_of_full_width_is_refused_with_both_shapes():
    tensors = zeros("torchvision_mobilenet_v3_small_075")
    tensors["classifier.0.weight"] = np.zeros((1024, 432), np.float32)
    sentence = refusal(tensors)
    assert sentence.endswith("but 'classifier.0.weight' is (1024, 432) in the file, (768, 432) in the network")


def test_missing_and_surplus_parameters_are_named():
    tensors = zeros("torchvision_mobilenet_v3_small_100")
    del tensors["features.1.block.1.fc1.bias"]
    tensors["features.13.weight"] = np.zeros(3, np.float32)
    sentence = refusal(tensors)
    assert (
        "nearest to mobilenet_v3_small_100, but 'features.1.block.1.fc1.bias' is missing; 'features.13.weight' is not"
        in sentence
    )


def test_a_network_without_its_last_layer_is_refused():
    tensors = zeros("timm_mobilenet_v3_large_100")
    del tensors["classifier.weight"], tensors["classifier.bias"]
    assert "'classifier.weight' is missing; 'classifier.bias' is missing" in refusal(tensors)


def test_a_network_for_images_of_four_channels_is_refused():
    tensors = zeros("timm_mobilenet_v3_small_100")
    tensors["conv_stem.weight"] = np.zeros((16, 4, 3, 3), np.float32)
    assert "'conv_stem.weight' is (16, 4, 3, 3) in the file, (16, 3, 3, 3) in the network" in refusal(tensors)


def test_other_networks_with_a_familiar_stem_name_three_faults_and_count_the_others():
    mobilenet_v2 = {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.18.0.weight": (1280, 320, 1, 1),
        "classifier.1.bias": (9,),
    }
    sentence = refusal({name: np.zeros(shape, np.float32) for name, shape in mobilenet_v2.items()})
    assert re.search(r" and \d+ more$", sentence)


@pytest.mark.parametrize(
    ("name", "got"),
    [("conv1.weight", "'conv1.weight'"), ("conv.conv.weight", "'conv.conv.weight'"), (None, "no tensor")],
    ids=["ResNet", "PaddleClas", "nothing"],
)
def test_names_of_nobody_are_refused(name, got):
    sentence = refusal({name: np.zeros((64, 3, 7, 7), np.float32)} if name else {})
    stems = "'features.0.0.weight' (torchvision), 'conv_stem.weight' (timm), 'features.0.weight' (mindcv)"
    assert sentence.endswith(f"expected a parameter {stems}, got {got}")


# ----------------------------------------------------------------------------------------------------------- origins


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("tf_mobilenetv3_small_100-37f49e2b.pth", "tf"),
        ("mobilenetv3_large_100_ra-f55367f5.pth", "timm"),
        ("my_tf_weights.safetensors", "tf"),
        ("timm_small.safetensors", "timm"),
        ("tf_mobilenetv3_large_100/model.safetensors", "tf"),
        ("tf_mobilenetv3_small_100/mobilenetv3_small.safetensors", "tf"),
        ("mobilenetv3_small_100.lamb_in1k/model.safetensors", "timm"),
        ("models--timm--tf_mobilenetv3_small_100.in1k/snapshots/0123abcd/model.safetensors", "tf"),
        ("models--timm--mobilenetv3_small_100.lamb_in1k/snapshots/0123abcd/model.safetensors", "timm"),
    ],
)
def test_timms_and_tensorflows_weights_are_told_apart_by_their_name(tmp_path, path, origin):
    assert origin_of("timm", tmp_path / path, None, None)[0] == origin


@pytest.mark.parametrize(
    "path",
    ["model.safetensors", "leitf_x/pytorch_model.bin", "mobilenet.pth", "tf_x/a/model.pt"],
)
def test_where_no_name_tells_them_apart_the_user_is_asked(tmp_path, path):
    with pytest.raises(UserError, match="say which these are: --origin timm or --origin tf"):
        origin_of("timm", tmp_path / path, None, None)


def test_the_flag_goes_before_config_json_and_that_before_the_name(tmp_path):
    path = hub_file(tmp_path / "tf_x", {"architecture": "mobilenetv3_small_100"})
    hub = read_hub_config(path)
    assert origin_of("timm", path, None, hub) == ("timm", "mobilenetv3_small_100 in config.json")
    assert origin_of("timm", path, "tf", hub) == ("tf", "--origin tf")
    assert origin_of("timm", path, None, None) == ("tf", "'tf_' in tf_x")


@pytest.mark.parametrize(("naming", "wish"), [("torchvision", "timm"), ("timm", "mindcv"), ("mindcv", "tf")])
def test_an_origin_that_the_names_contradict_is_refused(naming, wish):
    assert origin_of("torchvision", Path("tf_x.pth"), None, None)[0] == "torchvision"
    with pytest.raises(UserError, match=f"--origin is {wish}, but the parameters have the names of {naming}"):
        origin_of(naming, FILE, wish, None)


# ------------------------------------------------------------------------------------------------------------ images

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
HALF = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}


def hub_file(folder: Path, config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "config.json").write_bytes(text)
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("origin", "name", "images"),
    [
        ("torchvision", "mobilenet_v3_large-8738ca79.pth", IMAGENET | {"interpolation": "bilinear"}),
        (
            "torchvision",
            "mobilenet_v3_large-5c1a4163.pth",
            IMAGENET | {"interpolation": "bilinear", "crop_pct": 224 / 232},
        ),
        ("timm", "mobilenetv3_small_100_lamb-266a294c.pth", IMAGENET | {"interpolation": "bicubic"}),
        (
            "timm",
            "mobilenetv3_large_100_1k_miil_78_0-66471c13.pth",
            {"mean": (0, 0, 0), "std": (255, 255, 255), "interpolation": "bilinear"},
        ),
        (
            "timm",
            "mobilenetv3_large_100.ra4_e3600_r224_in1k/model.safetensors",
            HALF | {"interpolation": "bicubic", "crop_pct": 0.95},
        ),
        ("tf", "tf_mobilenetv3_small_100-37f49e2b.pth", HALF | {"interpolation": "bilinear"}),
        ("mindcv", "mobilenet_v3_small_100-6fa3c17d-910v2.ckpt", IMAGENET | {"interpolation": "bilinear"}),
    ],
)
def test_published_weights_get_the_images_they_were_trained_for(origin, name, images):
    found = images_of(origin, Path(name), None)
    assert found == {"image_resize": 224, "crop_pct": 0.875} | images
    for key, value in found.items():
        assert checked_value(key, value, "card") == value


def test_config_json_says_what_images_the_weights_want(tmp_path):
    settings = {
        "input_size": [3, 256, 256],
        "interpolation": "bilinear",
        "crop_pct": 0.95,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop_mode": "center",
    }
    config = {"architecture": "tf_mobilenetv3_small_100", "pretrained_cfg": settings, "label_names": ["cat", "dog"]}
    path = hub_file(tmp_path, config)
    hub = read_hub_config(path)
    assert hub
    assert (hub.origin, hub.class_names) == ("tf", ["cat", "dog"])
    expected = IMAGENET | {"image_resize": 256, "crop_pct": 0.95, "interpolation": "bilinear"}
    assert images_of("tf", path, hub) == expected
    assert images_of("timm", path, hub) == images_of("timm", path, None)  # --origin timm: it is about other weights
    wide = hub_file(tmp_path / "wide", {"architecture": "mobilenetv3_small_100", "input_size": [3, 192, 256]})
    assert images_of("timm", wide, read_hub_config(wide))["image_resize"] == (192, 256)
    old = hub_file(tmp_path / "old", {"architecture": "mobilenetv3_small_100", **settings})
    assert images_of("timm", old, read_hub_config(old)) == expected


def test_a_config_json_of_something_else_is_left_alone(tmp_path):
    assert read_hub_config(tmp_path / "model.safetensors") is None
    for config in ({}, {"architecture": "resnet50"}, {"architectures": ["BertModel"]}):
        assert read_hub_config(hub_file(tmp_path, config)) is None


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (b"{", "not a config.json of timm"),
        (b"\xff\xfe", "not a config.json of timm"),
        ([], "not a config.json of timm"),
        ({"architecture": "mobilenetv3_small_100", "pretrained_cfg": {"mean": 0.5}}, "not a config.json of timm"),
        ({"architecture": "mobilenetv3_small_100", "pretrained_cfg": {"mean": ["x"]}}, "not a config.json of timm"),
        ({"architecture": "mobilenetv3_small_100", "input_size": []}, "not a config.json of timm"),
        ({"architecture": "mobilenetv3_small_100", "interpolation": "lanczos"}, "key 'interpolation': expected one of"),
        ({"architecture": "mobilenetv3_small_100", "crop_pct": 2}, "key 'crop_pct': expected a number, at least 0.1"),
    ],
)
def test_a_damaged_config_json_is_an_error_that_names_it(tmp_path, config, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        read_hub_config(hub_file(tmp_path, config))
    assert str(error.value).startswith(f"{tmp_path}/config.json: ")
