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
from mindcv_lite.data.images.decoding import for_mindspore
from mindcv_lite.errors import UserError, first_line

COLUMNS = ["image", "index"]
READERS, CHUNK = 8, 16  # threads that read files, and the images that one of them reads at a time
DECODERS = 8  # threads that decode what MindSpore does not, and the images that wait for it
MOST_REFUSED, FEW_REFUSED = 0.05, 10  # share, and number that is always borne, of images that cannot be read

Row = tuple[np.ndarray, np.ndarray]


def rows_of(images: Split, indices: np.ndarray, follow_exif: bool = True, workers: int = 1) -> ds.Dataset:
    """Rows (image encoded so that MindSpore decodes it, index int32) of these images in this order; the image is empty
    where it cannot be read or decoded. `workers`: threads for packed images that MindSpore does not decode."""
    if not isinstance(images, PackedSplit):
        source = ImagesAhead(images, indices, follow_exif)
        return ds.GeneratorDataset(source, COLUMNS, shuffle=False, num_parallel_workers=1, python_multiprocessing=False)
    rows = _packed_rows(images, indices)
    if images.native.all():
        return rows

    def decodable(image: np.ndarray, index: np.ndarray) -> Row:
        return image if images.native[index] else for_mindspore(image, follow_exif), index

    return rows.map(decodable, COLUMNS, num_parallel_workers=workers)


def require_most_read(images: Split, indices: np.ndarray) -> None:
    """Raise `UserError` where the system refuses so many of these images that the rest is not what was asked for."""
    refused, asked = np.array(list(images.refused), np.int64), np.unique(indices)
    count, total = int(np.isin(asked, refused).sum()), len(asked)
    if count > max(FEW_REFUSED, MOST_REFUSED * total):
        raise UserError(
            f"{images.fault(int(refused.min()))}; so are {count} images, more than {MOST_REFUSED:.0%} of the {total} "
            "that are to be read: see whether the file system is still there"
        )


def contents_of(images: Split, indices: list[int]) -> Iterable[tuple[np.ndarray, int]]:
    """Images as they are stored, each with its index, for a reader in Python."""
    if isinstance(images, PackedSplit):
        rows = _packed_rows(images, np.array(indices))
        return ((image, int(index)) for image, index in rows.create_tuple_iterator(num_epochs=1, output_numpy=True))
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
    """Rows (image, index) in the order of `indices`, read ahead by threads: to open a file may take milliseconds where
    many machines share a file system. What MindSpore does not decode, threads make ready just before it is due: its
    pixels take much memory."""

    def __init__(self, images: Split, indices: np.ndarray, follow_exif: bool = True):
        self.images, self.indices, self.follow_exif = images, indices, follow_exif
        _ = images.refused, images.versions, images.native  # made now: several threads would make several

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Row]:
        decoders, due = ThreadPoolExecutor(DECODERS, "decoders"), deque[Row | Future[Row]]()
        try:
            for image, index in self._encoded():
                native = self.images.native[index]
                due.append((image, index) if native else decoders.submit(self._decodable, image, index))
                if len(due) > DECODERS:
                    yield _result(due.popleft())
            yield from map(_result, due)
        finally:
            decoders.shutdown(wait=False, cancel_futures=True)

    def _encoded(self) -> Iterator[Row]:
        """The rows as they are stored. Raises `UserError` where too many of them cannot be read."""
        readers, ahead = ThreadPoolExecutor(READERS, "images"), deque[Future[list[Row]]]()
        try:
            for start in range(0, len(self.indices), CHUNK):
                ahead.append(readers.submit(self._read, self.indices[start : start + CHUNK]))
                if len(ahead) > 2 * READERS:
                    yield from self._rows(ahead.popleft())
            while ahead:
                yield from self._rows(ahead.popleft())
        finally:
            readers.shutdown(wait=False, cancel_futures=True)

    def _rows(self, chunk: Future[list[Row]]) -> list[Row]:
        rows = chunk.result()
        if any(int(index) in self.images.refused for _, index in rows):
            require_most_read(self.images, self.indices)
        return rows

    def _read(self, indices: np.ndarray) -> list[Row]:
        return [(self.images.content(index), np.array(index, np.int32)) for index in indices.tolist()]

    def _decodable(self, image: np.ndarray, index: np.ndarray) -> Row:
        return for_mindspore(image, self.follow_exif), index


def _result(row: Row | Future[Row]) -> Row:
    return row.result() if isinstance(row, Future) else row
