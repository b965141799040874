"""The command that exports: what it makes of its command line, and what it refuses."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.commands.export import CONVERTERS, command_line, main
from mindcv_lite.export import readers
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.build import build_network
from mindcv_lite.models.onnx_graph import DEFAULT_OPSET
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.checkpoint_saver import save_weights

NOT_INSTALLED = readers.Reader("ABC", ("no_such_module",), ("abc-headless",), lambda case: np.asarray)

INT8 = ("x.ckpt", "--format", "onnx", "--int8", "--calibrate")


def export(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


@pytest.fixture
def refused(refusal) -> Callable[..., str]:
    return partial(refusal, export)


def grey_checkpoint(recipe: Callable[..., Recipe], path: Path) -> None:
    """A network of two classes for grey images."""
    wanted = recipe(model="mobilenet_v3_small_075", in_channels=1, mean=[33.0], std=[78.0], num_classes=2)
    network = build_network(wanted.model, "O0")
    parameters = {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}
    save_weights(path, parameters, model_card(wanted, ("<b>", "ü")))


def test_the_file_lies_beside_the_checkpoint_and_the_log_says_what_it_takes_and_gives(recipe, tmp_path, capsys):
    folder = tmp_path / "a <b> & ü"
    folder.mkdir()
    source, target = folder / "my.best.ckpt", folder / "my.best.onnx"
    grey_checkpoint(recipe, source)
    export(source, "--format", "onnx", "--image_resize", "40", "--include_preprocess", "--softmax")
    assert sorted(folder.iterdir()) == [source, target]
    session = onnxruntime.InferenceSession(target.read_bytes())
    (probabilities,) = session.run(["probabilities"], {"images": np.zeros((5, 40, 40, 1), np.uint8)})
    np.testing.assert_allclose(np.asarray(probabilities).sum(1), np.ones(5), rtol=1e-6)
    metadata = session.get_modelmeta().custom_metadata_map
    assert (metadata["image_resize"], json.loads(metadata["class_names"])) == ("40", ["<b>", "ü"])
    difference, written = capsys.readouterr().out.splitlines()[-2:]
    assert " its predictions differ from MindSpore's by at most " in difference
    assert written.endswith("my.best.onnx: uint8 (batch, 40, 40, 1) -> probabilities (batch, 2)")


def test_a_mindir_holds_operators_that_every_machine_has(recipe, tmp_path):
    source, target = tmp_path / "x.ckpt", tmp_path / "x.mindir"
    grey_checkpoint(recipe, source)
    export(source, "--format", "mindir", "--image_resize", "40")
    content = target.read_bytes()
    assert b"BatchNorm" in content
    assert b"Custom" not in content


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no.ckpt", "--format", "onnx"], "no.ckpt: no such checkpoint; expected a .ckpt file"),
        (
            ["x.pth", "--format", "onnx"],
            "x.pth: the name of a checkpoint must end in .ckpt; `python -m mindcv_lite convert`",
        ),
        (["x.ckpt"], "command line: the following arguments are required: --format"),
        ([], "command line: the following arguments are required: CKPT, --format"),
        (["x.ckpt", "--format", "onnx", "--opset", "10"], "command line: --opset: expected a whole number from 11 to "),
        (["x.ckpt", "--format", "onnx", "--opset", "99"], "command line: --opset: expected a whole number from 11 to "),
        (["x.ckpt", "--format", "onnx", "--opset", "x"], "command line: --opset: expected a whole number from 11 to "),
        (["x.ckpt", "--format", "onnx", "--batch", "0"], "command line: --batch: expected a whole number from 1 to "),
        (["x.ckpt", "--format", "onnx", "--batch", "all"], "command line: --batch: expected a whole number from 1 to "),
        (["x.ckpt", "--format", "onnx", "--precision", "int8"], "command line: argument --precision: invalid choice"),
        (
            ["x.ckpt", "--format", "mindir", "--opset", "13"],
            "command line: --format mindir takes no --opset: leave out",
        ),
        (["x.ckpt", "--check_readers", "--softmax"], "command line: --check_readers writes files of all kinds itself"),
        (["--check_readers", "--int8", "--calibrate", "."], "command line: --check_readers needs CKPT with --int8"),
        (["x.ckpt", "--check_readers", "--int8"], "command line: --int8 needs --calibrate FOLDER"),
        (["x.ckpt", "--check_readers", "--calibrate", "."], "command line: --calibrate and --max_drop go with --int8"),
        (["no.ckpt", "--check_readers"], "no.ckpt: no such checkpoint; expected a .ckpt file"),
        (["--check_readers", "--opset", "99"], "command line: --opset: expected a whole number from 11 to "),
        (["x.ckpt", "--format", "pth"], "command line: argument --format: invalid choice: 'pth'"),
        (
            ["x.ckpt", "--format", "tflite", "--opset", "13"],
            "command line: --format tflite takes no --opset: leave out",
        ),
        (
            ["x.ckpt", "--format", "ncnn", "--include_preprocess", "--batch", "2"],
            "command line: --format ncnn takes no --include_preprocess and no --batch: leave out --include_prep",
        ),
        (["x.ckpt", "--format", "openvino", "--precision", "float16"], "command line: --format openvino takes no"),
        (["x.ckpt", "there.onnx", "--format", "tflite"], "there.onnx: stands there already and is no empty folder"),
        (
            ["x.ckpt", "x.mindir", "--format", "onnx"],
            "x.mindir: with --format onnx the name of TARGET must end in .onnx",
        ),
        (["x.ckpt", "no/x.onnx", "--format", "onnx"], "no: no such folder"),
        (["x.ckpt", "there.onnx", "--format", "onnx"], "there.onnx: stands there already; remove it"),
        (["x.ckpt", "dangling.mindir", "--format", "mindir"], "dangling.mindir: stands there already; remove it"),
        (["x.ckpt", "--format", "onnx", "--image_resize", "0"], "command line: key 'image_resize': expected a whole"),
        (["x.ckpt", "--format", "onnx", "--image_resize", "a"], "command line: key 'image_resize': expected a whole"),
        (["x.ckpt", "--format", "onnx", "--int8"], "command line: --int8 needs --calibrate FOLDER"),
        ([*INT8, ""], "command line: --int8 needs --calibrate FOLDER"),
        (["x.ckpt", "--format", "onnx", "--calibrate", "."], "command line: --calibrate and --max_drop go with --int8"),
        (["x.ckpt", "--format", "onnx", "--max_drop", "1"], "command line: --calibrate and --max_drop go with --int8"),
        ([*INT8, "no"], "no: no such folder; --calibrate names a folder of photos"),
        ([*INT8, ".", "--opset", "12"], "command line: --int8 needs --opset 13 or newer, got 12"),
        ([*INT8, ".", "--precision", "float16"], "command line: --int8 and --precision exclude each other"),
        ([*INT8, ".", "--max_drop", "x"], "command line: --max_drop: expected points from 0 to 100, got 'x'"),
        ([*INT8, ".", "--max_drop", "nan"], "command line: --max_drop: expected points from 0 to 100, got 'nan'"),
        (
            ["x.ckpt", "--format", "web", "--int8", "--calibrate", "."],
            "command line: --format web takes no --int8 and no",
        ),
        (["x.ckpt", "--format", "mindir", "--int8"], "command line: --format mindir takes no --int8: leave out"),
        ([*INT8, ".", "--include_resize"], "command line: --int8 and --include_resize exclude each other"),
        (["x.ckpt", "--format", "onnx", "--include_resize", "--opset", "12"], "command line: --include_resize needs"),
        (["x.ckpt", "--format", "mindir", "--include_resize"], "command line: --format mindir takes no --incl"),
        (["x.ckpt", "--format", "web", "--include_resize"], "command line: --format web takes no --include_resize"),
        (["x.ckpt", "--format", "mindir"], "x.ckpt: not a MindSpore checkpoint, or damaged"),
    ],
)
def test_a_wrong_command_line(refused, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    for name in ("x.ckpt", "x.pth", "there.onnx"):
        Path(name).write_text("precious")
    Path("dangling.mindir").symlink_to("nowhere")
    assert refused(*arguments).startswith(sentence)


def test_without_the_packages_the_pip_command_is_told(refused, tmp_path, monkeypatch):
    (tmp_path / "x.ckpt").write_text("")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = refused(tmp_path / "x.ckpt", "--format", "onnx")
    assert said == "--format onnx needs onnxruntime, missing here: pip install onnxruntime"


@pytest.mark.parametrize(
    ("form", "package"), [("openvino", "openvino"), ("ncnn", "pnnx"), ("tflite", "ai_edge_litert")]
)
def test_without_a_converter_the_pip_command_is_told(refused, tmp_path, monkeypatch, form, package):
    (tmp_path / "x.ckpt").write_text("")
    monkeypatch.setitem(CONVERTERS, form, (package,))
    monkeypatch.setitem(sys.modules, package, None)
    said = refused(tmp_path / "x.ckpt", "--format", form)
    assert said == f"--format {form} needs {package}, missing here: pip install {package}"


def test_the_options_reach_the_file_and_the_log_names_its_shapes(recipe, tmp_path, capsys):
    source, target = tmp_path / "x.ckpt", tmp_path / "x.onnx"
    grey_checkpoint(recipe, source)
    options = ("--batch", "2", "--opset", "11", "--precision", "float16")
    export(source, "--format", "onnx", "--image_resize", "40", *options)
    session = onnxruntime.InferenceSession(target.read_bytes())
    (logits,) = session.run(["logits"], {"images": np.zeros((2, 1, 40, 40), np.float16)})
    assert np.asarray(logits).dtype == np.float16
    assert capsys.readouterr().out.rstrip().endswith("x.onnx: float16 (2, 1, 40, 40) -> logits (2, 2)")


def test_a_file_that_resizes_takes_images_of_any_size(recipe, tmp_path, capsys):
    source, target = tmp_path / "x.ckpt", tmp_path / "x.onnx"
    grey_checkpoint(recipe, source)
    export(source, "--format", "onnx", "--image_resize", "40", "--include_resize")
    session = onnxruntime.InferenceSession(target.read_bytes())
    for size in ((40, 40), (90, 51)):
        (logits,) = session.run(["logits"], {"images": np.zeros((3, *size, 1), np.uint8)})
        assert np.asarray(logits).shape == (3, 2)
    assert capsys.readouterr().out.rstrip().endswith("x.onnx: uint8 (batch, height, width, 1) -> logits (batch, 2)")


@pytest.mark.usefixtures("pynative_mode")
@pytest.mark.parametrize("options", [(), ("--include_preprocess", "--softmax", "--batch", "4", "--opset", "17")])
def test_a_file_in_int8_is_small_and_the_log_compares_it(recipe, image_folder, tmp_path, capsys, options):
    source, target = tmp_path / "x.ckpt", tmp_path / "x.onnx"
    grey_checkpoint(recipe, source)
    photos = image_folder({"val": {"<b>": 9, "ü": 9}}) / "val"
    export(source, "--format", "onnx", "--image_resize", "40", "--int8", "--calibrate", photos, *options)
    said = capsys.readouterr().out
    assert f"{photos}: 18 images: calibrated on 12, compared on 6 others" in said
    assert "features.3.layers.3.conv_reduce" in said
    assert "% of 6 images that were not calibrated on" in said
    assert "top-1 of these images: " in said
    assert "MB, " in said
    assert target.stat().st_size < 2_000_000  # 6 MB in float32
    session = onnxruntime.InferenceSession(target.read_bytes())
    images = np.zeros((4, 40, 40, 1), np.uint8) if options else np.zeros((4, 1, 40, 40), np.float32)
    (outputs,) = session.run(None, {"images": images})
    assert np.asarray(outputs).shape == (4, 2)


@pytest.mark.usefixtures("pynative_mode")
def test_photos_that_cannot_be_calibrated_on_are_refused_and_no_file_is_left(recipe, image_folder, refused, tmp_path):
    source, target = tmp_path / "x.ckpt", tmp_path / "x.onnx"
    grey_checkpoint(recipe, source)
    photos = image_folder({"val": {"a": 14}}) / "val"
    (tmp_path / "empty").mkdir()
    command = (source, "--format", "onnx", "--int8", "--image_resize", "40", "--calibrate")
    assert refused(*command, tmp_path / "empty").startswith(f"{tmp_path / 'empty'}: no image (JPEG")
    (photos / "a" / "3.jpg").write_bytes(b"no photo")
    broken = photos / "a" / "3.jpg"
    mend = "mend or remove it, or give --calibrate a folder without it"
    assert refused(*command, photos) == f"{broken}: this image cannot be decoded; {mend}"
    for name in range(4, 7):
        (photos / "a" / f"{name}.jpg").unlink()
    assert "--calibrate needs 12 images or more, there are 11" in refused(*command, photos)
    assert not target.exists()


def test_the_help_page_names_the_default_operator_set():
    assert f"default: {DEFAULT_OPSET}," in " ".join(command_line().format_help().split())


@pytest.mark.usefixtures("pynative_mode")  # which the command sets: it is put back
def test_the_readers_are_compared_on_files_of_a_checkpoint(recipe, tmp_path, capsys, monkeypatch):
    grey_checkpoint(recipe, tmp_path / "x.ckpt")
    monkeypatch.setattr(readers, "SIDES", (33,))
    monkeypatch.setattr(readers, "READERS", (readers.READERS[0], NOT_INSTALLED))
    export(tmp_path / "x.ckpt", "--check_readers")
    said = capsys.readouterr().out.splitlines()
    assert not [line for line in said if "taken" in line], "a line for each network says nothing here"
    said = said[-3:]
    assert said[0].split() == ["reader", "version", "comparisons", "largest", "difference", "same", "best", "class"]
    assert said[1].split()[:3] == ["onnxruntime", onnxruntime.__version__, "8"]
    assert said[2] == "ABC: not installed: pip install abc-headless"
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


@pytest.mark.usefixtures("pynative_mode")  # which the command sets: it is put back
def test_readers_are_compared_in_int8_on_photos_that_it_was_not_calibrated_on(
    recipe, image_folder, tmp_path, capsys, monkeypatch
):
    wanted = recipe(model="mobilenet_v3_small_075", image_resize=40, num_classes=2)
    trained = readers.random_network(wanted)
    parameters = {name: parameter.asnumpy() for name, parameter in trained.weights.parameters.items()}
    save_weights(tmp_path / "x.ckpt", parameters, model_card(wanted, ("<b>", "ü")))
    nothing = readers.READERS[0]._replace(
        name="nothing", open=lambda _: lambda images: np.full((len(images), 2), np.nan)
    )
    other = readers.READERS[0]._replace(name="other", takes=("float32",))
    monkeypatch.setattr(readers, "READERS", (readers.READERS[0], nothing, other))
    photos = image_folder({"val": {"<b>": 9, "ü": 9}}) / "val"
    with pytest.raises(SystemExit) as end:
        export(tmp_path / "x.ckpt", "--check_readers", "--int8", "--calibrate", photos, "--max_drop", "50")
    assert end.value.code == 1
    said = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert said["onnxruntime"].split()[-3:] == ["6", "of", "6"]
    assert said["nothing:"].startswith("nothing: mobilenet_v3_small_075, int8: a drop of ")
    assert said["other:"] == "other: not tried with uint8, float16, int8, which it does not take"
    assert "other" not in said


@pytest.mark.usefixtures("pynative_mode")  # which the command sets: it is put back
def test_a_reader_that_is_wrong_or_reads_nothing_gives_exit_status_1(recipe, tmp_path, capsys, monkeypatch):
    grey_checkpoint(recipe, tmp_path / "x.ckpt")
    monkeypatch.setattr(readers, "SIDES", (33,))

    def refuses(case):
        raise ValueError("no such\noperator")

    broken = [readers.READERS[0]._replace(name="refuses", open=refuses)]
    broken.append(readers.READERS[0]._replace(name="zeros", open=lambda *_: lambda images: np.zeros((len(images), 2))))
    monkeypatch.setattr(readers, "READERS", tuple(broken))
    with pytest.raises(SystemExit) as end:
        export(tmp_path / "x.ckpt", "--check_readers")
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert "refuses: mobilenet_v3_small_075, mindcv, 33, --softmax: not read: no such operator" in said
    assert "zeros: mobilenet_v3_small_075, mindcv, 33, batch 7: off by 1.0e+00 of the largest number" in said


@pytest.mark.usefixtures("pynative_mode")  # which the command sets: it is put back
def test_onnxruntime_is_not_said_to_read_what_another_program_runs_in_its_place(recipe, tmp_path, capsys, monkeypatch):
    grey_checkpoint(recipe, tmp_path / "x.ckpt")
    monkeypatch.setattr(readers, "SIDES", (33,))
    monkeypatch.setattr(readers, "READERS", readers.READERS[:1])

    def refuse(*_, **__):
        raise Fail("too new")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(SystemExit) as end:
        export(tmp_path / "x.ckpt", "--check_readers")
    assert end.value.code == 1
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("onnxruntime: ") and line.endswith(": not read: too new") for line in said) == 4


@pytest.mark.usefixtures("pynative_mode")
def test_a_network_that_was_trained_in_int8_becomes_an_int8_file_without_photos(
    recipe, refused, monkeypatch, tmp_path, capsys
):
    small = VARIANTS["mobilenet_v3_small_075"]
    monkeypatch.setitem(VARIANTS, "mobilenet_v3_small_075", small._replace(rows=small.rows[:1]))
    keys = {
        "in_channels": 1,
        "mean": [33.0],
        "std": [78.0],
        "num_classes": 2,
        "quantize": "int8",
        "ckpt_path": "x.ckpt",
    }
    wanted = recipe(model="mobilenet_v3_small_075", **keys)
    network = build_network(wanted.model, "O0")
    parameters = {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}
    scales = {name: np.array([-3], np.float32) for name in parameters if name.endswith("log_scale")}
    zeros = {name: np.array([100], np.float32) for name in parameters if name.endswith(".zero")}
    source, target = tmp_path / "x.ckpt", tmp_path / "x.onnx"
    save_weights(source, parameters | scales | zeros, model_card(wanted, ("a", "b")))
    export(source, "--format", "onnx", "--image_resize", "40")
    assert "MB, " in capsys.readouterr().out
    session = onnxruntime.InferenceSession(target.read_bytes())
    assert session.get_modelmeta().custom_metadata_map["quantize"] == "int8"
    assert target.read_bytes().count(b"QuantizeLinear") > 10
    export(source, "--format", "mindir", "--image_resize", "40")
    target.unlink()
    (tmp_path / "photos").mkdir()
    is_int8 = f"{source} was trained with quantize int8"
    command = (source, "--format", "onnx")
    assert refused(*command, "--precision", "float16") == f"{is_int8}: leave out --precision float16"
    assert refused(*command, "--opset", "12") == f"{is_int8}, which needs --opset 13 or newer, got 12"
    assert refused(*command, "--int8", "--calibrate", tmp_path / "photos").startswith(
        f"{is_int8}, and its ONNX file is"
    )
    assert refused(source, "--format", "web").startswith(f"{is_int8}, which was not tried with --format web")
    assert refused(source, "--check_readers").startswith(is_int8)
