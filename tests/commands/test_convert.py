"""Weights of others to a checkpoint and back, and what is said of files and command lines that are wrong."""

import json
import pickle
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
import safetensors.numpy  # MindSpore's own dependency
from mindspore import Tensor
from PIL import Image

from mindcv_lite.api import create_model
from mindcv_lite.checkpoints.ckpt_file import write_entries
from mindcv_lite.checkpoints.conversion.key_mapping import NETWORKS, ORIGINS, foreign_parameters, their_tensors
from mindcv_lite.checkpoints.model_card import CARD_KEYS, model_card
from mindcv_lite.checkpoints.weights import STEM, Weights, load_weights, read_weights
from mindcv_lite.commands.convert import command_line, main, read_labels
from mindcv_lite.data.transforms.decode_augment import evaluation_transforms
from mindcv_lite.errors import UserError
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.mobilenetv3 import MobileNetV3
from mindcv_lite.recipe.keys import Augmentation
from mindcv_lite.runs.checkpoint_saver import save_weights
from tests.conftest import ROOT

SMALL = "mobilenet_v3_small_075"  # the smallest, for what does not depend on the size
CLASSES = 3


def convert(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def random_parameters(model: str, num_classes: int = CLASSES) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    parameters = foreign_parameters(model, num_classes, "mindcv")
    return {name: random.random(parameter.shape, np.float32) for name, parameter in parameters.items()}


def values_of(weights: Weights) -> dict[str, np.ndarray]:
    return {name: value.asnumpy() for name, value in weights.parameters.items()}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def torchvisions(tmp_path_factory) -> Path:
    """A file of torchvision's small network of width 0.75 with 3 classes."""
    path = tmp_path_factory.mktemp("torchvision") / "weights.safetensors"
    write_entries(path, their_tensors(random_parameters(SMALL), SMALL, "torchvision"))
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory, torchvisions) -> Path:
    """The same as a checkpoint of this project."""
    path = tmp_path_factory.mktemp("ours") / "x.ckpt"
    convert(torchvisions, path)
    return path


@pytest.fixture
def refused(refusal) -> Callable[..., str]:
    return partial(refusal, convert)


# ------------------------------------------------------------------------------------------------- to a checkpoint


@pytest.mark.parametrize(
    ("name", "padding", "eps"),
    [
        ("torchvision_small", "symmetric", 1e-3),
        ("timm_small", "symmetric", 1e-5),
        ("tf_small_imagenet", "same", 1e-3),
        ("mindcv_small", "mindcv", 1e-5),
    ],
)
@pytest.mark.usefixtures("graph_mode")
def test_converted_weights_give_the_logits_of_their_own_project(shared, recipe, tmp_path, name, padding, eps):
    model = "mobilenet_v3_small_100"
    (source,) = (path for path in (shared / "parity").glob(f"{name}.*"))
    convert(source, tmp_path / "x.ckpt")
    weights = read_weights(str(tmp_path / "x.ckpt"))
    card = weights.card
    assert card
    assert (card["model"], card["conv_padding"], card["bn_eps"]) == (model, padding, eps)
    network: Any = MobileNetV3(VARIANTS[model], 1000, conv_padding=padding, bn_eps=eps)
    load_weights(network, weights, recipe(model=model, num_classes=1000, conv_padding=padding, bn_eps=eps))
    network.set_train(False)
    logits = network(Tensor(np.load(shared / "parity/input.npy"))).asnumpy()
    expected = np.load(shared / f"parity/logits_{name}.npy")
    # float32 against float32 of another program; the smallest mistake in padding or epsilon moves them by 0.5.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["torchvision_small", "timm_small", "tf_small_imagenet"])
def test_weights_of_others_come_back_bit_for_bit(shared, tmp_path, name):
    source = shared / f"parity/{name}.safetensors"
    convert(source, tmp_path / "x.ckpt")
    convert(tmp_path / "x.ckpt", tmp_path / "back.safetensors", "--to", name.split("_")[0].replace("tf", "timm"))
    there, back = safetensors.numpy.load_file(source), safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert {name: value.dtype for name, value in back.items()} == {name: value.dtype for name, value in there.items()}
    counters = {name for name in there if name.endswith("num_batches_tracked")}
    assert len(counters) == 34
    for name in there.keys() - counters:
        assert np.array_equal(back[name], there[name]), name


