"""A share of the training photos that is held out for validation; the names of their classes and files decide which."""

import re
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np

from mindcv_lite.data.datasets.folder import Photos
from mindcv_lite.errors import UserError


def hold_out(photos: Photos, share: float, fold: int, where: Path) -> tuple[Photos, Photos]:
    """The photos of `where` to train on, and those held out: the `fold`-th `share` of them, counted from 0.

    A photo stays on its side when others are added, removed or packed. Raises `UserError` if a class has none left to
    train on.
    """
    held_out = held_out_of(photos, share, fold, where)
    train = photos.part(~held_out)
    if len(gone := np.setdiff1d(photos.labels, train.labels)):
        path = photos.paths[int(np.argmax(photos.labels == gone[0]))]
        raise UserError(
            f"{where}: a share of {share:g} holds out all photos of a class, such as {path}, and none is left to train "
            "on; add photos, or hold out less"
        )
    return train, photos.part(held_out)


def held_out_of(photos: Photos, share: float, fold: int, where: Path) -> np.ndarray:
    """Which photos of `where` are held out, bool (photos,). Raises `UserError` if none is."""
    place = places(photos.paths)
    held_out = (fold * share <= place) & (place < (fold + 1) * share)
    if not held_out.any():
        raise UserError(
            f"{where}: a share of {share:g} holds out none of the {len(photos)} photos; add photos, or hold out more"
        )
    return held_out


def places(paths: Iterable[str]) -> np.ndarray:
    """A number from 0 to below 1 for each photo, as good as random and always the same wherever the photos lie: float64
    (paths,)."""
    names = ("/".join(re.split("[/:]", path)[-2:]) for path in paths)  # class/photo.jpg
    normal = (unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape") for name in names)
    return np.frombuffer(b"".join(blake2b(name, digest_size=4).digest() for name in normal), "<u4") / 2**32
