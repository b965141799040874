"""Names of files, atomic writes, locks, and the cache folder."""

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mindcv_lite.errors import UserError

log = logging.getLogger(__name__)

# What `flock` answers on file systems without locks, such as some of NFS, Lustre and FUSE; 524 is ENOTSUPP of Linux.
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, 524}

# What the system answers where there is no room, or where a quota is used up.
WITHOUT_ROOM = {errno.ENOSPC, errno.EDQUOT}


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


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what another program is to read, gone after the block. Raises `UserError` if there is no room."""
    try:
        place = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(f"{error.strerror}; make room in one of them, or set TMPDIR to another folder") from None
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in WITHOUT_ROOM:
            raise
        raise UserError(
            f"{place}: cannot be written: {error.strerror}; make room there, or set TMPDIR to another folder"
        ) from None


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


def write_sealed(path: Path, content: bytes, most: int, like: str) -> None:
    """Write a file with a checksum for `read_sealed`, whole or not at all; several processes may do so at once. Of the
    files in its folder whose names are `like` it, a pattern, the `most` that were used last stay. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="writing-", ignore_cleanup_errors=True) as folder:
        unfinished = Path(folder, path.name)
        with open(unfinished, "wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    with suppress(FileNotFoundError):  # another process does the same
        used = sorted(path.parent.glob(like), key=lambda each: each.stat().st_mtime)
        for each in used[:-most]:
            each.unlink()


def read_sealed(path: Path) -> bytes | None:
    """The content of a file that `write_sealed` wrote; None if it is not there, or damaged, which costs a line in the
    log. Raises `OSError` where it cannot be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        log.info("%s is damaged: it is made anew", path)
        return None
    with suppress(OSError):
        os.utime(path)  # used: among those that stay
    return content[32:]


def cache_folder(name: str) -> Path:
    """The folder `name` of this project there; it need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindcv_lite" / name