def test_the_card_says_all_that_a_recipe_must_agree_with(ours, torchvisions, log, tmp_path):
    card = read_weights(str(ours)).card
    assert card == {
        "model": SMALL,
        "num_classes": CLASSES,
        "in_channels": 3,
        "conv_padding": "symmetric",
        "bn_eps": 1e-3,
        "image_resize": 224,
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "class_names": None,
    }
    assert {*CARD_KEYS, "class_names"} == set(card or ())
    convert(torchvisions, tmp_path / "x.ckpt")
    trainable = 1_653_920 - 997 * (768 + 1)  # of 1000 classes; here 3
    assert log.messages == [
        f"{torchvisions}: origin torchvision (torchvision's names)",
        f"{tmp_path}/x.ckpt: {SMALL}, {trainable} trainable parameters, 3 classes without names, "
        "conv_padding symmetric, bn_eps 0.001",
    ]


@pytest.mark.parametrize("wrapper", ["module._orig_mod.", "model.", "net.backbone.", "ema."])
def test_names_of_wrappers_and_counters_of_averages_are_taken_off(torchvisions, tmp_path, log, wrapper):
    tensors = safetensors.numpy.load_file(torchvisions)
    wrapped = {f"{wrapper}{name}": value for name, value in tensors.items()}
    beside = {f"mean.{name}": value + 1 for name, value in wrapped.items()}
    others = {"n_averaged": np.array(7), "criterion.weight": np.ones(3, np.float32)}
    write_entries(tmp_path / "wrapped.safetensors", beside | wrapped | others)
    convert(tmp_path / "wrapped.safetensors", tmp_path / "x.ckpt")
    assert same(values_of(read_weights(str(tmp_path / "x.ckpt"))), random_parameters(SMALL))
    assert f"wrapped.safetensors: the parameters of '{wrapper.removesuffix('.')}' are taken" in log.text


def test_safetensors_are_read_under_any_name(torchvisions, tmp_path):
    shutil.copy(torchvisions, tmp_path / "pytorch_model.bin")
    convert(tmp_path / "pytorch_model.bin", tmp_path / "x.ckpt")
    assert same(values_of(read_weights(str(tmp_path / "x.ckpt"))), random_parameters(SMALL))


@pytest.mark.parametrize("name", ["epoch=3.ckpt", "model.safetensors"])
def test_pytorchs_format_is_known_under_any_name(torch_loads, torchvisions, tmp_path, name):
    torch_loads(
        {"state_dict": {f"model.{n}": StandIn(v) for n, v in safetensors.numpy.load_file(torchvisions).items()}}
    )
    (tmp_path / name).write_bytes(b"PK\x03\x04 and more")
    convert(tmp_path / name, tmp_path / "x.ckpt")
    assert same(values_of(read_weights(str(tmp_path / "x.ckpt"))), random_parameters(SMALL))
    with pytest.raises(UserError, match="a file of PyTorch, as Lightning's are; `python -m mindcv_lite convert` takes"):
        read_weights(str(tmp_path / name))


def test_weights_for_grey_images_get_one_mean_and_one_std(tmp_path, log):
    tensors = their_tensors(random_parameters(SMALL) | {STEM: np.ones((16, 1, 3, 3), np.float32)}, SMALL, "timm")
    write_entries(tmp_path / "timm.safetensors", tensors)
    convert(tmp_path / "timm.safetensors", tmp_path / "x.ckpt")
    card = read_weights(str(tmp_path / "x.ckpt")).card or {}
    assert [card[name] for name in ("in_channels", "mean", "std")] == [1, [114.495], [57.63]]
    assert f"{tmp_path}/timm.safetensors: for grey images: mean 114.495, std 57.63, the mean of three" in log.messages


