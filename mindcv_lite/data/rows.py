"""Encoded photos in a given order, read by MindSpore from where they lie."""

import operator
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from pathlib import Path

import mindspore.dataset as ds
import numpy as np

from mindcv_lite.data.datasets.folder import Photos
from mindcv_lite.data.datasets.packed import PackedPhotos
from mindcv_lite.errors import UserError, first_line

COLUMNS = ["image", "index"]
READERS, CHUNK = 8, 16  # threads that read files, and the photos that one of them reads at a time

Row = tuple[np.ndarray, np.ndarray]


def rows_of(photos: Photos, indices: np.ndarray) -> ds.Dataset:
    """Rows (encoded photo, index int32) of these photos in this order; the photo is empty where none can be read."""
    if isinstance(photos, PackedPhotos):
        return _packed_rows(photos, indices)
    source = PhotosAhead(photos, indices)
    return ds.GeneratorDataset(source, COLUMNS, shuffle=False, num_parallel_workers=1, python_multiprocessing=False)


def contents_of(photos: Photos, indices: list[int]) -> Iterable[tuple[np.ndarray, int]]:
    """The same rows, for a reader in Python: the photo is an array of any kind that has its bytes."""
    if isinstance(photos, PackedPhotos):
        return rows_of(photos, np.array(indices)).create_tuple_iterator(num_epochs=1, output_numpy=True)
    return ((photos.content(index), index) for index in indices)


def damaged(photos: Photos, error: Exception) -> UserError:
    """What to say where MindSpore cannot read packed photos."""
    assert isinstance(photos, PackedPhotos), "the others are read in Python, which says what is wrong"
    folder = Path(photos.files[0]).parent
    return UserError(
        f"{folder}: the packed photos are damaged: {first_line(error)}; copy them again, or pack the photos again"
    )


def _packed_rows(photos: PackedPhotos, indices: np.ndarray) -> ds.Dataset:
    # MindSpore wants no more indices than photos; filling up the last batch of a small split may need more.
    parts = np.split(photos.rows[indices], range(len(photos), len(indices), len(photos)))
    try:  # the files are opened here
        readers = [
            ds.MindDataset(photos.files, COLUMNS, num_parallel_workers=1, sampler=ds.SubsetSampler(part.tolist()))
            for part in parts
        ]
        rows = reduce(operator.add, readers)
    except (RuntimeError, ValueError) as error:
        raise damaged(photos, error) from None
    if photos.numbers[-1] == len(photos) - 1:
        return rows

    def index_of(number: np.ndarray) -> np.ndarray:  # the files count what is left out here or was when they were made
        return np.searchsorted(photos.numbers, number).astype(np.int32)

    return rows.map(index_of, "index", num_parallel_workers=1)


class PhotosAhead:
    """Rows (encoded photo, index) in the order of `indices`, read ahead by threads: to open a file may take
    milliseconds where many machines share a file system."""

    def __init__(self, photos: Photos, indices: np.ndarray):
        self.photos, self.indices = photos, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Row]:
        readers = ThreadPoolExecutor(READERS, "photos")
        try:
            ahead: deque[Future[list[Row]]] = deque()
            for start in range(0, len(self.indices), CHUNK):
                ahead.append(readers.submit(self._read, self.indices[start : start + CHUNK]))
                if len(ahead) > 2 * READERS:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            readers.shutdown(wait=False, cancel_futures=True)

    def _read(self, indices: np.ndarray) -> list[Row]:
        return [(self.photos.content(index), np.array(index, np.int32)) for index in indices.tolist()]
