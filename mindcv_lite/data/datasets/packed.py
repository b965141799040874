"""Images packed into MindRecord files by `python -m mindcv_lite pack`: what the folder of such files says of them."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.datasets.paths import Paths
from mindcv_lite.errors import UserError

log = logging.getLogger(__name__)

FACTS = "packed.json"  # beside the files
# Of that file and of the rows: image (bytes), index (int32: in the split as it was found), label. With layout 1, a
# class had a list of its images' names; millions of them take much memory while they are read. Up to layout 2 MindSpore
# decoded all images.
LAYOUT = 3
LAYOUTS = (1, 2, LAYOUT)  # which are read


@dataclass(frozen=True)
class PackedSplit(Split):
    """Images in files, in their order there. `rows`: the row of each in the files; `numbers`: the index under which
    they know it; `foreign`: the numbers of those that Pillow decodes; int32."""

    files: list[str]
    rows: np.ndarray
    numbers: np.ndarray
    foreign: np.ndarray

    def part(self, chosen: np.ndarray) -> "PackedSplit":
        return replace(super().part(chosen), rows=self.rows[chosen], numbers=self.numbers[chosen])

    @cached_property
    def native(self) -> np.ndarray:
        return ~np.isin(self.numbers, self.foreign)


def is_packed(data_dir: str) -> bool:
    return (Path(data_dir) / FACTS).is_file()


def read_split(data_dir: str, split: str, skip_empty: bool = False) -> PackedSplit:
    """Like `image_folder.read_split`; no class is empty. Raises `UserError` too where a file is missing, damaged or of
    a later version."""
    facts = _split_facts(data_dir, split)
    for name, size in facts["files"].items():
        _require_whole(Path(data_dir) / name, size)
    classes: dict[str, str] = facts["classes"]
    paths = Paths(f"{data_dir}:{split}/{name}/{image}" for name, images in classes.items() for image in parted(images))
    counts = [images.count("\0") for images in classes.values()]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    gone = [each["number"] for each in facts["left_out"]]
    numbers = np.delete(np.arange(len(paths) + len(gone), dtype=np.int32), gone)
    files = [str(Path(data_dir) / name) for name in facts["files"] if name.endswith(".mindrecord")]
    if "foreign" not in facts:
        log.warning(
            "warning: %s was packed by an earlier version: its images are not turned as their EXIF data ask; pack them "
            "again",
            data_dir,
        )
    rows, foreign = np.arange(len(paths), dtype=np.int32), np.array(facts.get("foreign", []), np.int32)
    return PackedSplit(paths, labels, tuple(classes), files, rows, numbers, foreign)


def class_names_of(data_dir: str, split: str) -> tuple[str, ...]:
    """Like `image_folder.class_names_of`."""
    return tuple(_split_facts(data_dir, split)["classes"])


def has_split(data_dir: str, split: str) -> bool:
    """Whether images of that split were packed."""
    return split.rstrip("/") in _splits(data_dir)


def _split_facts(data_dir: str, split: str) -> dict[str, Any]:
    splits, split = _splits(data_dir), split.rstrip("/")  # as the folder may be named, too
    if split not in splits:
        raise UserError(f"{data_dir}: no split '{split}' was packed there (found: {', '.join(splits)})")
    return splits[split]


@cache  # it names every image, and is asked for each split
def _splits(data_dir: str) -> dict[str, Any]:
    path = Path(data_dir) / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        layout, splits, checksum = facts["layout"], facts["splits"], facts["checksum"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged; copy it again, or pack the images again") from None
    if layout not in LAYOUTS:
        raise UserError(
            f"{path}: written by a later version (layout {layout}, expected {LAYOUT} or less); pack the images again"
        )
    if checksum != checksum_of(splits):  # a name that is gone would give other images its label
        raise UserError(f"{path}: changed since it was written; copy it again, or pack the images again")
    if layout == 1:
        for split in splits.values():
            split["classes"] = {name: joined(images) for name, images in split["classes"].items()}
    return splits


def checksum_of(splits: dict[str, Any]) -> str:
    """Stands beside the facts of the splits."""
    digest = hashlib.sha256()
    for piece in json.JSONEncoder().iterencode(splits):
        digest.update(piece.encode())
    return digest.hexdigest()


def joined(images: Sequence[str]) -> str:
    """Names of images as one text: each with a 0 behind it, which no name can hold."""
    return "".join(f"{image}\0" for image in images)


def parted(text: str) -> list[str]:
    """The names that `joined` made one text of."""
    return text.split("\0")[:-1]


def _require_whole(path: Path, size: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        fault = "is missing" if found is None else f"has {found} bytes, expected {size}"
        raise UserError(f"{path}: {fault}; copy the packed images again, or pack them again")
