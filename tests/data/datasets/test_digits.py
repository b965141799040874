"""The demo's images: written once, whole or not at all."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mindcv_lite.data.datasets import digits
from mindcv_lite.data.datasets.digits import digits_folder
from mindcv_lite.data.datasets.image_folder import read_split
from mindcv_lite.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    wanted = tmp_path_factory.mktemp("cache") / "deep" / "digits"
    assert digits_folder(str(wanted)) == str(wanted)
    return wanted


def test_every_fifth_digit_is_for_validation_and_none_is_in_both(folder):
    train, val = read_split(str(folder), "train"), read_split(str(folder), "val")
    assert train.class_names == val.class_names == tuple("0123456789")
    numbers = [[int(Path(path).stem) for path in images.paths] for images in (train, val)]
    assert sorted(numbers[1]) == list(range(0, 1797, 5))
    assert sorted(numbers[0] + numbers[1]) == list(range(1797))


def test_each_digit_is_in_the_folder_of_its_class(folder):
    content: Any = load_digits()
    for split in ("train", "val"):
        images = read_split(str(folder), split)
        expected = [content.target[int(Path(path).stem)] for path in images.paths]
        assert np.array_equal(images.labels, expected)


@pytest.mark.parametrize("number", [0, 1, 1796])
def test_images_are_the_digits_four_times_as_large(folder, number):
    content: Any = load_digits()
    (path,) = folder.rglob(f"{number:04d}.png")
    image = Image.open(path)
    assert (image.mode, image.size) == ("L", (32, 32))
    # Bicubic enlarging overshoots in single pixels and keeps the mean of each square of 4 x 4 roughly.
    squares = np.asarray(image, float).reshape(8, 4, 8, 4).mean((1, 3)) * 16 / 255
    assert np.abs(squares - content.images[number]).mean() < 1  # of 16 levels
    assert np.corrcoef(squares.ravel(), content.images[number].ravel())[0, 1] > 0.99


def test_digits_that_are_there_are_not_written_again(folder, monkeypatch):
    def refuse(folder: Path) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(digits, "_write", refuse)
    assert digits_folder(str(folder)) == str(folder)


def test_without_data_dir_they_go_to_the_users_cache(folder, monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(digits, "_write", written.append)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert digits_folder("") == str(tmp_path / "cache/mindcv_lite/digits")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert digits_folder("") == str(tmp_path / "home/.cache/mindcv_lite/digits")
    assert written == [tmp_path / "cache/mindcv_lite/digits", tmp_path / "home/.cache/mindcv_lite/digits"]


def test_a_rank_that_comes_second_takes_the_digits_of_the_first(folder):
    before = Counter(path.name for path in folder.rglob("*.png"))
    digits._write(folder)  # as if both had found nothing
    assert Counter(path.name for path in folder.rglob("*.png")) == before
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]  # nothing half-done is left beside


def test_writing_that_breaks_off_leaves_nothing(monkeypatch, tmp_path):
    images = []

    def save(self, path):
        images.append(path)
        if len(images) == 20:
            raise KeyboardInterrupt
        Path(path).write_bytes(b"")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt):
        digits_folder(str(tmp_path / "digits"))
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    def refuse(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UserError, match=r"digits: cannot write the digits there: Permission denied.*--data_dir"):
        digits_folder(str(tmp_path / "digits"))


def test_a_path_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the digits there.*--data_dir"):
        digits_folder(str(tmp_path / "file" / "digits"))


def test_without_scikit_learn_the_pip_command_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        digits_folder(str(tmp_path / "digits"))