def test_half_precision_becomes_float32(torchvisions, tmp_path):
    tensors = safetensors.numpy.load_file(torchvisions)
    half = {name: value.astype(np.float16) for name, value in tensors.items() if value.dtype == np.float32}
    write_entries(tmp_path / "half.safetensors", half)
    convert(tmp_path / "half.safetensors", tmp_path / "x.ckpt")
    expected = {name: value.astype(np.float16).astype(np.float32) for name, value in random_parameters(SMALL).items()}
    assert same(values_of(read_weights(str(tmp_path / "x.ckpt"))), expected)


def test_config_json_gives_origin_images_and_class_names(tmp_path):
    model, source = "mobilenet_v3_small_100", tmp_path / "model.safetensors"
    write_entries(source, their_tensors(random_parameters(model, 2), model, "timm"))
    settings = {"input_size": [3, 192, 192], "interpolation": "bicubic", "crop_pct": 0.9, "mean": [0.5] * 3}
    config = {"architecture": "tf_mobilenetv3_small_100", "label_names": ["cat", "dog"], "pretrained_cfg": settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "x.ckpt")
    weights = read_weights(str(tmp_path / "x.ckpt"))
    assert weights.class_names == ("cat", "dog")
    expected = {"image_resize": 192, "interpolation": "bicubic", "crop_pct": 0.9, "mean": [127.5] * 3}
    expected |= {"conv_padding": "same", "bn_eps": 1e-3, "std": [127.5] * 3}
    assert expected.items() <= (weights.card or {}).items()


