"""Names of files, atomic writes, locks, and the cache folder."""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindcv_lite.errors import UserError

log = logging.getLogger(__name__)

# What `flock` answers on file systems without locks, such as some of NFS, Lustre and FUSE; 524 is ENOTSUPP of Linux.
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, 524}


def composed(name: str) -> str:
    """The name with each accent and its letter as one character. Systems differ in how they write a name."""
    return unicodedata.normalize("NFC", name)


def require_checkpoint(path: str | Path) -> None:
    """Raise `UserError` unless `path` is a file that MindSpore would read as a checkpoint, by its name."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; expected a .ckpt file")
    if Path(path).suffix != ".ckpt":
        raise UserError(
            f"{path}: the name of a checkpoint must end in .ckpt; `python -m mindcv_lite convert` makes one of weights "
            "of others"
        )


def require_folder(folder: Path) -> None:
    """Raise `UserError` unless files can be written to `folder`, which may be a new one; leave nothing there."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryDirectory(dir=there):  # only an attempt tells: os.access allows root all
            pass
    except OSError as error:
        raise UserError(f"{folder}: no folder to write to: {error.strerror}; give another path") from None


def require_file(path: Path) -> None:
    """Raise `UserError` unless the file `path` can be written: a new one, or in the place of an earlier one."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: stands there and is no file; give another path")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; give another path")
    require_folder(path.parent)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write the file `path`, which takes its name, and the place of an earlier one, at the end of the block.

    Raises `UserError` if it cannot be written; then, as after any other error, nothing is left of it.
    """
    require_file(path)
    folder = path.with_name(f".{path.name}.part")  # of its own: a library may write more than the file
    try:
        folder.mkdir(exist_ok=True)  # one that was killed may have left it
        yield folder / path.name
        with open(folder / path.name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(folder / path.name, path)
    except OSError as error:  # a full disk, say
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written: {reason}; make room there, or give another path") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def filled_whole(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there. After any error, what was written to it is gone."""
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield
    except BaseException:
        for left in [*folder.iterdir()]:
            left.unlink()
        if is_new:
            folder.rmdir()
        raise


def write_text(path: Path, content: str) -> None:
    """Write a text file whole or not at all. Raises `UserError`."""
    with written_whole(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def lock(descriptor: int, wait: bool = True) -> bool:
    """Hold an open file or folder against other processes, until it is closed. Whether it is held: a file system
    without locks costs a line in the log.

    Raises `BlockingIOError` if another process holds it and `wait` is False.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        log.warning(
            "%s: this file system has no locks (%s): take care that no other program writes there",
            os.readlink(f"/proc/self/fd/{descriptor}"),
            error.strerror,
        )
        return False


def cache_folder(name: str) -> Path:
    """The folder `name` of this project there; it need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindcv_lite" / name
