"""Encoded photos in a given order, read by MindSpore from where they lie."""

import operator
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

import mindspore.dataset as ds
import numpy as np

from mindcv_lite.data.folder import Photos
from mindcv_lite.data.packed import PackedPhotos
from mindcv_lite.errors import UserError, first_line

COLUMNS = ["image", "index"]


def rows_of(photos: Photos, indices: np.ndarray) -> ds.Dataset:
    """Rows (encoded photo, index int32) of these photos in this order; the photo is empty where none can be read."""
    if isinstance(photos, PackedPhotos):
        return _packed_rows(photos, indices)
    source = EncodedPhotos(photos, indices)
    return ds.GeneratorDataset(source, COLUMNS, shuffle=False, num_parallel_workers=1, python_multiprocessing=False)


def contents_of(photos: Photos, indices: list[int]) -> Iterable[tuple[np.ndarray, int]]:
    """The same rows, for a reader in Python: the photo is an array of any kind that has its bytes."""
    if isinstance(photos, PackedPhotos):
        return rows_of(photos, np.array(indices)).create_tuple_iterator(num_epochs=1, output_numpy=True)
    return ((photos.content(index), index) for index in indices)


def _packed_rows(photos: PackedPhotos, indices: np.ndarray) -> ds.Dataset:
    # MindSpore wants no more indices than photos; filling up the last batch of a small split may need more.
    parts = np.split(indices, range(len(photos), len(indices), len(photos)))
    try:  # the files are opened here
        readers = [
            ds.MindDataset(photos.files, COLUMNS, num_parallel_workers=1, sampler=ds.SubsetSampler(part.tolist()))
            for part in parts
        ]
        rows = reduce(operator.add, readers)
    except (RuntimeError, ValueError) as error:
        folder = Path(photos.files[0]).parent
        raise UserError(
            f"{folder}: the packed photos are damaged: {first_line(error)}; copy them again, or pack the photos again"
        ) from None
    if photos.numbers[-1] == len(photos) - 1:
        return rows

    def index_of(number: np.ndarray) -> np.ndarray:  # the files count the photos that were left out, too
        return np.searchsorted(photos.numbers, number).astype(np.int32)

    return rows.map(index_of, "index", num_parallel_workers=1)


class EncodedPhotos:
    """Rows (encoded photo, index) for MindSpore's readers."""

    def __init__(self, photos: Photos, indices: np.ndarray):
        self.photos, self.indices = photos, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.int32]:
        index = self.indices[place]
        return self.photos.content(index), np.int32(index)
