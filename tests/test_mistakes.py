"""Mistakes of a user: each is answered by one sentence on stderr and exit status 2, and nothing is written.

`told` runs a program's main inside this process, where MindSpore is imported already; one mistake of each family is
made in a program of its own, as a user makes it (`told_to_a_user`).
"""

import logging
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mindcv_lite import program
from tests.conftest import ROOT

SMALL = str(ROOT / "configs/mobilenetv3/mobilenet_v3_small_ascend.yaml")
TINY = ("-c", SMALL, "--distribute", "False", "--image_resize", "32", "--num_classes", "2", "--batch_size", "2")


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder({"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 2}})


def sentence_of(stderr: str, script: str) -> str:
    """The one sentence, without the program's name."""
    assert "Traceback" not in stderr
    start = f"{script}: error: "
    assert stderr.startswith(start), stderr
    assert stderr.endswith("\n")
    assert len(stderr.splitlines()) == 1, stderr
    return stderr.removeprefix(start).strip()


@pytest.fixture
def told(work, monkeypatch, capfd) -> Callable[..., str]:
    """What a script, run in this process, says of a mistake."""
    monkeypatch.setattr(program, "_owner", [])
    monkeypatch.setattr(program, "keep_ctrl_c", lambda: None)  # the signals stay those of the test run
    monkeypatch.setattr(program, "handle_signals", lambda handler: None)
    monkeypatch.setattr(logging.getLogger("mindcv_lite"), "handlers", [])

    def told(script: str, *flags: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert end.value.code == 2
        assert list(work.iterdir()) == []
        return sentence_of(capfd.readouterr().err, script)

    return told


@pytest.fixture
def told_to_a_user(work) -> Callable[..., str]:
    """What a script says of a mistake, as a program of its own."""

    def told(script: str, *flags: object) -> str:
        command = [sys.executable, str(ROOT / script), *map(str, flags)]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stdout + done.stderr
        assert list(work.iterdir()) == []
        return sentence_of(done.stderr, script)

    return told


# ------------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "--config names a YAML file, or a recipe that `python -m mindcv_lite recipes` lists"),
        (b"", "expected a recipe, lines of 'key: value', got an empty file"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "expected a recipe, YAML text in UTF-8, got other bytes"),
        (b"lr: 0.1\n\topt: sgd\n", "2: not valid YAML: found character '\\t' that cannot start any token"),
        (b"{'lr': 0.1", "1: not valid YAML: expected ',' or '}', but got '<stream end>'"),
        (b"lr: 0.1\nlr: 0.2\n", "2: not valid YAML: key 'lr' stands twice"),
    ],
    ids=["missing", "empty", "image", "tab", "open bracket", "twice"],
)
@pytest.mark.parametrize("script", ["train.py", "validate.py"])
def test_a_file_that_is_no_recipe(told_to_a_user, tmp_path, script, content, sentence):
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_bytes(content)
    answer = told_to_a_user(script, "--config", path)
    assert answer.startswith(f"{path}:")
    assert answer.endswith(sentence)


@pytest.mark.parametrize(
    ("script", "flags", "sentence"),
    [
        ("train.py", ["--num_classes", "1"], "num_classes is 1, but there are 2 classes; use --num_classes 2"),
        ("train.py", ["--batch_size", "7"], "batch_size 7 x 1 devices is more than the 6 training images"),
        ("train.py", ["--train_split", "nowhere"], "no folder 'nowhere' in it"),
        ("train.py", ["--distribute", "True"], "distribute is True, but this process was not started by msrun"),
        ("train.py", ["--val_while_train", "True", "--val_split", "other"], "other: class 'b' is missing"),
        ("validate.py", ["--val_split", "nowhere", "--ckpt_path", "x.ckpt"], "no folder 'nowhere' in it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_needs_no_mindspore_is_told_without_it_and_alone(images, tmp_path, script, flags, sentence):
    shutil.copytree(images / "val/a", images / "other/a")
    (tmp_path / "x.ckpt").touch()
    command = [sys.executable, "-X", "importtime", ROOT / script, *TINY, "--data_dir", images, *flags]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr.splitlines()[-1]
    assert "mindcv_lite.data.datasets.splits" in done.stderr
    assert " mindspore\n" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--epoch_sise", "3"], "command line: unknown key 'epoch_sise'; did you mean 'epoch_size'?"),
        (["--lr", "fast"], "command line: key 'lr': expected a number, above 0, got 'fast'"),
        (
            ["--batch_size", "True"],
            "command line: key 'batch_size': expected a whole number, at least 1, at most 65536, got True",
        ),
        (["--device_target", "NPU"], "command line: key 'device_target': expected one of auto, Ascend, GPU, CPU, got"),
        (["--scale", "0.3"], "command line: key 'scale': expected a list of 2 numbers, [low, high], above 0, at most"),
        (["--aug_splits", "3"], "command line: key 'aug_splits': only 0 is accepted, got 3; split augmentation is not"),
    ],
    ids=["unknown key", "type", "bool as number", "choice", "list", "key of MindCV"],
)
@pytest.mark.parametrize("script", ["train.py", "validate.py"])
def test_a_wrong_flag(told_to_a_user, script, flags, sentence):
    assert told_to_a_user(script, "-c", SMALL, *flags).startswith(sentence)


def test_no_recipe_at_all(told_to_a_user):
    assert "give a recipe with --config" in told_to_a_user("train.py")
    assert (
        told_to_a_user("validate.py") == "command line: ckpt_path is not set: --ckpt_path names the checkpoint to check"
    )


def test_no_checkpoint_to_validate(told_to_a_user):
    sentence = told_to_a_user("validate.py", "-c", SMALL)
    assert sentence == "command line: ckpt_path is not set: --ckpt_path names the checkpoint to check"


@pytest.mark.parametrize("folder", [SMALL, f"{SMALL}/new", "/proc/new"])
def test_no_folder_for_a_report(told, folder):
    assert told("validate.py", *TINY, "--report", folder).startswith(f"{folder}: no folder to write to: ")


def test_a_folder_in_the_place_of_a_report_s_file(told, images, tmp_path):
    (tmp_path / "report/confusion.csv").mkdir(parents=True)
    (tmp_path / "x.ckpt").touch()
    said = told(
        "validate.py",
        *TINY,
        "--data_dir",
        images,
        "--ckpt_path",
        tmp_path / "x.ckpt",
        "--report",
        tmp_path / "report",
    )
    assert said == f"{tmp_path}/report/confusion.csv: stands there and is no file; give another path"


def test_a_report_is_for_validation_alone_and_wants_a_folder(told):
    assert told("train.py", *TINY, "--report", "new").startswith("command line: unknown key 'report'")
    assert told("validate.py", *TINY, "--report=").endswith(
        "argument --report: expected a folder, got ''; --help lists all flags"
    )
    assert told("validate.py", *TINY, "--report").startswith("command line: argument --report: expected one argument")


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("train.py", ("--data_dir", "nowhere")),
        ("train.py", ("--data_dir", ROOT, "--ckpt_path", "no.ckpt")),
        ("train.py", ("--data_dir", ROOT, "--freeze", "99")),
        ("validate.py", ("--data_dir", "nowhere", "--ckpt_path", SMALL)),
        ("validate.py", ("--data_dir", ROOT, "--ckpt_path", "no.ckpt")),
        ("validate.py", ("--report", SMALL)),
    ],
)
def test_a_wrong_path_or_a_row_too_many_is_answered_without_waiting_for_mindspore(work, script, flags):
    command = [sys.executable, "-X", "importtime", ROOT / script, *TINY, *flags]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=120)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "mindcv_lite.recipe" in imported
    assert done.returncode == 2
    assert "mindspore" not in imported


