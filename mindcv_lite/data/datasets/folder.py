"""Photos in class folders: data_dir/split/class/photo.jpg."""

import glob
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from mindcv_lite.data.datasets.paths import Paths
from mindcv_lite.data.images.decoding import decodes, is_hopeless, read_file, read_photo
from mindcv_lite.errors import UserError

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp")
CANNOT_BE_DECODED = (
    "{}: this photo cannot be decoded; mend or remove it (`python -m mindcv_lite check` names all such photos); in "
    "training, though not in validation, --on_corrupt replace takes another in its place"
)
FEW = 5  # photos of a class; with fewer than these it will hardly be learned


AnyPhotos = TypeVar("AnyPhotos", bound="Photos")


@dataclass(frozen=True)
class Photos:
    """Paths, labels (int32, one for each path: the output of the network that is right) and the class folders."""

    paths: Sequence[str]
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def part(self: AnyPhotos, chosen: np.ndarray) -> AnyPhotos:
        """Those of the photos that are `chosen`, bool (photos,)."""
        paths = Paths(path for path, is_chosen in zip(self.paths, chosen.tolist(), strict=True) if is_chosen)
        return replace(self, paths=paths, labels=self.labels[chosen])

    def content(self, index: int) -> np.ndarray:
        """The encoded photo, uint8 (bytes,); empty where none can be read, or none that can be decoded at all.

        The header is checked once for each version of the file.
        """
        content, version = read_file(self.paths[index])
        if version != self.sound_versions[index]:
            if is_hopeless(content):
                return content[:0]
            self.sound_versions[index] = version
        return content

    def fault(self, index: int) -> str:
        """What is to be said of a photo that gave nothing that can be decoded."""
        path = self.paths[index]
        try:
            open(path, "rb").close()
        except OSError as error:
            return f"{path}: this photo cannot be read: {error.strerror}"
        return CANNOT_BE_DECODED.format(path)

    @cached_property
    def sound_versions(self) -> np.ndarray:
        """The version of each photo's file whose header was found sound, as `read_file` gives it: int64 (photos,)."""
        return np.zeros(len(self), np.int64)


def read_split(data_dir: str, split: str, outputs: Sequence[int] | None = None) -> Photos:
    """The photos of `data_dir/split`. `outputs`: the label of each class, in the order of their names; None: 0, 1, ...

    Hidden files and files that are no images are left out and counted in the log. Raises `UserError` where a folder
    is missing, or a class is empty or holds nothing that can be decoded.
    """
    folder = _split_folder(data_dir, split)
    names = class_names_of(data_dir, split)
    paths, counts, skipped, example = Paths(), [], 0, ""
    for name in names:
        photos, others = photos_below(folder / name)
        if not photos:
            kinds = ", ".join(EXTENSIONS)
            raise UserError(f"{folder / name}: no photo ({kinds}) in this class; add some, or remove the folder")
        _require_readable(photos, folder / name)
        paths.extend(photos)
        counts.append(len(photos))
        skipped, example = skipped + len(others), example or next(iter(others), "")
    log.info("%s: %d photos in %d classes", folder, len(paths), len(names))
    if skipped:
        log.info("%s: %d files are no photos and left out, such as %s", folder, skipped, example)
    return Photos(paths, np.repeat(np.array(outputs or range(len(names)), np.int32), counts), names)


def class_names_of(data_dir: str, split: str) -> tuple[str, ...]:
    """The class folders of `data_dir/split`, sorted. Raises `UserError` if there are none."""
    folder = _split_folder(data_dir, split)
    folders = (entry for entry in os.scandir(folder) if leads_to(entry.is_dir))
    names = sorted(entry.name for entry in folders if not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder}: expected a folder for each class, found none; photos go to {split}/<class>/*.jpg")
    return tuple(names)


def small_classes(photos: Photos) -> list[tuple[str, int]]:
    """The classes of fewer than `FEW` photos, and how many they have; the smallest first."""
    counts = np.bincount(photos.labels, minlength=len(photos.class_names)).tolist()
    few = [(name, count) for name, count in zip(photos.class_names, counts, strict=True) if count < FEW]
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
        raise UserError(f"{data_dir}: no folder '{split}' in it (found: {', '.join(inside) or 'no folder'})")
    return folder


def photos_below(folder: Path) -> tuple[list[str], list[str]]:
    """The photos in a folder, in any depth and sorted order, and what is left out: all else but hidden folders."""
    photos, others = [], []
    for entry in _entries_below(str(folder), ()):
        named_so = entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".")
        (photos if named_so and leads_to(entry.is_file) else others).append(entry.path)
    return photos, others


def photos_at(paths: Sequence[str]) -> list[str]:
    """The photos that files, folders and glob patterns name, in the order of these, each path once.

    A file that is named is taken for a photo; of what is in a folder, in any depth, or matches a pattern, what is named
    like a photo, in sorted order. Raises `UserError` that names what leads to none.
    """
    found: dict[str, None] = {}  # no set: it has no order
    left_out: list[str] = []
    for path in paths:
        if os.path.isfile(path) or leads_nowhere(path):
            photos, others = [path], []
        elif os.path.isdir(path):
            photos, others = photos_below(Path(path))
        else:
            photos, others = _photos_matching(path)
        if not photos:
            raise UserError(f"{path}: no photo ({', '.join(EXTENSIONS)}) there")
        found |= dict.fromkeys(photos)
        left_out += others
    if left_out:
        log.info("%d files are no photos and left out, such as %s", len(left_out), left_out[0])
    return list(found)


def _photos_matching(pattern: str) -> tuple[list[str], list[str]]:
    if not (matches := sorted(glob.glob(pattern, recursive=True))):
        raise UserError(f"{pattern}: no such file or folder, and nothing that this pattern matches")
    photos, others = [], []
    for match in matches:
        if os.path.isdir(match):
            inside, beside = photos_below(Path(match))
            photos, others = photos + inside, others + beside
        else:
            is_photo = match.lower().endswith(EXTENSIONS) and (os.path.isfile(match) or leads_nowhere(match))
            (photos if is_photo else others).append(match)
    return photos, others


def leads_nowhere(path: str) -> bool:
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


def _require_readable(photos: list[str], folder: Path) -> None:
    if not any(decodes(read_photo(path)) for path in photos):
        raise UserError(f"{folder}: none of its {len(photos)} photos can be decoded, such as {photos[0]}")
