"""Paths in little memory are the list that they were made of."""

import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindcv_lite.data.datasets.paths import Paths

# Few letters, so that folders repeat; surrogates stand for bytes that are no UTF-8; the empty path and name too.
lists = st.lists(st.text("aé猫\udcff\ud83d\n /", max_size=8), max_size=12)


@given(lists)
def test_paths_come_back_as_they_were_one_by_one_and_all_in_a_row(paths):
    compact = Paths(paths)
    assert len(compact) == len(paths)
    assert list(compact) == paths
    assert [compact[index] for index in range(len(paths))] == paths
    assert [compact[index] for index in range(-len(paths), 0)] == paths


@given(lists, st.slices(12))
def test_a_part_of_them_is_a_list(paths, part):
    assert Paths(paths)[part] == paths[part]


@given(lists, lists)
def test_more_can_be_added(paths, more):
    compact = Paths(paths)
    compact.extend(more)
    assert list(compact) == paths + more


@pytest.mark.parametrize("index", [2, -3])
def test_an_index_beyond_the_end_is_an_index_error(index):
    with pytest.raises(IndexError):
        Paths(["a/1.jpg", "a/2.jpg"])[index]


def test_names_that_are_no_utf_8_lead_to_their_files(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xfe.jpg"
    with open(name, "wb"):
        pass
    (path,) = Paths(entry.path for entry in os.scandir(tmp_path))
    assert os.fsencode(path) == name
    assert os.path.exists(path)


def test_an_image_of_imagenet_takes_about_30_bytes():
    tracemalloc.start()
    try:
        paths = Paths(f"/data/imagenet/train/n{i // 1300:08}/n{i // 1300:08}_{i}.JPEG" for i in range(26_000))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(paths) < 40  # of which its name is 21; a string takes 97 and its pointer in a list 8