# ------------------------------------------------------------------------------------------------------------- images


def without(path: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / path)


def emptied(path: str) -> Callable[[Path], None]:
    def empty(folder: Path) -> None:
        for image in (folder / path).iterdir():
            image.unlink()

    return empty


def unreadable(path: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for image in (folder / path).iterdir():
            image.write_bytes(image.read_bytes()[:100])

    return spoil


def renamed(path: str, name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).rename((folder / path).with_name(name))


def moved(folder: Path, name: str) -> Path:
    return (folder / name).rename(folder / "flowers" / name)


def one_level_deeper(folder: Path) -> None:
    for split in ("train", "val"):
        (folder / split).rename(folder / "classes")
        (folder / split).mkdir()
        (folder / "classes").rename(folder / split / "flowers")


IMAGE_MISTAKES = {
    "no train folder": (
        without("train"),
        "no folder 'train' in it (found: val); expected train/<class>/*.jpg; make it",
    ),
    "no val folder": (
        without("val"),
        "(found: train); expected val/<class>/*.jpg; or train with --val_share 0.2, which holds out a share",
    ),
    "no class": (lambda folder: [without("train/a")(folder), without("train/b")(folder)], "train/<class>/*.jpg"),
    "one class": (
        lambda folder: [without("train/b")(folder), without("val/b")(folder)],
        "train: there is one class, 'a', and a network learns to tell classes apart; add folders of other classes",
    ),
    "a folder between": (
        one_level_deeper,
        "; or, if the classes are the folders in it, --train_split train/flowers --val_split val/flowers",
    ),
    "a folder above": (
        lambda folder: [(folder / "flowers").mkdir(), *(moved(folder, name) for name in ("train", "val"))],
        "images: no folder 'train' in it (found: flowers); expected train/<class>/*.jpg; or give --data_dir ",
    ),
    "empty class": (
        emptied("train/b"),
        "images/train/b: no image (JPEG, PNG, BMP, WebP, TIFF or GIF) in this class; add some",
    ),
    "empty class in val": (
        emptied("val/b"),
        "images/val/b: no image (JPEG, PNG, BMP, WebP, TIFF or GIF) in this class",
    ),
    "class missing in val": (without("val/b"), "images/val: class 'b' is missing; expected the 2 classes"),
    "class unknown in val": (renamed("val/b", "c"), "images/val: class 'b' is missing and class 'c' is unknown"),
    "nothing readable": (unreadable("train/a"), "images/train/a: none of its 3 images can be decoded, such as "),
    "nothing readable in val": (unreadable("val/a"), "images/val/a: none of its 2 images can be decoded, such as "),
}


@pytest.mark.slow
@pytest.mark.parametrize(("mistake", "sentence"), IMAGE_MISTAKES.values(), ids=IMAGE_MISTAKES)
def test_images_that_do_not_fit(told, images, mistake, sentence):
    mistake(images)
    assert sentence in told("train.py", *TINY, "--data_dir", images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no val folder", "class unknown in val"])
def test_images_that_do_not_fit_the_checkpoint(told, images, checkpoint, name):
    mistake, sentence = IMAGE_MISTAKES[name]
    mistake(images)
    assert sentence in told("validate.py", *TINY, "--data_dir", images, "--ckpt_path", checkpoint)


@pytest.mark.slow
def test_the_classes_of_a_checkpoint_hold_without_a_train_folder(told, images, checkpoint):
    shutil.rmtree(images / "train")
    (images / "val/b").rename(images / "val/c")
    sentence = told("validate.py", *TINY, "--data_dir", images, "--ckpt_path", checkpoint)
    assert "images/val: class 'b' is missing and class 'c' is unknown" in sentence


@pytest.fixture
def of_imagenet(recipe, graph_mode, tmp_path) -> Path:
    """A checkpoint of 1000 classes that knows no names."""
    import mindspore

    from mindcv_lite.models.build import build_network

    path = tmp_path / "imagenet.ckpt"
    mindspore.save_checkpoint(build_network(recipe(num_classes=1000).model, "O0"), str(path))
    return path


@pytest.mark.slow
def test_classes_that_are_not_all_named_after_imagenet(told, image_folder, of_imagenet):
    images = image_folder({"val": {"n01440764": 1, "goldfish": 1}})
    flags = ("-c", SMALL, "--image_resize", "32", "--data_dir", images, "--ckpt_path", of_imagenet)
    advice = "name all classes by wnid (n01440764), or all by index (0 to 999)"
    assert told("validate.py", *flags) == f"{images}/val: class 'goldfish' is unknown; {advice}"


@pytest.mark.slow
def test_a_folder_that_does_not_exist_and_none_at_all(told):
    advice = "--data_dir names the folder that holds train/<class>/*.jpg"
    assert told("train.py", *TINY, "--data_dir", "nowhere") == f"nowhere: no such folder; {advice}"
    assert told("train.py", *TINY) == f"data_dir is not set: {advice}"


@pytest.mark.slow
def test_images_that_do_not_fit_as_a_user_is_told(told_to_a_user, images):
    without("val/b")(images)
    assert "images/val: class 'b' is missing" in told_to_a_user("train.py", *TINY, "--data_dir", images)


@pytest.mark.slow
@pytest.mark.parametrize(("train_split", "val_split"), [("train", "train"), ("./train", "train/")])
def test_one_split_for_training_and_validation(told, images, train_split, val_split):
    flags = (*TINY, "--data_dir", images, f"--train_split={train_split}", f"--val_split={val_split}")
    assert f"train_split and val_split are both '{val_split}': the score would be" in told("train.py", *flags)


@pytest.mark.slow
def test_fewer_outputs_than_classes(told, images):
    sentence = told("train.py", *TINY, "--data_dir", images, "--num_classes", 1)
    assert sentence == "num_classes is 1, but there are 2 classes; use --num_classes 2"


@pytest.mark.slow
def test_a_batch_larger_than_the_images(told, images):
    sentence = told("train.py", *TINY, "--data_dir", images, "--batch_size", 7)
    assert "batch_size 7 x 1 devices is more than the 6 training images" in sentence
    assert sentence.endswith("lower --batch_size, or --drop_remainder False")


@pytest.mark.slow
def test_a_batch_larger_than_the_images_as_a_user_is_told(told_to_a_user, images):
    sentence = told_to_a_user("train.py", *TINY, "--data_dir", images, "--num_samples", 1)
    assert "batch_size 2 x 1 devices is more than the 1 training images" in sentence


# -------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recipe) -> Path:
    """A checkpoint of the small network for the classes a and b."""
    from mindcv_lite.checkpoints.model_card import model_card
    from mindcv_lite.models.build import build_network
    from mindcv_lite.runs.checkpoint_saver import save_weights

    two = recipe(num_classes=2)
    path = tmp_path_factory.mktemp("checkpoints") / "whole.ckpt"
    weights = {parameter.name: parameter.asnumpy() for parameter in build_network(two.model, "O0").get_parameters()}
    save_weights(path, weights, model_card(two, ("a", "b")))
    return path


@pytest.fixture
def checkpoint(whole, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copy(whole, tmp_path / "x.ckpt"))


@pytest.fixture
def both_told(told, images) -> Callable[..., str]:
    """What train.py, which starts from weights, and validate.py, which checks them, both say of a checkpoint."""

    def both(path: Path, *flags: object) -> str:
        common = (*TINY, "--data_dir", images, "--ckpt_path", path, *flags)
        sentence = told("train.py", *common)
        assert told("validate.py", *common) == sentence
        return sentence

    return both


@pytest.mark.slow
def test_a_checkpoint_that_does_not_exist(both_told, tmp_path):
    advice = "no such checkpoint; expected a .ckpt file"
    assert both_told(tmp_path / "no.ckpt") == f"{tmp_path}/no.ckpt: {advice}"
    assert both_told(tmp_path) == f"{tmp_path}: {advice}"


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"hello\n", b"\x89PNG\r\n\x1a\n" + bytes(range(256))])
def test_a_file_that_is_no_checkpoint(both_told, tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    assert both_told(path).startswith(f"{path}: not a MindSpore checkpoint, or damaged (")


@pytest.mark.slow
def test_names_that_are_no_checkpoints_are_answered_without_reading_them(both_told, tmp_path):
    path = tmp_path / "tf_mobilenetv3_small_100.safetensors"
    path.write_bytes(b"")
    assert both_told(path).startswith(f"{path}: the name of a checkpoint must end in .ckpt; `python -m mindcv_lite ")
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"")
    assert both_told(path) == f"{path}: empty; expected a .ckpt file"


