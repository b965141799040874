"""Class folders: which files are images, which class has which id, and what is said of folders that do not fit."""

import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.data.datasets.image_folder import Split, class_names_of, has_split, images_at, read_split
from mindcv_lite.errors import UserError


@pytest.fixture(autouse=True)
def working_directory(monkeypatch, tmp_path):
    """MindSpore's decoder writes abnormal_image.jpg there."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def log(caplog, monkeypatch):
    """What was logged, whether or not another test of this process has started the program's own log."""
    monkeypatch.setattr(logging.getLogger("mindcv_lite"), "propagate", True)
    caplog.set_level(logging.INFO, "mindcv_lite")
    return caplog


def names_of(images: Split, folder) -> list[tuple[str, int]]:
    """(path below the split, class id) of each image."""
    paths = [os.path.relpath(path, folder) for path in images.paths]
    return list(zip(paths, images.labels.tolist(), strict=True))


def test_class_ids_are_the_indices_of_the_sorted_names(image_folder):
    folder = image_folder({"train": {"tulip": 1, "Rose": 2, "daisy": 1}})
    images = read_split(str(folder), "train")
    assert images.class_names == class_names_of(str(folder), "train") == ("Rose", "daisy", "tulip")
    assert images.labels.dtype == np.int32
    assert len(images) == 4
    expected = [("Rose/0.jpg", 0), ("Rose/1.jpg", 0), ("daisy/0.jpg", 1), ("tulip/0.jpg", 2)]
    assert names_of(images, folder / "train") == expected


def test_classes_may_have_other_labels(image_folder):
    folder = image_folder({"val": {"a": 1, "b": 2}})
    images = read_split(str(folder), "val").relabelled((134, 0))
    assert images.class_names == ("a", "b")
    assert names_of(images, folder / "val") == [("a/0.jpg", 134), ("b/0.jpg", 0), ("b/1.jpg", 0)]


def test_images_are_found_by_any_case_of_their_extension_in_nested_folders_and_nothing_else_is(image_folder, log):
    folder = image_folder({"train": {"a": 1, "b": 1}})
    source, inside = folder / "train/a/0.jpg", folder / "train/a"
    for name in ("1.JPG", "2.Jpeg", "deep/er/3.jpg", ".hidden.jpg", ".cache/4.jpg", "a.jpg.part", "noext"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, inside / name)
    Image.open(source).save(inside / "5.png")
    Image.open(source).save(inside / "6.BMP")
    (inside / "notes.txt").write_text("no image")
    (folder / "train/.DS_Store").write_text("")
    (folder / "train/README.md").write_text("beside the classes")
    (folder / "train/.hidden_class").mkdir()
    images = read_split(str(folder), "train")
    found = ["0.jpg", "1.JPG", "2.Jpeg", "5.png", "6.BMP", "deep/er/3.jpg"]
    assert names_of(images, folder / "train") == [(f"a/{name}", 0) for name in found] + [("b/0.jpg", 1)]
    assert images.class_names == ("a", "b")
    assert "7 images in 2 classes" in log.text
    kinds = "1 hidden, 1 .part, 1 without extension, 1 .txt"
    assert f"left out: 4 files that are no images ({kinds}), such as {inside}/.hidden.jpg" in log.text


def test_the_order_does_not_depend_on_the_order_of_the_directory(image_folder):
    folder = image_folder({"train": {"a": 12}})
    names = [name for name, _ in names_of(read_split(str(folder), "train"), folder / "train/a")]
    assert names == sorted(names)


def test_a_class_folder_may_be_a_link(image_folder, tmp_path):
    folder = image_folder({"train": {"a": 2}})
    (folder / "val").mkdir()
    (folder / "val/a").symlink_to(folder / "train/a")
    assert len(read_split(str(folder), "val")) == 2


# ------------------------------------------------------------------------------------------- folders that do not fit


def test_missing_folders_are_named_with_what_is_there(image_folder, tmp_path):
    folder = image_folder({"train": {"a": 1}, "valid": {"a": 1}})
    assert has_split(str(folder), "train")
    assert not has_split(str(folder), "val")
    with pytest.raises(UserError, match=r"images: no folder 'val' in it \(found: train, valid\)"):
        read_split(str(folder), "val")
    with pytest.raises(UserError, match=r"nowhere: no such folder; --data_dir names the folder"):
        read_split(str(tmp_path / "nowhere"), "train")
    with pytest.raises(UserError, match=r"data_dir is not set: --data_dir names"):
        read_split("", "train")