def test_torchvisions_second_weights_are_resized_to_232_pixels(torchvisions, tmp_path):
    shutil.copy(torchvisions, tmp_path / "mobilenet_v3_large-5c1a4163.safetensors")
    convert(tmp_path / "mobilenet_v3_large-5c1a4163.safetensors", tmp_path / "x.ckpt")
    card = read_weights(str(tmp_path / "x.ckpt")).card
    assert card
    settings = Augmentation(image_resize=card["image_resize"], crop_pct=card["crop_pct"])
    image = np.random.default_rng(0).integers(0, 256, (232, 232, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    decode, resize, crop = evaluation_transforms(settings, 3)
    seen = crop(resize(decode(np.fromfile(tmp_path / "image.png", np.uint8))))
    assert np.array_equal(seen, image[4:228, 4:228])  # an image of 232 pixels is only cropped


# ------------------------------------------------------------------------------------------------------ class names


def test_labels_are_a_line_each_or_the_last_of_three_columns(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffGa\u0308nseblümchen\r\n薔薇\r\ntulip tree\r\n".encode())
    assert read_labels(path) == ["Gänseblümchen", "薔薇", "tulip tree"]
    path.write_text("0\tn01\tcrane\n1\tn02\tcrane")
    assert read_labels(path) == ["crane", "crane"]


def test_the_thousand_names_of_imagenet_go_into_the_card(shared, tmp_path, log):
    source, labels = shared / "parity/tf_small_imagenet.safetensors", shared / "imagenet_classes.txt"
    convert(source, tmp_path / "x.ckpt", "--labels", labels)
    names = read_weights(str(tmp_path / "x.ckpt")).class_names
    assert names
    assert (len(names), names[0], names[134], names[517]) == (1000, "tench", "crane", "crane")
    assert "1000 classes with names" in log.text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", ":1: expected a class name, got an empty line"),
        (b"a\n\nc\n", ":2: expected a class name, got an empty line"),
        (b"0\tn01\ta\n1\tn02\t\n", ":2: expected a class name, got an empty line"),
        (b"1\tn01\ta\n2\tn02\tb\n", ":1: expected index 0 in the first column, got '1'"),
        (b"a\xff\n", ": expected class names, text in UTF-8, got other bytes"),
        (None, ": cannot read the class names: No such file or directory"),
        (b"a\nb\n", "it has 3 outputs, but there are 2 class names"),
    ],
)
def test_labels_that_are_wrong(refused, torchvisions, tmp_path, content, sentence):
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    said = refused(torchvisions, tmp_path / "x.ckpt", "--labels", path)
    assert said.endswith(sentence)
    assert said.startswith(str(path) if sentence.startswith(":") else str(torchvisions))


# ------------------------------------------------------------------------------------------------- from a checkpoint


def test_weights_come_back_bit_for_bit_and_the_log_says_what_for(ours, torchvisions, tmp_path, log):
    convert(ours, tmp_path / "back.safetensors", "--to", "torchvision")
    assert same(safetensors.numpy.load_file(tmp_path / "back.safetensors"), safetensors.numpy.load_file(torchvisions))
    network = "mobilenet_v3_small(width_mult=0.75)"
    assert log.messages == [f"{tmp_path}/back.safetensors: the weights of {SMALL}, for {network} of torchvision"]


def test_a_training_file_of_mindcv_is_converted_without_its_optimizer_state_and_with_a_warning(tmp_path, log):
    model = "mobilenet_v3_small_100"
    parameters = random_parameters(model)
    others = {"moments.features.0.weight": np.ones(3, np.float32), "ema.classifier.3.bias": np.ones(3, np.float32)}
    entries = [{"name": name, "data": Tensor(value)} for name, value in (others | parameters).items()]
    mindspore.save_checkpoint(entries, str(tmp_path / "mindcv.ckpt"))
    convert(tmp_path / "mindcv.ckpt", tmp_path / "timm.safetensors", "--to", "timm")
    assert same(safetensors.numpy.load_file(tmp_path / "timm.safetensors"), their_tensors(parameters, model, "timm"))
    passed_over, written, warning = log.messages
    assert "2 entries that are no weights are passed over" in passed_over
    assert written.endswith("for mobilenetv3_small_100 of timm")
    assert warning == (
        "warning: the weights mean conv_padding mindcv, mobilenetv3_small_100 computes with symmetric: "
        "its logits will differ"
    )
    log.clear()
    convert(tmp_path / "mindcv.ckpt", tmp_path / "torchvision.safetensors", "--to", "torchvision")
    assert log.messages[-1] == (
        "warning: the weights mean bn_eps 1e-05, mobilenet_v3_small() computes with 0.001: its logits will differ"
    )


def test_a_checkpoint_of_mindcv_gets_a_card(tmp_path):
    parameters = random_parameters(SMALL)
    entries = [{"name": name, "data": Tensor(value)} for name, value in parameters.items()]
    mindspore.save_checkpoint(entries, str(tmp_path / "mindcv.ckpt"))
    convert(tmp_path / "mindcv.ckpt", tmp_path / "x.ckpt")
    weights = read_weights(str(tmp_path / "x.ckpt"))
    assert same(values_of(weights), parameters)
    assert {"conv_padding": "mindcv", "bn_eps": 1e-5, "interpolation": "bilinear"}.items() <= (
        weights.card or {}
    ).items()


# ------------------------------------------------------------------------------------------------- files that are wrong


def test_a_network_that_was_trained_in_int8_is_of_this_project_alone(refused, recipe, tmp_path):
    source, given = tmp_path / "int8.ckpt", recipe(num_classes=2, quantize="int8", ckpt_path="x.ckpt")
    save_weights(source, {"features.0.weight": np.zeros(1, np.float32)}, model_card(given, ("a", "b")))
    sentence = refused(source, tmp_path / "x.safetensors", "--to", "timm")
    assert sentence == f"{source}: was trained with quantize int8; others have no such network"
    with pytest.raises(UserError, match=r"int8\.ckpt: was trained with quantize int8, and this network does not round"):
        create_model(pretrained=source)


def test_a_damaged_file_is_refused_wherever_it_ends(refused, torchvisions, tmp_path):
    whole, cut = torchvisions.read_bytes(), tmp_path / "cut.safetensors"
    header = int.from_bytes(whole[:8], "little")
    for end in (0, 1, 7, 8, 100, 8 + header - 1, 8 + header, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:end])
        assert refused(cut, tmp_path / "x.ckpt").startswith(f"{cut}: not a weights file of PyTorch, or damaged (")


@pytest.mark.parametrize("content", [b"PK\x03\x04" * 30, bytes(1000), b"not weights\n", b"\x80\x02}q\x00."])
def test_a_foreign_file_is_refused(refused, tmp_path, content):
    pytorchs = content.startswith((b"PK", b"\x80"))
    for name, sentence in (
        ("x.safetensors", "reading this format needs PyTorch" if pytorchs else "not a weights file of PyTorch"),
        ("x.ckpt", "reading this format needs PyTorch" if pytorchs else "not a MindSpore checkpoint"),
    ):
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name, tmp_path / "y.ckpt").startswith(f"{tmp_path / name}: {sentence}")


