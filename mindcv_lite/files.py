"""Files that appear whole under their name, or not at all."""

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindcv_lite.errors import UserError


def require_folder(folder: Path) -> None:
    """Raise `UserError` unless files can be written to `folder`, which may be a new one; leave nothing there."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryDirectory(dir=there):  # only an attempt tells: os.access allows root all
            pass
    except OSError as error:
        raise UserError(f"{folder}: no folder to write to: {error.strerror}; give another place") from None


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write the file `path`, which takes its name, and the place of an earlier one, at the end of the block.

    Raises `UserError` if it cannot be written; then, as after any other error, nothing is left of it.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: stands there and is no file; give another place")
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:  # a full disk, say
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written: {reason}; make room there, or give another place") from None
    finally:
        for part in path.parent.glob(f"{glob.escape(unfinished.stem)}*"):  # a library may have its own beside it
            part.unlink()
