"""What is said where the memory is not enough, and what is given back."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindcv_lite.device.memory import memory_for, release_free_memory
from mindcv_lite.errors import TrainingError

CPU = """
----------------------------------------------------
- Memory not enough:
----------------------------------------------------
Memory isn't enough and alloc failed, kernel name: Default/Mul-op5, alloc size: 112896000B.
"""
ASCEND = [
    "Device(id:0) memory isn't enough and alloc failed, kernel name: Default/Conv2D-op1, alloc size: 20971520B.",
    "Device memory isn't enough and alloc failed, actor name: kernel_graph_1, alloc size: 20971520",
    "Memory_Allocation_Failure(EL0004): Failed to allocate memory requested by GE module.",
    "Call rtMalloc fail, purpose: page caching, type = 2, size:3221291008, device_id:0",
    "Out of Memory!!! Request memory size: 5368709120B, device 0",
]
OTHERS = ["std::bad_alloc", "Cannot allocate memory", "Unable to allocate 1.2 GiB for an array", "could not allocate"]


@pytest.mark.parametrize("text", [CPU, *ASCEND, *OTHERS])
def test_an_error_for_want_of_memory_says_what_was_asked_for_and_what_to_lower(recipe, text):
    error = MemoryError(text) if text.startswith("Unable") else RuntimeError(text)
    with pytest.raises(TrainingError) as told, memory_for(recipe(batch_size=96, image_resize=1024)):
        raise error
    assert str(told.value).startswith("the memory is not enough for batch_size 96 at 1024 x 1024 pixels")
    assert "lower --batch_size" in str(told.value)
    assert "\n" not in str(told.value)
    assert ("113 MB more" in str(told.value)) == (text == CPU)


@pytest.mark.parametrize(("age", "is_named"), [(0, True), (3600, False)])
def test_a_state_that_this_run_has_saved_is_named(recipe, tmp_path, age, is_named):
    state = tmp_path / "last.state.ckpt"
    state.touch()
    os.utime(state, (time.time() - age,) * 2)
    with pytest.raises(TrainingError) as told, memory_for(recipe(ckpt_save_dir=tmp_path), trains=True):
        raise MemoryError
    assert (f"{state} is what --resume goes on from" in str(told.value)) == is_named


@pytest.mark.parametrize(
    "error", [RuntimeError("the loss is not finite"), KeyError("memory isn't enough"), ValueError()]
)
def test_other_errors_stay_what_they_are(recipe, error):
    with pytest.raises(type(error)) as told, memory_for(recipe()):
        raise error
    assert told.value is error


def test_an_error_of_ours_that_speaks_of_memory_stays_itself(recipe):
    with pytest.raises(TrainingError, match="of our own: out of memory"), memory_for(recipe()):
        raise TrainingError("of our own: out of memory")


def test_small_pieces_that_are_free_go_back_to_the_system():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    pieces = [bytes(2000) for _ in range(50_000)]  # of malloc, 100 MB
    last = pieces.pop()  # behind them, so that free alone gives nothing back
    pieces.clear()
    before = resident()
    release_free_memory()
    assert before - resident() > 50_000_000
    assert last


KEEPS = """
import os, sys
from mindcv_lite.device.memory import give_back_large_pieces

if "give back" in sys.argv:
    give_back_large_pieces()
pages = lambda: int(open("/proc/self/statm").read().split()[1])
bytearray(b"x") * 8_000_000  # which malloc learns from
before = pages()
pieces = [(bytearray(b"x") * 4_000_000, bytearray(100_000)) for _ in range(20)]
last = [small for _, small in pieces]  # each behind a large one, so that it is not at the end
pieces.clear()
print((pages() - before) * os.sysconf("SC_PAGE_SIZE"))
"""


def test_large_pieces_that_are_free_go_back_to_the_system():
    def kept(*words: str) -> int:
        command = [sys.executable, "-c", KEEPS, *words]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert kept() > 70_000_000
    assert kept("give back") < 10_000_000
