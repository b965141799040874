"""The demo's images: 1797 real handwritten digits that come with scikit-learn, as an image folder."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mindcv_lite.errors import UserError
from mindcv_lite.files import cache_folder

SIDE = 32
HELD_OUT = 5  # every fifth digit is for validation


def digits_folder(data_dir: str) -> str:
    """The folder train/ and val/ lie in; written on first use, under `data_dir` or else the user's cache."""
    folder = Path(data_dir) if data_dir else cache_folder("digits")
    if not (folder / "train").is_dir():
        _write(folder)
    elif {path.name for path in (folder / "train").iterdir()} != set("0123456789"):
        raise UserError(f"{folder}: dataset is digits, but other images are there; use --dataset imagenet for those")
    return str(folder)


def _write(folder: Path) -> None:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digits come with scikit-learn, which is missing: pip install scikit-learn") from None
    digits: Any = load_digits()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed as a whole: several ranks may do this at once, and none may see half of it.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".digits-") as unfinished:
            for index, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
                split = "val" if index % HELD_OUT == 0 else "train"
                path = Path(unfinished) / "digits" / split / str(digit) / f"{index:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                grey = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))  # 8 x 8, values 0..16
                grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
            os.rename(Path(unfinished) / "digits", folder)
    except OSError as error:
        if not (folder / "train").is_dir():
            raise UserError(
                f"{folder}: cannot write the digits there: {error.strerror}; give another --data_dir"
            ) from None
