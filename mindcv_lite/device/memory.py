"""The commonest error on a device, in a sentence: its memory is not enough."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindcv_lite.errors import TrainingError
from mindcv_lite.recipe.keys import Recipe

# What MindSpore and CANN say where memory cannot be had (read in the sources of MindSpore 2.3 to 2.10 and in reports of
# users), and the C++ library. Python raises MemoryError.
FORMS = re.compile(
    r"memory (isn't|is not|not) enough|out of memory|(failed to|cannot|can't|could not) allocate|alloc\w* [^.]*fail"
    r"|malloc\w* [^.]*fail|EL0004|bad_alloc|memory is insufficient|insufficient memory",
    re.IGNORECASE,
)
SIZE = re.compile(r"\bsize: ?(\d+)")


@contextmanager
def memory_for(recipe: Recipe) -> Iterator[None]:
    """Raise `TrainingError` with what was asked for and what to lower, where what runs inside runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, TrainingError) or not is_out_of_memory(error):
            raise
        batch, side, size = recipe.data.batch_size, recipe.augmentation.image_resize, SIZE.search(str(error))
        wanted = f", which asks for {int(size[1]) / 1e6:.0f} MB more" if size else ""
        state = Path(recipe.output.ckpt_save_dir, "last.state.ckpt")
        kept = f"; {state} has the last whole epoch, for --resume with the same batch" if state.exists() else ""
        raise TrainingError(
            f"the memory is not enough for batch_size {batch} at {side} x {side} pixels{wanted}: lower --batch_size "
            f"(--gradient_accumulation_steps keeps an update's size) or --image_resize{kept}"
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or bool(FORMS.search(str(error)))
