"""Encoded images on their way to MindSpore: in order, whoever reads them."""

import threading
from functools import cached_property

import numpy as np
import pytest

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.image_reader import DECODERS, ImagesAhead, rows_of


class Numbers(Split):
    """Images that hold their own number, in as many bytes."""

    def content(self, index: int) -> np.ndarray:
        return np.full(index + 1, index % 256, np.uint8)

    @cached_property
    def native(self) -> np.ndarray:
        return np.ones(len(self), bool)


def numbers(count: int, kind: type[Split] = Numbers) -> Split:
    return kind([str(number) for number in range(count)], np.zeros(count, np.int32), ("a",))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 700])
def test_rows_come_in_the_order_of_the_indices_each_with_its_image(count):
    indices = np.random.default_rng(0).integers(0, count, 2 * count)
    rows = list(rows_of(numbers(count), indices).create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert [int(index) for _, index in rows] == indices.tolist()
    assert all(len(image) == index + 1 and set(image) == {index % 256} for image, index in rows)


def test_what_mindspore_does_not_decode_is_made_ready_just_before_it_is_due_and_the_order_stays(monkeypatch):
    images = numbers(300)
    images.native[::3] = False
    made = []

    def make(content: np.ndarray, follow_exif: bool) -> np.ndarray:
        made.append(content[0])
        return content + 1

    monkeypatch.setattr("mindcv_lite.data.image_reader.for_mindspore", make)
    for number, (image, index) in enumerate(ImagesAhead(images, np.arange(300))):
        assert index == number
        assert image[0] == (number + (number % 3 == 0)) % 256
        assert len(made) <= number // 3 + DECODERS


def test_several_files_are_waited_for_at_once():
    together = threading.Barrier(8)

    class Late(Numbers):
        def content(self, index: int) -> np.ndarray:
            together.wait(timeout=60)  # until eight threads are here
            return super().content(index)

    assert len(list(ImagesAhead(numbers(8 * 16, Late), np.arange(8 * 16)))) == 8 * 16


def test_a_reader_that_is_left_reads_no_further():
    read = []

    class Counted(Numbers):
        def content(self, index: int) -> np.ndarray:
            read.append(index)
            return super().content(index)

    rows = iter(ImagesAhead(numbers(100_000, Counted), np.arange(100_000)))
    next(rows)
    del rows
    for thread in threading.enumerate():
        if thread.name.startswith("images"):
            thread.join(timeout=60)
    assert len(read) < 1000


def test_what_fails_in_a_thread_is_told_where_its_image_is_due():
    class Failing(Numbers):
        def content(self, index: int) -> np.ndarray:
            if index == 40:
                raise MemoryError("no room for image 40")
            return super().content(index)

    rows = iter(ImagesAhead(numbers(100, Failing), np.arange(100)))
    before = 32 - DECODERS  # the rows that wait to be decoded are not given any more
    assert [int(index) for _, index in (next(rows) for _ in range(before))] == list(range(before))
    with pytest.raises(MemoryError, match="image 40"):
        next(rows)