def test_a_checkpoint_of_this_project_needs_no_conversion(refused, ours, tmp_path):
    said = refused(ours, tmp_path / "x.ckpt")
    assert said.startswith(f"{ours}: a checkpoint of this project already; --to makes")


def test_a_network_that_timm_lacks_is_refused(refused, ours, tmp_path):
    said = refused(ours, tmp_path / "x.safetensors", "--to", "timm")
    assert said.startswith(f"timm has no network that takes the weights of {SMALL}")


def test_what_stands_there_is_not_overwritten(refused, ours, torchvisions, tmp_path):
    advice = "stands there already; remove it, or give another TARGET"
    for path, source, flags in (
        (tmp_path / "x.ckpt", torchvisions, ()),
        (tmp_path / "x.safetensors", ours, ("--to", "timm")),
    ):
        path.write_text("precious")
        assert refused(source, path, *flags) == f"{path}: {advice}"
        assert path.read_text() == "precious"
    (tmp_path / "dangling.ckpt").symlink_to(tmp_path / "nowhere")
    assert refused(torchvisions, tmp_path / "dangling.ckpt").endswith(advice)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no.safetensors", "x.ckpt"], "no.safetensors: no such weights file"),
        (
            ["source.pdparams", "x.ckpt"],
            "source.pdparams: without --to the name of SOURCE must end in .safetensors or ",
        ),
        (["source.pth", "x.pth"], "x.pth: without --to the name of TARGET must end in .ckpt"),
        (["source.pth", "no/x.ckpt"], "no: no such folder"),
        (
            ["source.pth", "x.safetensors", "--to", "timm"],
            "source.pth: with --to timm the name of SOURCE must end in .ckpt",
        ),
        (
            ["source.ckpt", "x.ckpt", "--to", "timm"],
            "x.ckpt: with --to timm the name of TARGET must end in .safetensors",
        ),
        (
            ["source.ckpt", "x.safetensors", "--to", "timm", "--origin", "tf"],
            "command line: --origin and --labels belong",
        ),
        (["source.ckpt"], "command line: the following arguments are required: TARGET; --help lists all flags"),
        (["source.ckpt", "x.ckpt", "y"], "command line: unrecognized arguments: y; --help"),
        (["source.pth", "x.ckpt", "--origin", "keras"], "command line: argument --origin: invalid choice: 'keras'"),
    ],
)
def test_a_wrong_command_line(refused, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    for ending in ("pdparams", "pth", "ckpt"):
        Path(f"source.{ending}").write_text("")
    assert refused(*arguments).startswith(sentence)


def test_the_flag_knows_all_origins():
    (choices,) = (action.choices for action in command_line()._actions if action.dest == "origin")
    assert set(choices or ()) == ORIGINS.keys()
    assert NETWORKS.keys() == ORIGINS.keys() - {"mindcv"}


# ---------------------------------------------------------------------------------------------------- PyTorch's format


class StandIn:
    """A tensor of PyTorch, as far as it is used."""

    def __init__(self, value: np.ndarray):
        self.value = value

    def float(self) -> "StandIn":
        return StandIn(self.value.astype(np.float32))

    def numpy(self) -> np.ndarray:
        return self.value


@pytest.fixture
def torch_loads(monkeypatch) -> Callable[[Any], None]:
    """Put a stand-in for PyTorch in its place, which finds this in any file, or raises it."""

    def loads(content: Any) -> None:
        def load(path: Path, weights_only: bool, map_location: str) -> Any:
            assert (weights_only, map_location) == (True, "cpu")
            if isinstance(content, Exception):
                raise content
            return content

        serialization = types.SimpleNamespace(add_safe_globals=lambda kinds: None)
        torch = types.SimpleNamespace(Tensor=StandIn, load=load, serialization=serialization)
        monkeypatch.setitem(sys.modules, "torch", torch)

    return loads


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("ending", ["pth", "pt", "bin", "pth.tar"])
def test_pytorchs_format_is_read_by_pytorch(torch_loads, torchvisions, tmp_path, log, ending, wrapped):
    tensors = {name: StandIn(value) for name, value in safetensors.numpy.load_file(torchvisions).items()}
    other = {"model": {"x": StandIn(np.zeros(1))}} if wrapped in ("model_ema", "state_dict_ema") else {}
    torch_loads(other | {wrapped: tensors, "epoch": 7} if wrapped else tensors)
    source = tmp_path / f"weights.{ending}"
    source.write_bytes(b"PyTorch knows")
    convert(source, tmp_path / "x.ckpt")
    assert same(values_of(read_weights(str(tmp_path / "x.ckpt"))), random_parameters(SMALL))
    assert (f"{source}: '{wrapped}' is taken" in log.text) == bool(wrapped)


def test_without_pytorch_its_format_is_refused_with_the_way_out(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pth").write_bytes(b"")
    said = refused(tmp_path / "x.pth", tmp_path / "x.ckpt")
    assert said.endswith("needs PyTorch: pip install torch, or give the weights as .safetensors")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "expected a state dict of PyTorch, got list"),
        (StandIn(np.zeros(3)), "expected a state dict of PyTorch, got StandIn"),
        ({"epoch": 3, "model": "small"}, "not a MobileNetV3 of a known project; expected a parameter "),
        (
            pickle.UnpicklingError("weights only"),
            "damaged, or more than weights; save the network's state_dict() alone",
        ),
        (EOFError(), "not a weights file of PyTorch, or damaged (EOFError)"),
    ],
)
def test_what_is_no_state_dict_is_refused(refused, torch_loads, tmp_path, content, sentence):
    (tmp_path / "x.pth").write_bytes(b"")
    torch_loads(content)
    assert refused(tmp_path / "x.pth", tmp_path / "x.ckpt").startswith(f"{tmp_path}/x.pth: {sentence}")


