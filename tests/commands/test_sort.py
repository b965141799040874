"""Images of one folder sorted into class folders, by each kind of list; and ImageNet's archives unpacked."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from mindcv_lite.commands.sort import main
from mindcv_lite.data.datasets.classes import WNIDS
from mindcv_lite.data.datasets.image_folder import read_split
from tests.conftest import write_images

# What the documentation tells to do with ImageNet's archives.
UNPACK = r"""
mkdir -p imagenet/train imagenet/val
tar -xf ILSVRC2012_img_train.tar -C imagenet/train
ls imagenet/train/*.tar | sed 's/.tar$//' | xargs -P 8 -I{} sh -c 'mkdir -p {} && tar -xf {}.tar -C {} && rm {}.tar'
tar -xf ILSVRC2012_img_val.tar -C imagenet/val
tar -xzf ILSVRC2012_devkit_t12.tar.gz
python -m mindcv_lite sort imagenet/val ILSVRC2012_devkit_t12
"""

IMAGES = tuple(f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7))
CLASSES = (WNIDS[5], WNIDS[0], WNIDS[5], WNIDS[9], WNIDS[0], WNIDS[5])
SORTED = sorted(f"{name}/{image}" for image, name in zip(IMAGES, CLASSES, strict=True))
IN_LINES = "".join(f"{image} {name}\n" for image, name in zip(IMAGES, CLASSES, strict=True))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A flat folder of six images, which are their own names."""
    folder = tmp_path / "val"
    folder.mkdir()
    for image in IMAGES:
        (folder / image).write_text(image)
    return folder


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text(IN_LINES)
    return path


@pytest.fixture
def refused(refusal) -> Callable[..., str]:
    return partial(refusal, sort)


def sort(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def files_of(folder: Path) -> list[str]:
    """All files below the folder; images must still be what they were."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert all(path.read_text() == path.name for path in paths if path.suffix == ".JPEG")
    return sorted(str(path.relative_to(folder)) for path in paths)


def write_kit(kit: Path, classes: Iterable[str] = CLASSES) -> Path:
    """ImageNet's development kit: its numbers are in another order than the wnids, and some are of no image's class."""
    order = [*reversed(WNIDS[:10]), "n00001740"]
    types = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    synsets = np.array([(float(number), wnid, "words", 0.0) for number, wnid in enumerate(order, 1)], types)
    (kit / "data").mkdir(parents=True)
    savemat(kit / "data/meta.mat", {"synsets": synsets.reshape(-1, 1)})
    numbers = "".join(f"{order.index(name) + 1}\n" for name in classes)
    (kit / "data/ILSVRC2012_validation_ground_truth.txt").write_text(numbers)
    return kit


def write_annotations(folder: Path) -> Path:
    folder.mkdir()
    for image, name in zip(IMAGES, CLASSES, strict=True):
        objects = f"<object><name>{name}</name><bndbox><xmin>1</xmin></bndbox></object>"
        text = f"<annotation><filename>{image[:-5]}</filename>{objects * 2}</annotation>"
        (folder / image).with_suffix(".xml").write_text(text)
    return folder


# ------------------------------------------------------------------------------------------------------ kinds of lists

TEXTS = {
    "lines": IN_LINES,
    "tabs and a heading": "file\tclass\n" + IN_LINES.replace(" ", "\t"),
    "csv of Windows": "\ufefffilename,label\r\n" + IN_LINES.replace(" ", ",").replace("\n", "\r\n"),
    "csv with quotes and more columns": "".join(
        f'"{image}","{name}",7\n' for image, name in zip(IMAGES, CLASSES, strict=True)
    ),
    "Kaggle": "ImageId,PredictionString\n"
    + "".join(
        f"{image[:-5]},{name} 85 1 499 272 {name} 1 2 3 4 \n" for image, name in zip(IMAGES, CLASSES, strict=True)
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_by_lines_of_text(kind, folder, tmp_path, capsys):
    labels = tmp_path / "labels"
    labels.write_bytes(TEXTS[kind].encode())
    sort(folder, labels)
    assert files_of(folder) == SORTED
    assert capsys.readouterr().out == (
        f"{folder}: 6 images moved, 0 were in their folders already\n6 images in 3 classes, 1 to 3 in a class\n"
    )


@pytest.mark.parametrize("write", [write_kit, write_annotations])
def test_by_the_files_of_imagenet(write, folder, tmp_path):
    sort(folder, write(tmp_path / "labels"))
    assert files_of(folder) == SORTED


def test_class_names_may_have_blanks_in_csv_and_accents_written_in_two_ways(folder, tmp_path):
    names = ("café au lait", "cafe\u0301 au lait")
    (tmp_path / "labels.csv").write_text("".join(f"{image},{names[i % 2]}\n" for i, image in enumerate(IMAGES)))
    sort(folder, tmp_path / "labels.csv")
    assert files_of(folder) == [f"café au lait/{image}" for image in IMAGES]


def test_a_folder_whose_accents_are_written_in_another_way_is_the_folder_of_its_class(folder, tmp_path, capsys):
    (folder / "cafe\u0301").mkdir()
    (folder / IMAGES[0]).rename(folder / "cafe\u0301" / IMAGES[0])
    (tmp_path / "labels.csv").write_text("".join(f"{image},café\n" for image in IMAGES))
    sort(folder, tmp_path / "labels.csv")
    assert files_of(folder) == [f"cafe\u0301/{image}" for image in IMAGES]
    assert "5 images moved, 1 were in their folders already" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- again, and what is refused


def test_again_after_a_kill_the_rest_is_moved(folder, lines, monkeypatch, capsys):
    rename, calls = Path.rename, []

    def killed(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 3:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        sort(folder, lines)
    monkeypatch.undo()
    sort(folder, lines)
    sort(folder, lines)
    assert files_of(folder) == SORTED
    said = capsys.readouterr().out
    assert "4 images moved, 2 were in their folders already" in said
    assert "0 images moved, 6 were in their folders already" in said


def test_files_without_a_class_stay_and_are_named(folder, lines, capsys):
    (folder / "notes.txt").touch()
    (folder / ".hidden").touch()
    sort(folder, lines)
    assert files_of(folder) == [".hidden", *SORTED, "notes.txt"]
    assert f"1 files stay in {folder}, since {lines} does not name them, such as notes.txt" in capsys.readouterr().out


def lack_one(folder: Path) -> None:
    (folder / IMAGES[3]).unlink()


def have_one_twice(folder: Path) -> None:
    (folder / CLASSES[3]).mkdir()
    (folder / CLASSES[3] / IMAGES[3]).write_text("another")


def have_two_of_a_name(folder: Path) -> None:
    (folder / IMAGES[3]).with_suffix(".png").touch()
    (folder.parent / "labels.txt").write_text(IN_LINES.replace(".JPEG", ""))


def have_a_relative_link(folder: Path) -> None:
    (folder / IMAGES[3]).unlink()
    (folder / IMAGES[3]).symlink_to("elsewhere")


def have_a_file_of_a_classs_name(folder: Path) -> None:
    (folder / CLASSES[3]).touch()


def labels(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder.parent / "labels.txt").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lack_one, f"1 of the 6 images that LABELS names are missing, such as {IMAGES[3]}; nothing was moved"),
        (have_one_twice, f"{IMAGES[3]} may be FOLDER/{IMAGES[3]} or FOLDER/{CLASSES[3]}/{IMAGES[3]}; remove"),
        (have_two_of_a_name, ".png; remove those that are not meant"),
        (have_a_relative_link, f"FOLDER/{IMAGES[3]}: a relative link"),
        (labels(IN_LINES + f"{IMAGES[0]} n01440764\n"), f"LABELS: {IMAGES[0]} is of two classes, "),
        (
            labels(IN_LINES + f"{IMAGES[0].removesuffix('.JPEG')} n01440764\n"),
            f"LABELS: {IMAGES[0]} is of two classes, ",
        ),
        (labels(f"{IMAGES[0]},{'x' * 300}\n"), "cannot be the name of a class folder"),
        (have_a_file_of_a_classs_name, f"FOLDER/{CLASSES[3]}: a file, where the folder of a class must be; rename it"),
        (labels(IN_LINES + "lonely\n"), "LABELS: line 7: expected an image and its class, got 'lonely'"),
        (labels(f"{IMAGES[0]} ../outside\n"), "cannot be the name of a class folder"),
        (labels(f"{IMAGES[0]} .\n"), "cannot be the name of a class folder"),
        (labels(f"{IMAGES[0]} deep/class\n"), "cannot be the name of a class folder"),
        (labels(f"{IMAGES[0]},\n"), "line 1: expected an image and its class"),
        (labels(""), "LABELS: names no image"),
        (lambda folder: (folder.parent / "labels.txt").write_bytes(b"\xff\xfe"), "LABELS: expected text in UTF-8"),
        (lambda folder: (folder.parent / "labels.txt").unlink(), "LABELS: No such file or directory"),
        (lambda folder: folder.rename(folder.parent / "moved"), "FOLDER: No such file or directory"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_moves(spoil, sentence, folder, lines, refused):
    spoil(folder)
    before = files_of_any(folder)
    said = refused(folder, lines)
    assert sentence in said.replace(str(folder), "FOLDER").replace(str(lines), "LABELS")
    assert files_of_any(folder) == before


def files_of_any(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("data/meta.mat", b"no MATLAB", "not the files of ImageNet's kit"),
        ("data/ILSVRC2012_validation_ground_truth.txt", b"1\n2\n99\n", "not the files of ImageNet's kit: 99"),
        ("data/meta.mat", None, "No such file or directory"),
    ],
)
def test_a_damaged_kit(name, content, sentence, folder, tmp_path, refused):
    kit = write_kit(tmp_path / "kit")
    (kit / name).unlink()
    if content:
        (kit / name).write_bytes(content)
    assert sentence in refused(folder, kit)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<annotation>", "not XML"),
        ("<annotation></annotation>", "expected objects of one class, found none"),
        ("<a><object><name>b</name></object><object><name>c</name></object></a>", "found b and c"),
    ],
)
def test_a_damaged_annotation(text, sentence, folder, tmp_path, refused):
    annotations = write_annotations(tmp_path / "xml")
    next(annotations.iterdir()).write_text(text)
    assert sentence in refused(folder, annotations)


# ------------------------------------------------------------------------------------------------- ImageNet's archives


def test_the_documented_lines_make_the_folder_that_training_reads(tmp_path):
    """Three classes of the 1000; stopped in the middle of the training archives, and gone on with at that line."""
    images = write_images(tmp_path / "made", {"train": dict.fromkeys(WNIDS[:3], 2), "flat": {"v": 6}})
    wnids = [WNIDS[index % 3] for index in range(6)]
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in WNIDS[:3]:
            with tarfile.open(tmp_path / f"{wnid}.tar", "w") as inner:
                for number in range(2):
                    inner.add(images / "train" / wnid / f"{number}.jpg", f"{wnid}_{number}.JPEG")
            outer.add(tmp_path / f"{wnid}.tar", f"{wnid}.tar")
    with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as val:
        for number, image in enumerate(IMAGES):
            val.add(images / "flat/v" / f"{number}.jpg", image)
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as kit:
        kit.add(write_kit(tmp_path / "kit", wnids), "ILSVRC2012_devkit_t12")

    before = set(tmp_path.iterdir())
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    lines = UNPACK.strip().splitlines()
    run = partial(subprocess.run, cwd=tmp_path, env=environment, check=True, timeout=60)
    run(["bash", "-euc", "\n".join(lines[:2])])
    (tmp_path / "imagenet/train" / WNIDS[1]).mkdir()
    (tmp_path / "imagenet/train" / WNIDS[1] / f"{WNIDS[1]}_0.JPEG").write_bytes(b"the first half")
    run(["bash", "-euc", "\n".join(lines[2:])])
    data_dir = tmp_path / "imagenet"
    assert set(tmp_path.iterdir()) - before == {data_dir, tmp_path / "ILSVRC2012_devkit_t12"}
    for split in ("train", "val"):
        found = read_split(str(data_dir), split)
        assert (found.class_names, found.labels.tolist()) == (WNIDS[:3], [0, 0, 1, 1, 2, 2])
    assert (data_dir / "train" / WNIDS[1] / f"{WNIDS[1]}_0.JPEG").stat().st_size > 100
    assert not list(data_dir.rglob("*.tar"))
    assert sorted(path.parent.name + path.name for path in (data_dir / "val").rglob("*.JPEG")) == sorted(
        wnid + image for wnid, image in zip(wnids, IMAGES, strict=True)
    )
