"""What the command says of a network and of a checkpoint, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import mindspore
import numpy as np
import pytest

from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.commands.summary import main
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.build import build_network
from mindcv_lite.runs.checkpoint_saver import save_weights
from tests.conftest import ROOT, drawn_rows


@pytest.fixture
def said(capsys):
    """The lines of a summary."""

    def said(*arguments: object) -> list[str]:
        main(list(map(str, arguments)))
        return capsys.readouterr().out.splitlines()

    return said


@pytest.fixture
def checkpoint(recipe, graph_mode, tmp_path):
    """Write a checkpoint of the small network with a card."""

    def write(class_names: tuple, **keys: object) -> Path:
        wanted = recipe(num_classes=len(class_names), **{"image_resize": 48, "conv_padding": "same"} | keys)
        network = build_network(wanted.model, "O0")
        weights = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
        path = tmp_path / "flowers é.ckpt"
        save_weights(path, weights, model_card(wanted, class_names, epoch=7, top1=0.925))
        return path

    return write


@pytest.mark.parametrize("model", VARIANTS)
def test_a_network_is_shown_and_drawn_from_its_name_without_mindspore(model, tmp_path):
    program = "import sys; from mindcv_lite.commands.summary import main; main(sys.argv[1:])"
    checked = f"{program}; assert not {{'mindspore', 'numpy'}} & set(sys.modules)"
    command = [sys.executable, "-c", checked, model, "--picture", str(tmp_path / "network.svg")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"{model}, 1000 classes, images of 3 x 224 x 224"
    assert len(lines) == 2 + 1 + len(VARIANTS[model].rows) + 4 + 1 + 4
    drawn = drawn_rows((tmp_path / "network.svg").read_text())
    assert [row["layer"] for row in drawn] == ["image", *(line.split("  ")[0] for line in lines[2:-5])]


def test_a_network_of_other_images_and_classes(said):
    flags = ("--image_resize", "96", "--num_classes", "1", "--in_channels", "1")
    lines = said("mobilenet_v3_small_100", *flags)
    assert lines[0] == "mobilenet_v3_small_100, 1 class, images of 1 x 96 x 96"
    assert " ".join(lines[2].split()) == "stem 3 2 - - hswish 16 x 48 x 48 176 32 331,776 3"
    assert " ".join(lines[17].split()) == "logits - - - - - 1 1,025 0 1,024 image"


def test_a_picture_is_of_the_images_and_classes_asked_for(said, tmp_path):
    path = tmp_path / "grey.svg"
    path.write_text("an earlier picture")
    flags = ("--image_resize", "96", "--num_classes", "7", "--in_channels", "1")
    assert said("mobilenet_v3_small_075", *flags, "--picture", path) == said("mobilenet_v3_small_075", *flags)
    assert [row["output"] for row in drawn_rows(path.read_text())][:2] == ["1 x 96 x 96", "16 x 48 x 48"]
    assert drawn_rows(path.read_text())[-1] == {"layer": "logits", "output": "7"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_pictures_in_the_documents_are_those_that_the_command_draws(said, tmp_path, size):
    path = tmp_path / "network.svg"
    said(f"mobilenet_v3_{size}_100", "--picture", path)
    assert path.read_text() == (ROOT / f"docs/images/mobilenet_v3_{size}.svg").read_text(), "draw it anew"


@pytest.mark.parametrize("nothing", ["None", "~", ""])
def test_none_is_a_flag_left_out(said, nothing):
    assert said("mobilenet_v3_small_100", "--num_classes", nothing) == said("mobilenet_v3_small_100")


def test_a_checkpoint_is_shown_with_its_card(said, checkpoint):
    names = ("rose", "a\nb", "<i>", "\udce9", "tulip", "oak", "elm")
    path = checkpoint(names)
    lines = said(path)
    start = lines.index(f"{path}: its model card")
    entries = dict(line.split(maxsplit=1) for line in lines[start + 1 : lines.index("")])
    expected = {
        "model": "mobilenet_v3_small_100",
        "conv_padding": "same",
        "num_classes": "7",
        "image_resize": "48",
        "mean": "[123.675, 116.28, 103.53]",
        "class_names": r"'rose', 'a\nb', '<i>', '\udce9', 'tulip' and 2 more",
        "epoch": "7",
        "top1": "92.50%",
    }
    assert expected.items() <= entries.items()
    assert "mobilenet_v3_small_100, 7 classes, images of 3 x 48 x 48" in lines
    assert "mobilenet_v3_small_100, 7 classes, images of 3 x 64 x 64" in said(path, "--image_resize", 64)
    assert said(path, "--picture", path.with_suffix(".svg")) == lines
    image, *_, logits = drawn_rows(path.with_suffix(".svg").read_text())
    assert (image["output"], logits["output"]) == ("3 x 48 x 48", "7")
    lines = said(path, "--image_resize", "[64, 96]", "--picture", path.with_suffix(".svg"))
    assert "mobilenet_v3_small_100, 7 classes, images of 3 x 64 x 96" in lines
    assert drawn_rows(path.with_suffix(".svg").read_text())[1]["output"] == "16 x 32 x 48"


def test_a_grey_network_of_one_class(said, checkpoint):
    path = checkpoint(("only",), in_channels=1, mean=[0], std=[1])
    lines = said(path)
    assert "  class_names    'only'" in lines
    assert "mobilenet_v3_small_100, 1 class, images of 1 x 48 x 48" in lines


def test_a_checkpoint_without_a_card_means_what_mindcv_does(said, recipe, graph_mode, tmp_path):
    path = tmp_path / "mindcv.ckpt"
    mindspore.save_checkpoint(
        build_network(recipe(model="mobilenet_v3_large_075", num_classes=3).model, "O0"), str(path)
    )
    lines = said(path)
    assert f"{path}: no model card, so one of MindCV's, which mean" in lines
    assert "  conv_padding   mindcv" in lines
    assert "mobilenet_v3_large_075, 3 classes, images of 3 x 224 x 224" in lines


def test_weights_that_are_not_those_of_the_cards_network_are_refused(refusal, checkpoint):
    path = checkpoint(("a", "b"))
    entries = mindspore.load_checkpoint(str(path))
    card = json.loads(str(entries.pop("model_card")))
    del entries["features.3.layers.0.weight"]
    save_weights(path, {name: np.asarray(value.asnumpy()) for name, value in entries.items()}, card)
    assert "'features.3.layers.0.weight' is missing" in refusal(main, [str(path)])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mobilenet_v3_smal_100"], "'mobilenet_v3_smal_100' is no network; did you mean 'mobilenet_v3_small_100'?"),
        (["x"], f"x: no such checkpoint; expected a .ckpt file, or one of {', '.join(VARIANTS)}"),
        (["mobilenet_v3_small_100_best.ckpt"], "mobilenet_v3_small_100_best.ckpt: no such checkpoint; expected a "),
        ([str(ROOT / "README.md")], f"{ROOT}/README.md: the name of a checkpoint must end in .ckpt; `python -m "),
        (
            ["mobilenet_v3_small_100", "--image_resize", "0"],
            "command line: key 'image_resize': expected a whole number or a list of 2 whole numbers, [height, width], ",
        ),
        (
            ["mobilenet_v3_small_100", "--in_channels", "2"],
            "command line: key 'in_channels': expected one of 1, 3, got",
        ),
    ],
)
def test_mistakes_are_answered_with_what_to_do(refusal, arguments, sentence):
    assert refusal(main, arguments).startswith(sentence)


@pytest.mark.parametrize("name", ["x.png", "svg", "x.svg.gz", ""])
def test_a_picture_of_another_kind_or_nowhere_is_refused(refusal, tmp_path, name):
    path = tmp_path / name
    assert refusal(main, ["mobilenet_v3_small_100", "--picture", str(path)]) == (
        f"{path}: --picture names a file that ends in .svg"
    )
    path = tmp_path / "none/x.svg"
    assert refusal(main, ["mobilenet_v3_small_100", "--picture", str(path)]).startswith(
        f"{path.parent}: no such folder"
    )


def test_what_a_checkpoint_says_itself_is_refused_on_the_command_line(refusal, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"")
    for flag in ("--num_classes", "--in_channels"):
        assert refusal(main, [str(path), flag, "3"]) == f"command line: {flag}: {path} says this itself; leave it out"
    assert refusal(main, [str(path)]) == f"{path}: empty; expected a .ckpt file"
