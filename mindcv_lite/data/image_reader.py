"""Encoded images in a given order, read by MindSpore from where they lie."""

import operator
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from pathlib import Path

import mindspore.dataset as ds
import numpy as np

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.datasets.packed import PackedSplit
from mindcv_lite.errors import UserError, first_line

COLUMNS = ["image", "index"]
READERS, CHUNK = 8, 16  # threads that read files, and the images that one of them reads at a time

Row = tuple[np.ndarray, np.ndarray]


def rows_of(images: Split, indices: np.ndarray) -> ds.Dataset:
    """Rows (encoded image, index int32) of these images in this order; the image is empty where none can be read."""
    if isinstance(images, PackedSplit):
        return _packed_rows(images, indices)
    source = ImagesAhead(images, indices)
    return ds.GeneratorDataset(source, COLUMNS, shuffle=False, num_parallel_workers=1, python_multiprocessing=False)


def contents_of(images: Split, indices: list[int]) -> Iterable[tuple[np.ndarray, int]]:
    """The same rows, for a reader in Python: the image is an array of any kind that has its bytes."""
    if isinstance(images, PackedSplit):
        return rows_of(images, np.array(indices)).create_tuple_iterator(num_epochs=1, output_numpy=True)
    return ((images.content(index), index) for index in indices)


def damaged(images: Split, error: Exception) -> UserError:
    """What to say where MindSpore cannot read packed images."""
    assert isinstance(images, PackedSplit), "the others are read in Python, which says what is wrong"
    folder = Path(images.files[0]).parent
    return UserError(
        f"{folder}: the packed images are damaged: {first_line(error)}; copy them again, or pack the images again"
    )


def _packed_rows(images: PackedSplit, indices: np.ndarray) -> ds.Dataset:
    # MindSpore wants no more indices than images; filling up the last batch of a small split may need more.
    parts = np.split(images.rows[indices], range(len(images), len(indices), len(images)))
    try:  # the files are opened here
        readers = [
            ds.MindDataset(images.files, COLUMNS, num_parallel_workers=1, sampler=ds.SubsetSampler(part.tolist()))
            for part in parts
        ]
        rows = reduce(operator.add, readers)
    except (RuntimeError, ValueError) as error:
        raise damaged(images, error) from None
    if images.numbers[-1] == len(images) - 1:
        return rows

    def index_of(number: np.ndarray) -> np.ndarray:  # the files count what is left out here or was when they were made
        return np.searchsorted(images.numbers, number).astype(np.int32)

    return rows.map(index_of, "index", num_parallel_workers=1)


class ImagesAhead:
    """Rows (encoded image, index) in the order of `indices`, read ahead by threads: to open a file may take
    milliseconds where many machines share a file system."""

    def __init__(self, images: Split, indices: np.ndarray):
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Row]:
        readers = ThreadPoolExecutor(READERS, "images")
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
        return [(self.images.content(index), np.array(index, np.int32)) for index in indices.tolist()]
