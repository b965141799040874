"""What is said of images: the same as validation counts, of each readable image once, in order; the rest by reason."""

import contextlib
import csv
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import Mock

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from PIL import Image, ImageOps
from scipy.special import softmax

from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.checkpoints.trained import read_trained
from mindcv_lite.commands.predict import COLUMNS, _keep, _kept_file, main, mindspore_predictor
from mindcv_lite.data.datasets.classes import NAMES
from mindcv_lite.data.datasets.image_folder import Split, images_at, read_split
from mindcv_lite.data.images.decoding import ORIENTATION
from mindcv_lite.data.pipeline import evaluation_batches
from mindcv_lite.device import context as device_start
from mindcv_lite.device import targets
from mindcv_lite.device.ranks import World
from mindcv_lite.device.settings import settings_for
from mindcv_lite.errors import UserError
from mindcv_lite.evaluation.mindspore_predictor import MindSporePredictor
from mindcv_lite.evaluation.predict import Classification, best_classes
from mindcv_lite.evaluation.score import EvaluationStep, evaluate
from mindcv_lite.models.build import build_network
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.checkpoint_saver import save_weights
from tests.conftest import ROOT, write_images

CLASSES = ("a,b", "line\nbreak\t<i>", "rosé")
SHOWN = ("a,b", "line\\nbreak\\t<i>", "rosé")
KEYS = {"model": "mobilenet_v3_small_minimalistic_100", "num_classes": 3, "num_parallel_workers": 1}


class Example(NamedTuple):
    checkpoint: Path
    val: Path
    paths: list[str]
    logits: np.ndarray  # (images, classes), by NumPy's normalisation and single operators


@pytest.fixture(scope="module")
def example(tmp_path_factory, recipe, world, graph_mode) -> Example:
    """Random weights that predict each class for some images."""
    folder = tmp_path_factory.mktemp("example")
    write_images(folder / "images", {"val": {"a": 4, "b": 3, "c": 3}})
    paths = images_at([str(folder / "images/val")])
    given = recipe(**KEYS, batch_size=len(paths))
    network = build_network(given.model, "O0").set_train(False)
    (images,) = (
        images for images, *_ in evaluation_batches(Split(paths, np.zeros(10, np.int32), CLASSES), given, world(given))
    )
    augmentation = given.augmentation
    x = ((images - np.array(augmentation.mean)) / np.array(augmentation.std)).transpose(0, 3, 1, 2).astype(np.float32)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    logits = network(Tensor(x)).asnumpy()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    parameters = {name: value.asnumpy() for name, value in network.parameters_dict().items()}
    spread, middle = logits.std(0), logits.mean(0)  # after this, the logits of a class have deviation 1 and mean 0
    parameters["classifier.3.weight"] /= spread[:, None]
    parameters["classifier.3.bias"] = (parameters["classifier.3.bias"] - middle) / spread
    save_weights(folder / "weights.ckpt", parameters, model_card(given, CLASSES))
    return Example(folder / "weights.ckpt", folder / "images/val", paths, (logits - middle) / spread)


