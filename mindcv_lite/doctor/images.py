"""Generated images of colours that can be learned, in class folders."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")


def write_images(data_dir: Path, train: int, val: int, size: tuple[int, int], names: int = 1) -> None:
    """Write data_dir/{train,val}/<class>/*.jpg: so many images of a split in all, of `size` (width, height).

    `names`: of each image. Several processes may do this at once: the images appear all together.
    """
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_dir.parent) as unfinished:
        for split, count in (("train", train), ("val", val)):
            for number in range(count):
                _write_image(Path(unfinished, "images", split), number, size, names)
        with suppress(OSError):  # another process was faster
            os.rename(Path(unfinished, "images"), data_dir)


def _write_image(split: Path, number: int, size: tuple[int, int], names: int) -> None:
    label = number % len(CLASSES)
    folder = split / CLASSES[label]
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 80, (size[1], size[0], 3), np.uint8)
    pixels[..., 2 - label] += 120
    path = folder / f"{number:05d}.jpg"
    Image.fromarray(pixels).save(path)
    for name in range(1, names):
        os.link(path, folder / f"{number:05d}_{name}.jpg")