# -------------------------------------------------------------------------------------------------- as a user starts it


def program(*arguments: object, cwd: Path, status: int = 0) -> tuple[str, str]:
    """Output and errors of `python -m mindcv_lite`; it must end with `status`, and with 2 without MindSpore."""
    command = [sys.executable, "-X", "importtime", "-m", "mindcv_lite", *map(str, arguments)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    lines = done.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    assert "mindcv_lite.errors" in imported
    if "--help" in arguments or status == 2:
        assert "mindspore" not in imported
    return done.stdout, "\n".join(line for line in lines if not line.startswith("import time:"))


def test_help_and_mistakes_are_answered_without_waiting_for_mindspore(tmp_path):
    output, errors = program("convert", "--help", cwd=tmp_path)
    assert output.startswith("usage: python -m mindcv_lite convert SOURCE TARGET [--")
    assert errors == ""
    _, errors = program("convert", "x.pth", "x.ckpt", cwd=tmp_path, status=2)
    assert errors == "python -m mindcv_lite convert: error: x.pth: no such weights file"
    _, errors = program("convert", "--form", cwd=tmp_path, status=2)
    assert errors.startswith("python -m mindcv_lite convert: error: command line: ")


@pytest.mark.slow
def test_validation_takes_padding_and_preprocessing_from_the_card(image_folder, tmp_path):
    source, images = tmp_path / "tf_small.safetensors", image_folder({"val": {"a": 3, "b": 2}})
    model = "mobilenet_v3_small_100"
    write_entries(source, their_tensors(random_parameters(model, 2), model, "timm"))
    (tmp_path / "labels").write_text("a\nb\n")
    output, errors = program("convert", source, "x.ckpt", "--labels", "labels", cwd=tmp_path)
    assert errors == ""
    assert "conv_padding same, bn_eps 0.001" in output
    recipe = ROOT / "configs/mobilenetv3/mobilenet_v3_small_finetune.yaml"
    command = (sys.executable, ROOT / "validate.py", "-c", recipe, "--data_dir", images, "--ckpt_path", "x.ckpt")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "x.ckpt: conv_padding same, bn_eps 0.001, mean [127.5, 127.5, 127.5]" in done.stdout
    assert "5 images" in done.stdout
    assert "warning" not in done.stdout