@pytest.mark.slow
@pytest.mark.parametrize("share", [1e-6, 0.001, 0.25, 0.5, 0.999, 1 - 1e-6])
def test_a_checkpoint_that_was_cut(both_told, checkpoint, share):
    size = checkpoint.stat().st_size
    os.truncate(checkpoint, int(size * share))
    assert 0 < checkpoint.stat().st_size < size
    assert both_told(checkpoint).startswith(f"{checkpoint}: not a MindSpore checkpoint, or damaged (")


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_as_a_user_is_told(told_to_a_user, checkpoint, images):
    os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    sentence = told_to_a_user("validate.py", *TINY, "--data_dir", images, "--ckpt_path", checkpoint)
    assert sentence.startswith(f"{checkpoint}: not a MindSpore checkpoint, or damaged (")


# Takes damaged copies of a checkpoint one after the other: in a process of its own, which damage may end.
TAKE_DAMAGED = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.models.build import build_network
from mindcv_lite.errors import UserError
from mindcv_lite.checkpoints.weights import load_weights, read_weights
recipe = load_recipe({flags!r}, "")
network = build_network(recipe.model, "O0")
whole = Path({path!r}).read_bytes()
damaged = Path({path!r}).with_name("damaged.ckpt")
for position, flip in {changes!r}:
    content = bytearray(whole)
    content[position] ^= flip
    damaged.write_bytes(content)
    print(position, flip, end=" ", flush=True)
    try:
        load_weights(network, read_weights(str(damaged)))
        print("taken", flush=True)
    except UserError as error:
        print("refused:", error, flush=True)