@pytest.fixture
def ask(monkeypatch, tmp_path, capsys) -> Callable[..., tuple[int, list[str], str]]:
    """(exit status, lines on stdout, stderr) of a prediction by MindSpore in this process and an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def ask(*arguments: object) -> tuple[int, list[str], str]:
        status = 0
        try:
            main([*map(str, arguments), "--mindspore", "--device_target", "CPU", "--num_parallel_workers", "1"])
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err

    return ask


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --------------------------------------------------------------------------------------------------------- sound images


def test_classes_and_probabilities_are_those_of_the_network_in_the_order_of_the_images(example, ask):
    status, lines, _ = ask(example.checkpoint, example.val, "--csv", "table.csv", "--batch_size", 4)
    assert status == 0
    expected, order = softmax(example.logits.astype(np.float64), 1), np.argsort(-example.logits, 1)
    assert len(set(order[:, 0])) > 1  # or else a mistaken order of images would not be seen
    rows = rows_of(Path("table.csv"))
    assert tuple(rows[0]) == COLUMNS
    pairs = [(path, rank) for path in example.paths for rank in (1, 2, 3)]
    assert [(row["path"], int(row["rank"])) for row in rows] == pairs
    assert [int(row["output"]) for row in rows] == order.flatten().tolist()
    assert [row["class"] for row in rows] == [SHOWN[output] for output in order.flatten()]
    probabilities = np.array([float(row["probability"]) for row in rows]).reshape(-1, 3)
    np.testing.assert_allclose(probabilities, np.take_along_axis(expected, order, 1), atol=1e-5)
    shown = []
    for path, outputs, shares in zip(example.paths, order, probabilities, strict=True):
        best = [f"{SHOWN[output]} {share:.4f}" for output, share in zip(outputs, shares, strict=True)]
        shown.append("\t".join([path, *best]))
    assert lines == shown


def test_the_best_classes_are_right_as_often_as_validation_counts(example, ask, recipe, world):
    given = recipe(**KEYS)
    images = read_split(str(example.val.parent), "val")
    trained = read_trained(str(example.checkpoint))
    score = evaluate(EvaluationStep(trained.network(), given), images, given, world(given))
    ask(example.checkpoint, example.val, "--top", 1, "--csv", "table.csv")
    rows = rows_of(Path("table.csv"))
    right = sum(int(row["output"]) == label for row, label in zip(rows, images.labels, strict=True))
    assert [row["path"] for row in rows] == list(images.paths)
    assert score.top1 == right / len(images)


@pytest.mark.parametrize(("few", "device"), [(10, "CPU"), (9, "Ascend")])
def test_on_a_host_with_npus_the_cpu_predicts_few_images_and_says_so(example, monkeypatch, log, few, device):
    class Taken(Exception):
        """Ends the start, with the device that was asked for."""

    def start(recipe: Recipe) -> World:
        taken = targets.available_target(recipe.system.device_target)[0]
        if taken == "Ascend":
            raise Taken
        return World(0, 1, settings_for(recipe, taken, processors=2))

    monkeypatch.setattr(targets, "npus", lambda: 8)
    monkeypatch.setattr(targets, "can_compute", lambda *device: True)
    monkeypatch.setattr(device_start, "start_device", start)
    monkeypatch.setattr("mindcv_lite.commands.predict.FEW_IMAGES", few)
    with pytest.raises(Taken) if device == "Ascend" else contextlib.nullcontext():
        predictor = mindspore_predictor(str(example.checkpoint), example.paths, {"num_parallel_workers": 1})
        assert len(predictor.predict(example.paths, 1).best) == 10
    assert ("the CPU, which predicts 10 images or fewer" in log.text) == (device == "CPU")
    with pytest.raises(Taken):  # whoever names it gets it
        mindspore_predictor(str(example.checkpoint), example.paths, {"device_target": "Ascend"})


def test_a_pattern_and_a_checkpoint_of_mindcv_without_a_card_give_imagenets_classes(shared, ask):
    checkpoint = shared / "parity/mindcv_small.ckpt"
    images = str(shared / "data/flowers5/val/roses")
    status, lines, _ = ask(checkpoint, f"{images}/1*.jpg", "--top", 2)
    assert status == 0
    assert [line.split("\t")[0] for line in lines] == sorted(map(str, Path(images).glob("1*.jpg")))
    assert {name.split()[0] for line in lines for name in line.split("\t")[1:]} <= {*NAMES}


def test_equal_outputs_keep_their_order_and_large_ones_do_not_overflow():
    logits = np.array([[1, 3, 3, 2], [1e4, -1e4, 0, 1e4]], np.float32)
    best = best_classes(logits, 9)
    assert [[output for output, _ in row] for row in best] == [[1, 2, 3, 0], [0, 3, 2, 1]]
    np.testing.assert_allclose([share for _, share in best[0]], np.sort(softmax(logits[0].astype(float)))[::-1])
    assert [share for _, share in best[1]] == [0.5, 0.5, 0, 0]
    assert [len(row) for row in best_classes(logits, 2)] == [2, 2]


def test_a_prediction_that_is_no_number_is_not_passed_on(example, recipe, world, graph_mode):
    class NotANumber(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            return ops.sqrt(-1.0 - ops.abs(x.mean((2, 3))))

    given = recipe(on_corrupt="replace")
    weights = SimpleNamespace(path="bad.ckpt")
    trained = SimpleNamespace(recipe=given, class_names=CLASSES, weights=weights, network=NotANumber)
    with pytest.raises(UserError, match=r"bad\.ckpt: the network's outputs are no numbers"):
        MindSporePredictor(trained, world(given)).predict(example.paths, 1)  # type: ignore[bad-argument-type]


# ----------------------------------------------------------------------------------------------------------- odd images


@pytest.fixture
def odd(tmp_path) -> Path:
    """Images that are unusual, and files that are none."""
    folder = tmp_path / "odd"
    folder.mkdir()
    image = Image.effect_noise((60, 50), 90).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "turned.jpg", exif=turned)
    image.save(folder / "progressive.jpg", progressive=True)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("P").save(folder / "palette.png")
    image.save(folder / "bitmap.bmp")
    Image.fromarray(np.full((50, 60), 40_000, np.uint16)).save(folder / "grey16.png")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    image.resize((6000, 4000)).save(folder / "large.jpg")
    whole, png = (folder / "turned.jpg").read_bytes(), (folder / "alpha.png").read_bytes()
    os.rename(folder / "turned.jpg", os.fsencode(folder) + b"/turn\xe9d \n<b>.jpg")
    for name, content in {
        "cut.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "header.jpg": whole[:200],
        "page.jpg": b"<html>",
        "wrong_sum.png": png[: len(png) // 2] + bytes([png[len(png) // 2] ^ 255]) + png[len(png) // 2 + 1 :],
    }.items():
        (folder / name).write_bytes(content)
    image.save(folder / "gif.jpg", "GIF")
    Image.new("RGB", (3000, 2)).save(folder / "narrow.png")
    Image.new("1", (20_000, 20_000)).save(folder / "vast.png")
    (folder / ".hidden.jpg").write_bytes(b"")
    return folder


def test_an_image_that_is_turned_by_its_exif_data_gets_the_predictions_of_the_upright_one(example, ask):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.open(example.paths[0]).save("turned.jpg", exif=exif, quality=95)
    ImageOps.exif_transpose(Image.open("turned.jpg")).save("upright.png")
    Image.open("turned.jpg").save("stored.png", exif=Image.Exif())
    status, lines, _ = ask(example.checkpoint, "turned.jpg", "upright.png", "stored.png")
    turned, upright, stored = (line.split("\t")[1:] for line in lines)
    assert status == 0
    assert turned == upright != stored


@pytest.fixture
def call(example, tmp_path, operators) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Start the program as a user does, in an empty working folder, with a cache that has compiled kernels alone."""
    (tmp_path / "work").mkdir()
    (tmp_path / "cache/mindcv_lite").mkdir(parents=True)
    (tmp_path / "cache/mindcv_lite/cpu").symlink_to(operators.parent)
    here = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-X", "importtime", "-m", "mindcv_lite", "predict", example.checkpoint, *arguments]
        options: dict = {"env": here, "capture_output": True, "text": True, "timeout": 300}
        return subprocess.run(list(map(str, command)), cwd=tmp_path / "work", **options)

    return call


