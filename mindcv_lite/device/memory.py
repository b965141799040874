"""The memory of the host and of the device: free pieces given back; the commonest error, that it is not enough, in a
sentence."""

import ctypes
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mindcv_lite.errors import TrainingError
from mindcv_lite.recipe.keys import Recipe

# What MindSpore and CANN say where memory cannot be had (read in MindSpore's sources and in reports of users; on a CPU
# seen with 2.10), and the C++ library. Python raises MemoryError.
FORMS = re.compile(
    r"memory (isn't|is not|not) enough|out of memory|(failed to|cannot|can't|could not) allocate|alloc\w* [^.]*fail"
    r"|malloc\w* [^.]*fail|EL0004|bad_alloc|memory is insufficient|insufficient memory",
    re.IGNORECASE,
)
SIZE = re.compile(r"\bsize: ?(\d+)")

M_MMAP_THRESHOLD = -3  # in malloc.h
LARGE = 2**20  # bytes


@contextmanager
def memory_for(recipe: Recipe, trains: bool = False) -> Iterator[None]:
    """Raise `TrainingError` with what was asked for and what to lower, where what runs inside runs out of memory."""
    began = time.time()
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, TrainingError) or not is_out_of_memory(error):
            raise
        batch, size = recipe.data.batch_size, SIZE.search(str(error))
        height, width = recipe.augmentation.input_size
        wanted = f", which asks for {int(size[1]) / 1e6:.0f} MB more" if size else ""
        state = Path(recipe.output.ckpt_save_dir, "last.state.ckpt")
        is_of_this_run = trains and state.exists() and state.stat().st_mtime > began - 1
        kept = f"; {state} is what --resume goes on from, if there is more memory" if is_of_this_run else ""
        same_update = " (--gradient_accumulation_steps keeps an update's size)" * trains
        raise TrainingError(
            f"the memory is not enough for batch_size {batch} at {height} x {width} pixels{wanted}: lower --batch_size"
            f"{same_update} or --image_resize{kept}"
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or bool(FORMS.search(str(error)))


def give_back_large_pieces() -> None:
    """Let malloc give back to the system, when they are freed, pieces of 1 MB and more, such as batches; by itself it
    soon keeps those of up to 32 MB. On C libraries without mallopt it does nothing."""
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def release_free_memory() -> None:
    """Give back to the system what malloc keeps in small free pieces: 50 MB after a training graph was compiled
    (small, measured). On C libraries without malloc_trim it does nothing."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