"""


# The checksum sees it. A file of others without one is left to MindSpore's reader, whose process a wrong shape may end.
@pytest.mark.slow
def test_one_changed_byte_anywhere_in_a_checkpoint_of_ours_is_refused(checkpoint, work):
    content = checkpoint.read_bytes()
    first = content.index(b"features.0.weight")
    numbers = content.index(b"Float32", first) + len("Float32")
    meanings = range(first - 5, numbers)  # sizes, name, shape and type of the first tensor
    card = range(content.index(b"model_card"), first - 5, 20)
    checksum = range(len(content) - 17, len(content))
    positions = [*meanings, *card, *range(numbers, len(content), len(content) // 20), *checksum]
    changes = [(0, 0)] + [(position, flip) for position in positions for flip in (1, 8)]
    program = TAKE_DAMAGED.format(root=str(ROOT), flags=[*TINY], path=str(checkpoint), changes=changes)
    done = subprocess.run([sys.executable, "-c", program], cwd=work, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert lines[0] == "0 0 taken"  # nothing is changed in it
    assert done.returncode == 0, f"{lines[-1]} {done.stderr}"
    assert len(lines) == len(changes)  # a line for each
    refusal = f" refused: {checkpoint.with_name('damaged.ckpt')}: "
    assert [line for line in lines[1:] if refusal not in line] == []
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("model", "mobilenet_v3_large_100", "mobilenet_v3_small_100"),
        ("conv_padding", "same", "mindcv"),
        ("bn_eps", "0.001", "1e-05"),
    ],
)
def test_a_checkpoint_of_another_network_names_what_differs_and_the_flag(both_told, checkpoint, name, given, meant):
    assert both_told(checkpoint, f"--{name}", given) == (
        f"command line: key '{name}' is {given}, but the weights in {checkpoint} mean {meant}; "
        f"leave it out, or give --{name} {meant}"
    )


@pytest.mark.slow
def test_a_checkpoint_for_other_classes_is_trained_with_a_new_head_and_not_validated(told, images, checkpoint, work):
    flags = (*TINY, "--data_dir", images, "--ckpt_path", checkpoint, "--num_classes", 5)
    command = [sys.executable, str(ROOT / "train.py"), *map(str, flags), "--dry_run"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "classifier.3.weight and classifier.3.bias made anew, for 5 classes" in done.stdout
    sentence = f"{checkpoint}: its num_classes is 2, the recipe's 5; --num_classes 2"
    assert told("validate.py", *flags) == sentence


@pytest.mark.slow
def test_a_teacher_that_does_not_exist_or_knows_other_classes(told, images, checkpoint, tmp_path):
    flags = (*TINY, "--data_dir", images, "--teacher", checkpoint)
    assert told("train.py", *flags, "--teacher", "no.ckpt") == "no.ckpt: no such checkpoint; expected a .ckpt file"
    (images / "train/b").rename(images / "train/c")
    sentence = told("train.py", *flags, "--val_while_train", "False")
    assert sentence.startswith(f"{checkpoint} cannot teach these classes: {images}/train: class 'b' is missing and ")


@pytest.mark.slow
def test_a_checkpoint_of_no_mobilenet_names_what_is_missing_and_what_is_too_much(told, images, tmp_path):
    import mindspore
    import numpy as np

    path = tmp_path / "other.ckpt"
    entry = {"name": "features.99.weight", "data": mindspore.Tensor(np.zeros((2, 2), np.float32))}
    mindspore.save_checkpoint([entry], str(path))
    flags = (*TINY, "--data_dir", images, "--ckpt_path", path)
    sentence = told("train.py", *flags)
    assert sentence.startswith(f"{path} does not fit the network: 'features.0.weight' is missing; ")
    assert sentence.endswith("more; check --model and --num_classes")
    sentence = told("validate.py", *flags)
    assert sentence == f"{path}: no weights of MobileNetV3, or not all of them: 'classifier.3.weight' is missing"


@pytest.mark.slow
def test_a_checkpoint_of_another_network_as_a_user_is_told(told_to_a_user, checkpoint, images):
    common = (*TINY, "--data_dir", images, "--ckpt_path", checkpoint, "--model", "mobilenet_v3_large_100")
    assert f"the weights in {checkpoint} mean mobilenet_v3_small_100" in told_to_a_user("validate.py", *common)


# ----------------------------------------------------------------------------------------- devices, and where to write


@pytest.mark.slow
def test_all_devices_without_their_launcher(told_to_a_user, images):
    flags = ("-c", SMALL, "--data_dir", str(images))
    sentence = told_to_a_user("train.py", *flags)
    command = f"python {ROOT / 'train.py'} {' '.join(flags)}"
    assert sentence.startswith("distribute is True, but this process was not started by msrun; for one device: ")
    assert f"for one device: {command} --distribute False; " in sentence
    assert sentence.endswith(f"for 8: msrun --bind_core=True --worker_num 8 {command}")


@pytest.mark.slow
def test_a_device_that_is_not_there(told, images):
    sentence = told("train.py", *TINY, "--data_dir", images, "--device_target", "Ascend")
    assert sentence.startswith("device_target is Ascend, which MindSpore does not find here; use --device_target auto")


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(told, images, tmp_path):
    (tmp_path / "file").write_text("")
    sentence = told("train.py", *TINY, "--data_dir", images, "--ckpt_save_dir", tmp_path / "file")
    assert sentence == f"{tmp_path}/file: a file, not a folder; give another --ckpt_save_dir"