SLOW = {"mindspore", "matplotlib", "scipy", "tensorboard", "onnx", "cv2"}


def said_of(stderr: str) -> tuple[str, set[str]]:
    """What a program said, and which packages it imported."""
    lines = stderr.splitlines(keepends=True)
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    return "".join(line for line in lines if not line.startswith("import time:")), imported


def test_of_a_folder_of_odd_files_each_has_a_line_or_a_reason_and_a_later_call_says_so_without_mindspore(
    call, odd, tmp_path
):
    first, second = call(odd, "--csv", "first.csv"), call(odd, "--csv", "second.csv")
    assert (first.returncode, second.returncode) == (1, 1)
    names = ["alpha.png", "bitmap.bmp", "cmyk.jpg", "gif.jpg", "grey16.png", "large.jpg"]
    names += ["palette.png", "pixel.png", "progressive.jpg"]
    shown = [line.split("\t")[0].removeprefix(f"{odd}/") for line in first.stdout.splitlines()]
    assert shown == [*names, "turn\\udce9d \\n<b>.jpg"]
    assert first.stdout == second.stdout
    (said, imported), (said_later, imported_later) = said_of(first.stderr), said_of(second.stderr)
    assert "mindspore" in imported
    assert "Traceback" not in said + said_later
    assert "WARNING" not in said + said_later
    heading = "7 of 17 images could not be read:\n"
    (log, listed), (log_later, listed_later) = said.split(heading), said_later.split(heading)
    assert listed.replace(f"{odd}/", "").splitlines() == [
        "  cut.jpg: damaged or cut short",
        "  empty.jpg: empty",
        "  header.jpg: damaged or cut short",
        "  narrow.png: 3000 x 2 pixels: too narrow to be resized",
        "  page.jpg: a web page, not a JPEG, PNG, BMP, WebP, TIFF or GIF",
        "  vast.png: more than 178 million pixels",
        "  wrong_sum.png: damaged or cut short",
    ]
    assert listed == listed_later
    (kept,) = tmp_path.glob("cache/mindcv_lite/networks/*")
    assert f"kept for the next call: {kept}, the network for onnxruntime" in log
    assert f"computed by onnxruntime from {kept}, kept by an earlier call" in log_later
    assert imported_later & {"onnxruntime"}
    assert not {name.split(".")[0] for name in imported_later} & SLOW
    assert sorted(os.listdir(tmp_path / "work")) == ["first.csv", "second.csv"]
    tables = [rows_of(tmp_path / "work" / name) for name in ("first.csv", "second.csv")]
    paths = [row["path"].removeprefix(f"{odd}/") for row in tables[0]]
    assert paths[::3] == [*names, "turn\\udce9d \\n<b>.jpg"]
    for row, later in zip(*tables, strict=True):
        assert float(row.pop("probability")) == pytest.approx(float(later.pop("probability")), rel=1e-4)
        assert row == later


