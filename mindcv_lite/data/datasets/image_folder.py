"""Images in class folders: data_dir/split/class/image.jpg."""

import glob
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from mindcv_lite.data.datasets.paths import Paths
from mindcv_lite.data.images.validity import decodes, is_hopeless, read_file, read_image
from mindcv_lite.errors import UserError

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp")
CANNOT_BE_DECODED = (
    "{}: this image cannot be decoded; mend or remove it (`python -m mindcv_lite check` names all such images); in "
    "training, though not in validation, --on_corrupt replace takes another in its place"
)
FEW = 5  # images of a class; with fewer than these it will hardly be learned


AnySplit = TypeVar("AnySplit", bound="Split")


@dataclass(frozen=True)
class Split:
    """Paths, labels (int32, one for each path: the output of the network that is right) and the class folders."""

    paths: Sequence[str]
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def part(self: AnySplit, chosen: np.ndarray) -> AnySplit:
        """Those of the images that are `chosen`, bool (images,)."""
        paths = Paths(path for path, is_chosen in zip(self.paths, chosen.tolist(), strict=True) if is_chosen)
        return replace(self, paths=paths, labels=self.labels[chosen])

    def content(self, index: int) -> np.ndarray:
        """The encoded image, uint8 (bytes,); empty where none can be read, or none that can be decoded at all.

        The header is checked once for each version of the file.
        """
        content, version = read_file(self.paths[index])
        if version != self.sound_versions[index]:
            if is_hopeless(content):
                return content[:0]
            self.sound_versions[index] = version
        return content

    def fault(self, index: int) -> str:
        """What is to be said of an image that gave nothing that can be decoded."""
        path = self.paths[index]
        try:
            open(path, "rb").close()
        except OSError as error:
            return f"{path}: this image cannot be read: {error.strerror}"
        return CANNOT_BE_DECODED.format(path)

    @cached_property
    def sound_versions(self) -> np.ndarray:
        """The version of each image's file whose header was found sound, as `read_file` gives it: int64 (images,)."""
        return np.zeros(len(self), np.int64)


def read_split(data_dir: str, split: str, outputs: Sequence[int] | None = None) -> Split:
    """The images of `data_dir/split`. `outputs`: the label of each class, in the order of their names; None: 0, 1, ...

    Hidden files and files that are no images are left out and counted in the log. Raises `UserError` where a folder
    is missing, or a class is empty or holds nothing that can be decoded.
    """
    folder = _split_folder(data_dir, split)
    names = class_names_of(data_dir, split)
    paths, counts, skipped, example = Paths(), [], 0, ""
    for name in names:
        images, others = images_below(folder / name)
        if not images:
            kinds = ", ".join(EXTENSIONS)
            raise UserError(f"{folder / name}: no image ({kinds}) in this class; add some, or remove the folder")
        _require_readable(images, folder / name)
        paths.extend(images)
        counts.append(len(images))
        skipped, example = skipped + len(others), example or next(iter(others), "")
    log.info("%s: %d images in %d classes", folder, len(paths), len(names))
    if skipped:
        log.info("%s: %d files are no images and left out, such as %s", folder, skipped, example)
    return Split(paths, np.repeat(np.array(outputs or range(len(names)), np.int32), counts), names)


