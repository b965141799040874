"""Images in class folders: data_dir/split/class/image.jpg."""

import glob
import logging
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from mindcv_lite.data.datasets.paths import Paths
from mindcv_lite.data.images.decoding import EXTENSIONS, READ, decodes, is_native, read_file
from mindcv_lite.errors import UserError

log = logging.getLogger(__name__)

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

    def relabelled(self: AnySplit, outputs: Sequence[int]) -> AnySplit:
        """The same images; `outputs`: the label of each class, in the order of their names."""
        return replace(self, labels=np.array(outputs, np.int32)[self.labels])

    def content(self, index: int) -> np.ndarray:
        """The encoded image, uint8 (bytes,); empty where the system refuses it, and notes why in `refused`.

        Who decodes it is found out once for each version of the file, and noted in `native`.
        """
        try:
            content, version = read_file(self.paths[index])
        except OSError as error:
            self.refused[index] = error.strerror or str(error)
            return np.zeros(0, np.uint8)
        self.refused.pop(index, None)
        if version != self.versions[index]:
            self.native[index], self.versions[index] = is_native(content), version
        return content

    def flaw(self, index: int) -> str:
        """What is wrong with an image that gave nothing that can be decoded."""
        return f"cannot be read: {self.refused[index]}" if index in self.refused else "cannot be decoded"

    def fault(self, index: int) -> str:
        """What a user is told of such an image."""
        if index in self.refused:
            return f"{self.paths[index]}: this image cannot be read: {self.refused[index]}"
        return CANNOT_BE_DECODED.format(self.paths[index])

    @cached_property
    def refused(self) -> dict[int, str]:
        """Why the system refused to read an image, when it was last asked, by the image's index."""
        return {}

    @cached_property
    def versions(self) -> np.ndarray:
        """The version of each image's file that was read, as `read_file` gives it: int64 (images,)."""
        return np.zeros(len(self), np.int64)

    @cached_property
    def native(self) -> np.ndarray:
        """Whether MindSpore decodes an image, and not Pillow: bool (images,), known once the image was read."""
        return np.zeros(len(self), bool)


def read_split(data_dir: str, split: str, skip_empty: bool = False) -> Split:
    """The images of `data_dir/split`, labelled 0, 1, ... in the order of the classes' names.

    Files that are no images are left out and counted in the log, by kind. With `skip_empty`, a class without an image
    costs a line in the log. Raises `UserError` where a folder is missing, or a class is empty or holds nothing that can
    be decoded.
    """
    folder = _split_folder(data_dir, split)
    names, paths, counts, left_out = [], Paths(), [], []
    for name in class_names_of(data_dir, split):
        images, others = images_below(folder / name)
        left_out += others
        if not images and skip_empty:
            log.warning("warning: %s: no image in this class", folder / name)
        elif not images:
            found = f", only {kinds_of(others)}" if others else ""
            raise UserError(f"{folder / name}: no image ({READ}) in this class{found}; add some, or remove the folder")
        else:
            _require_readable(images, folder / name)
        names.append(name)
        paths.extend(images)
        counts.append(len(images))
    log.info("%s: %d images in %d classes", folder, len(paths), len(names))
    report_left_out(str(folder), left_out)
    if not paths:
        raise UserError(f"{folder}: no image in any of its classes")
    return Split(paths, np.repeat(np.arange(len(names), dtype=np.int32), counts), tuple(names))


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


def report_left_out(where: str, left_out: Sequence[str]) -> None:
    """Say what is no image, by kind, and what is only named like one."""
    nothing = [path for path in left_out if is_named_like_an_image(path)]
    others = [path for path in left_out if not is_named_like_an_image(path)]
    if nothing:
        text = "%s: left out: %d that are named like images, but are no files (such as links to nothing): %s"
        log.warning(text, where, len(nothing), ", ".join(nothing[:5]))
    if others:
        text = "%s: left out: %d files that are no images (%s), such as %s"
        log.info(text, where, len(others), kinds_of(others), others[0])


def is_named_like_an_image(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS) and not is_hidden(path)


def is_hidden(path: str) -> bool:
    return os.path.basename(path).startswith(".")


def kinds_of(paths: Iterable[str]) -> str:
    """How many files there are of each extension, the most frequent first."""
    kinds = Counter("hidden" if is_hidden(path) else os.path.splitext(path)[1].lower() for path in paths)
    return ", ".join(f"{count} {kind or 'without extension'}" for kind, count in kinds.most_common(6))


def images_below(folder: Path) -> tuple[list[str], list[str]]:
    """The images in a folder, in any depth and sorted order, and what is left out: all else but hidden folders."""
    images, others = [], []
    for entry in _entries_below(str(folder), ()):
        is_image = is_named_like_an_image(entry.name) and leads_to(entry.is_file)
        (images if is_image else others).append(entry.path)
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
            raise UserError(f"{path}: no image ({READ}) there")
        found |= dict.fromkeys(images)
        left_out += others
    report_left_out(", ".join(paths[:3]), left_out)
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
    """Raise `UserError` unless one of the images can be decoded."""
    reason = ""
    for path in images:
        try:
            if decodes(read_file(path)[0]):
                return
        except OSError as error:
            reason = reason or f": {path} cannot be read: {error.strerror}"
    raise UserError(f"{folder}: none of its {len(images)} images can be decoded{reason or f', such as {images[0]}'}")
