"""A share of the training images that is held out for validation; the names of their classes and files decide which."""

import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.errors import UserError
from mindcv_lite.files import composed


def hold_out(images: Split, share: float, fold: int, where: Path) -> tuple[Split, Split]:
    """The images of `where` to train on, and those held out: the `fold`-th `share` of them, counted from 0.

    An image stays on its side when others are added, removed or packed. Raises `UserError` if a class has none left to
    train on.
    """
    held_out = held_out_of(images, share, fold, where)
    train = images.part(~held_out)
    if len(gone := np.setdiff1d(images.labels, train.labels)):
        path = images.paths[int(np.argmax(images.labels == gone[0]))]
        raise UserError(
            f"{where}: a share of {share:g} holds out all images of a class, such as {path}, and none is left to train "
            "on; add images, or hold out less"
        )
    return train, images.part(held_out)


def held_out_of(images: Split, share: float, fold: int, where: Path) -> np.ndarray:
    """Which images of `where` are held out, bool (images,). Raises `UserError` if none is."""
    fraction = hash_fractions(images.paths)
    held_out = (fold * share <= fraction) & (fraction < (fold + 1) * share)
    if not held_out.any():
        raise UserError(
            f"{where}: a share of {share:g} holds out none of the {len(images)} images; add images, or hold out more"
        )
    return held_out


def hash_fractions(paths: Iterable[str]) -> np.ndarray:
    """A number from 0 to below 1 for each image, as good as random and always the same wherever the images lie: float64
    (paths,)."""
    names = ("/".join(re.split("[/:]", path)[-2:]) for path in paths)  # class/image.jpg
    normal = (composed(name).encode("utf-8", "surrogateescape") for name in names)
    return np.frombuffer(b"".join(blake2b(name, digest_size=4).digest() for name in normal), "<u4") / 2**32