def test_a_split_without_classes_and_a_class_without_images_are_refused(image_folder):
    folder = image_folder({"train": {"a": 1}, "val": {}})
    (folder / "val").mkdir()
    with pytest.raises(UserError, match=r"val: expected a folder for each class, found none"):
        read_split(str(folder), "val")
    (folder / "train/b").mkdir()
    (folder / "train/b/notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"train/b: no image \(.*GIF\) in this class, only 1 \.txt; add some"):
        read_split(str(folder), "train")


def test_a_class_of_nothing_but_broken_images_is_refused_and_one_with_a_sound_image_is_not(image_folder):
    folder = image_folder({"train": {"a": 3, "b": 3}})
    for number in range(2):
        (folder / f"train/b/{number}.jpg").write_bytes(b"no image")
    assert len(read_split(str(folder), "train")) == 6  # the broken ones are named when they are read
    (folder / "train/b/2.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"train/b: none of its 3 images can be decoded, such as .*b/0\.jpg"):
        read_split(str(folder), "train")


def test_who_decodes_an_image_is_found_out_anew_when_its_file_has_changed(image_folder):
    images = read_split(str(image_folder({"train": {"a": 1}})), "train")
    path = Path(images.paths[0])
    sound = path.read_bytes()
    for content, whole in ((sound, True), (sound, True), (sound[:300], False), (sound, True), (b"", False)):
        path.write_bytes(content)
        assert images.content(0).tobytes() == content
        assert images.native[0] == whole


def test_images_behind_links_count_and_links_back_do_not_loop(image_folder, log):
    folder = image_folder({"train": {"a": 2}, "elsewhere": {"more": 3}})
    (folder / "train/a/more").symlink_to(folder / "elsewhere/more")
    (folder / "train/a/back").symlink_to(folder / "train/a")
    os.mkfifo(folder / "train/a/pipe.jpg")
    (folder / "train/a/loop.jpg").symlink_to("loop.jpg")
    (folder / "train/loop").symlink_to("loop")
    assert len(read_split(str(folder), "train")) == 5
    inside = folder / "train/a"
    said = (
        f"2 that are named like images, but are no files (such as links to nothing): {inside}/loop.jpg, {inside}/pipe"
    )
    assert said in log.text


def test_files_of_every_format_that_is_read_are_found_and_of_others_the_kinds_are_told(image_folder, log):
    folder = image_folder({"train": {"a": 1}}) / "train/a"
    for name in ("1.webp", "2.tif", "3.TIFF", "4.gif", "5.jfif", "6.jpe"):
        kind = None if name[0] in "1234" else "JPEG"
        Image.open(folder / "0.jpg").save(folder / name, kind)
    for name in ("7.heic", "8.HEIC", "9.avif", "clip.mp4"):
        (folder / name).touch()
    assert len(read_split(str(folder.parents[1]), "train")) == 7
    assert "left out: 4 files that are no images (2 .heic, 1 .avif, 1 .mp4), such as " in log.text


@pytest.fixture
def album(tmp_path, monkeypatch) -> list[str]:
    """The images of a folder, in the working directory, with more in it than images."""
    monkeypatch.chdir(tmp_path)
    names = ["album/10.jpg", "album/2.JPG", "album/b [1]/1.png", "album/b [1]/c/3.bmp"]
    others = ["album/.hidden.jpg", "album/.hidden/1.jpg", "album/notes.txt", "album/z/notes.txt"]
    for name in (*names, *others):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return names


def test_images_come_in_the_order_of_the_paths_each_once(album):
    assert images_at(["album"]) == album
    assert images_at(["album/b [1]/1.png", "album/notes.txt", "album"]) == [
        album[2],
        "album/notes.txt",
        *album[:2],
        album[3],
    ]


@pytest.mark.parametrize("path", ["album/gone.jpg", "album/g*.jpg"])
def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(album, path):
    Path("album/gone.jpg").symlink_to("nowhere")
    assert images_at(["album", path]) == [*album, "album/gone.jpg"]


@pytest.mark.parametrize(
    ("pattern", "indices"),
    [("album/*", [0, 1, 2, 3]), ("album/**", [0, 1, 2, 3]), ("album/*.jpg", [0]), ("album/b*/*.png", [2])],
)
def test_a_pattern_stands_for_what_it_matches_hidden_files_apart(album, pattern, indices):
    assert images_at([pattern]) == [album[index] for index in indices]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("album/none.jpg", "no such file or folder, and nothing that this pattern matches"),
        ("*.gif", "no such file or folder, and nothing that this pattern matches"),
        ("album/z", r"no image \(JPEG, PNG, BMP, WebP, TIFF or GIF\) there"),
        ("album/*.txt", r"no image \(JPEG, PNG, BMP, WebP, TIFF or GIF\) there"),
    ],
)
def test_what_leads_to_no_image_is_an_error_that_names_it(album, path, sentence):
    with pytest.raises(UserError, match=rf"^{re.escape(path)}: {sentence}$"):
        images_at(["album", path])
