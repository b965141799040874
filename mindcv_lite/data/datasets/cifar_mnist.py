"""CIFAR-10, CIFAR-100 and MNIST in their standard files. Labels are those of the files."""

# Read by NumPy: MindSpore's readers take CIFAR files of whole ten thousands of images only, MNIST's only where no .gz
# lies beside them, and they do not say which file is missing.

import logging
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.images.decoding import as_bmp
from mindcv_lite.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldSplit(Split):
    """Images held in memory. `contents`: each of them encoded, uint8 (images, bytes)."""

    contents: np.ndarray

    def part(self, chosen: np.ndarray) -> "HeldSplit":
        return replace(super().part(chosen), contents=self.contents[chosen])

    def content(self, index: int) -> np.ndarray:
        return self.contents[index]

    @cached_property
    def native(self) -> np.ndarray:
        return np.ones(len(self), bool)


@dataclass(frozen=True)
class Standard:
    """A dataset in standard files. Its classes are named by the file `class_file`, or without it by `class_names`.

    `read`: files, in the order in which they are listed, to images uint8 (count, height, width, channels) and labels
    uint8 (count,).
    """

    title: str
    unpacked: str  # the folder that its archive unpacks to: data_dir itself, or in it
    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[list[Path]], tuple[np.ndarray, np.ndarray]]
    class_file: str
    class_names: tuple[str, ...] = ()

    def read_split(self, data_dir: str, split: str, skip_empty: bool = False) -> HeldSplit:
        """Like `image_folder.read_split`: 'train', or else the test files. Raises `UserError` where a file is wrong."""
        names = self.class_names_of(data_dir, split)
        files = [self._existing(data_dir, name) for name in (self.train if split == "train" else self.test)]
        images, labels = self.read(files)
        if labels.max() >= len(names):
            raise UserError(f"{files[0].parent}: label {labels.max()} in '{split}', expected 0 to {len(names) - 1}")
        log.info("%s: %d images of '%s' in %d classes", files[0].parent, len(images), split, len(names))
        paths = [f"{files[0].parent}:{split}/{number}" for number in range(len(images))]
        return HeldSplit(paths, labels.astype(np.int32), names, as_bmp(images))

    def class_names_of(self, data_dir: str, split: str) -> tuple[str, ...]:
        """The names of labels 0, 1, ...: the same for all splits."""
        if self.class_names and not (self._folder(data_dir) / self.class_file).is_file():
            return self.class_names
        path = self._existing(data_dir, self.class_file)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{path}: expected class names, text in UTF-8, got other bytes; unpack it again") from None
        names = tuple(line.strip() for line in lines if line.strip())
        if not names or len(set(names)) < len(names):
            raise UserError(f"{path}: expected class names, a line each and none of them twice; unpack it again")
        return names

    def has_split(self, data_dir: str, split: str) -> bool:
        """Whether the class names of that split are known: they always are."""
        return True

    def _folder(self, data_dir: str) -> Path:
        inside = Path(data_dir) / self.unpacked
        return inside if inside.is_dir() else Path(data_dir)

    def _existing(self, data_dir: str, name: str) -> Path:
        files = ", ".join([*self.train, *self.test, *([] if self.class_names else [self.class_file])])
        if not data_dir:
            raise UserError(f"data_dir is not set: --data_dir names the folder that holds {self.title}: {files}")
        path = self._folder(data_dir) / name
        if path.is_file():
            return path
        advice = f"gunzip {name}.gz" if Path(f"{path}.gz").is_file() else f"expected {self.title}: {files}"
        raise UserError(f"{path}: no such file; {advice}")


def _read_cifar(label_bytes: int, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Files of records: one label or more, of which the last is the finest, and 32 x 32 reds, greens and blues."""
    size = label_bytes + 3 * 32 * 32
    contents = [np.fromfile(path, np.uint8) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        if len(content) == 0 or len(content) % size:
            raise UserError(f"{path}: has {len(content)} bytes, expected {size} for each image; unpack it again")
    records = np.concatenate(contents).reshape(-1, size)
    return records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, label_bytes - 1]


def _read_mnist(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """A file of images and a file of their labels."""
    images, labels = _read_idx(paths[0], (28, 28)), _read_idx(paths[1], ())
    if len(images) != len(labels):
        raise UserError(f"{paths[1]}: {len(labels)} labels for the {len(images)} images of {paths[0].name}")
    return images[..., None], labels


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The items, uint8 of this shape, of a file that begins with type and rank, count and shape (big-endian int32)."""
    content = np.fromfile(path, np.uint8)
    start, size = 8 + 4 * len(shape), math.prod(shape)
    count = max(1, (len(content) - start) // size)
    header = struct.pack(f">{2 + len(shape)}I", 0x801 + len(shape), count, *shape)
    if content[:start].tobytes() != header or len(content) != start + count * size:
        raise UserError(f"{path}: not the header or size of whole MNIST; gunzip or copy it again")
    return content[start:].reshape(count, *shape)


# fmt: off
STANDARD = {
    "cifar10": Standard(
        "CIFAR-10, binary version", "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",),
        partial(_read_cifar, 1), "batches.meta.txt",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": Standard(
        "CIFAR-100, binary version", "cifar-100-binary",
        ("train.bin",), ("test.bin",),
        partial(_read_cifar, 2), "fine_label_names.txt",
    ),
    "mnist": Standard(
        "MNIST", "",
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        _read_mnist, "", tuple("0123456789"),
    ),
}
# fmt: on