def class_names_of(data_dir: str, split: str) -> tuple[str, ...]:
    """The class folders of `data_dir/split`, sorted. Raises `UserError` if there are none."""
    folder = _split_folder(data_dir, split)
    folders = (entry for entry in os.scandir(folder) if leads_to(entry.is_dir))
    names = sorted(entry.name for entry in folders if not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder}: expected a folder for each class, found none; images go to {split}/<class>/*.jpg")
    return tuple(names)


def small_classes(images: Split) -> list[tuple[str, int]]:
    """The classes of fewer than `FEW` images, and how many they have; the smallest first."""
    counts = np.bincount(images.labels, minlength=len(images.class_names)).tolist()
    few = [(name, count) for name, count in zip(images.class_names, counts, strict=True) if count < FEW]
    return sorted(few, key=lambda row: row[1])


def has_split(data_dir: str, split: str) -> bool:
    """Whether `data_dir` has a folder of that name."""
    return (Path(data_dir) / split).is_dir()


def _split_folder(data_dir: str, split: str) -> Path:
    if not data_dir:
        raise UserError(f"data_dir is not set: --data_dir names the folder that holds {split}/<class>/*.jpg")
    if not Path(data_dir).is_dir():
        raise UserError(f"{data_dir}: no such folder; --data_dir names the folder that holds {split}/<class>/*.jpg")
    folder = Path(data_dir) / split
    if not folder.is_dir():
        inside = sorted(entry.name for entry in os.scandir(data_dir) if entry.is_dir())[:5]
        advice = "make it of the folders of classes"
        if "train" in inside:
            advice = "or train with --val_share 0.2, which holds out a share"
        if deeper := next((Path(data_dir) / name for name in inside if has_split(f"{data_dir}/{name}", split)), None):
            advice = f"or give --data_dir {shlex.quote(str(deeper))}, where it is"
        raise UserError(
            f"{data_dir}: no folder '{split}' in it (found: {', '.join(inside) or 'no folder'}); expected "
            f"{split}/<class>/*.jpg; {advice}"
        )
    return folder


def images_below(folder: Path) -> tuple[list[str], list[str]]:
    """The images in a folder, in any depth and sorted order, and what is left out: all else but hidden folders."""
    images, others = [], []
    for entry in _entries_below(str(folder), ()):
        named_so = entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
        (images if named_so and leads_to(entry.is_file) else others).append(entry.path)
    return images, others


def images_at(paths: Sequence[str]) -> list[str]:
    """The images that files, folders and glob patterns name, in the order of these, each path once.

    A file that is named is taken for an image; of what is in a folder, in any depth, or matches a pattern, all that is
    named like an image, in sorted order. Raises `UserError` that names what leads to none.
    """
    found: dict[str, None] = {}  # no set: it has no order
    left_out: list[str] = []
    for path in paths:
        if os.path.isfile(path) or _leads_nowhere(path):
            images, others = [path], []
        elif os.path.isdir(path):
            images, others = images_below(Path(path))
        else:
            images, others = _images_matching(path)
        if not images:
            raise UserError(f"{path}: no image ({', '.join(EXTENSIONS)}) there")
        found |= dict.fromkeys(images)
        left_out += others
    if left_out:
        log.info("%d files are no images and left out, such as %s", len(left_out), left_out[0])
    return list(found)


def _images_matching(pattern: str) -> tuple[list[str], list[str]]:
    if not (matches := sorted(glob.glob(pattern, recursive=True))):
        raise UserError(f"{pattern}: no such file or folder, and nothing that this pattern matches")
    images, others = [], []
    for match in matches:
        if os.path.isdir(match):
            inside, beside = images_below(Path(match))
            images, others = images + inside, others + beside
        else:
            is_image = match.lower().endswith(EXTENSIONS) and (os.path.isfile(match) or _leads_nowhere(match))
            (images if is_image else others).append(match)
    return images, others


def _leads_nowhere(path: str) -> bool:
    """Whether `path` is a link whose target is gone."""
    return os.path.islink(path) and not os.path.exists(path)


def leads_to(kind: Callable[[], bool]) -> bool:
    """`entry.is_file()` or `entry.is_dir()`, but False of a link that leads to itself or to where we may not look."""
    try:
        return kind()
    except OSError:
        return False


def _entries_below(folder: str, parents: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
    """All but folders, in sorted order, through links too; hidden folders and links back to a parent are left out."""
    parents = (*parents, os.path.realpath(folder))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not leads_to(entry.is_dir):
            yield entry
        elif not entry.name.startswith(".") and os.path.realpath(entry.path) not in parents:
            yield from _entries_below(entry.path, parents)


def _require_readable(images: list[str], folder: Path) -> None:
    if not any(decodes(read_image(path)) for path in images):
        raise UserError(f"{folder}: none of its {len(images)} images can be decoded, such as {images[0]}")