def test_a_cache_that_cannot_be_written_costs_a_line(tmp_path, log):
    said = Classification({}, {}, {"a.jpg": np.zeros(3)})
    predictor: Any = SimpleNamespace(parameters=dict)
    reason = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mindcv_lite.export.kept_network.keep", Mock(side_effect=reason))
        _keep(tmp_path / "a.network", predictor, said)
    assert f"{tmp_path}/a.network: the network is not kept for the next call: Read-only file system" in log.text


@pytest.mark.parametrize(("keys", "images"), [({"device_target": "Ascend"}, 1), ({}, 1001)])
def test_no_kept_network_stands_in_for_a_device_or_predicts_many_images(example, keys, images):
    assert _kept_file(str(example.checkpoint), ["a.jpg"] * images, keys) is None


@pytest.mark.parametrize("names", [["cut.jpg"], ["wrong_sum.png"], ["cut.jpg", "wrong_sum.png", "page.jpg"]], ids=str)
def test_where_no_image_can_be_read_all_are_listed(example, odd, ask, names):
    status, lines, errors = ask(example.checkpoint, *(odd / name for name in names))
    assert (status, lines) == (1, [])
    listed = errors.split(f"{len(names)} of {len(names)} images could not be read:\n")[1].splitlines()
    assert [line.split(": ")[0] for line in listed] == [f"  {odd / name}" for name in names]


def test_what_mindspore_alone_cannot_decode_is_listed_and_leaves_the_others_as_they_are(example, odd, ask, monkeypatch):
    monkeypatch.setattr("mindcv_lite.evaluation.predict.inspect", lambda path: SimpleNamespace(flaw=""))
    _, alone, _ = ask(example.checkpoint, example.val)
    status, lines, errors = ask(example.checkpoint, odd / "wrong_sum.png", example.val)
    assert (status, lines) == (1, alone)
    assert errors.endswith(f"  {odd}/wrong_sum.png: MindSpore cannot decode it\n")


# ------------------------------------------------------------------------------------------------------------- refusals


def test_what_leads_to_no_image_is_refused_before_mindspore_is_imported(example):
    command = [sys.executable, "-X", "importtime", "-m", "mindcv_lite", "predict", example.checkpoint, "nowhere.jpg"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("error: nowhere.jpg: no such file or folder, and nothing that this pattern matches\n")
    assert "mindcv_lite.data.datasets.image_folder" in done.stderr
    assert "mindspore" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.ckpt", "a.jpg"], "nowhere.ckpt: no such checkpoint; expected a .ckpt file"),
        (["a.jpg", "a.jpg"], "a.jpg: the name of a checkpoint must end in .ckpt; `python -m mindcv_lite convert`"),
        (["a.ckpt"], "command line: the following arguments are required: PATH"),
        (["a.ckpt", "a.jpg", "--top", "0"], "command line: --top: expected a whole number from 1 on, got 0"),
        (
            ["a.ckpt", "a.jpg", "--batch_size", "0"],
            "command line: key 'batch_size': expected a whole number, at least 1",
        ),
        (
            ["a.ckpt", "--csv", "a.jpg", "a.jpg"],
            "a.jpg: --csv names a .csv to write",
        ),
        (["a.ckpt", "a.jpg", "--csv", "nowhere/a.csv"], "nowhere: no such folder; give another path"),
        (["a.ckpt", "a.jpg"], "a.ckpt: empty; expected a .ckpt file"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_refused(refusal, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    Path("a.ckpt").touch()
    Image.new("RGB", (8, 8)).save("a.jpg")
    assert refusal(main, arguments).startswith(sentence)
