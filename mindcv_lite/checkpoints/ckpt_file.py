"""`.ckpt` files on disk: written whole or not at all, and checked when they are read."""

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Parameter, Tensor

from mindcv_lite.errors import UserError, first_line
from mindcv_lite.files import written_whole
from mindcv_lite.signals import interruption_in


def write_entries(path: Path, entries: Mapping[str, np.ndarray | str]) -> None:
    """Write a `.ckpt` file with a checksum, or a `.safetensors` file, whole or not at all. Raises `UserError`."""
    kind = path.suffix.removeprefix(".")
    content = {name: value if isinstance(value, str) else Parameter(Tensor(value)) for name, value in entries.items()}
    with written_whole(path) as unfinished:
        try:
            mindspore.save_checkpoint(content, str(unfinished), crc_check=kind == "ckpt", format=kind)
        except Exception as error:  # safetensors has its own, for a full disk too
            raise OSError(str(error)) from None
        os.chmod(unfinished, 0o666 & ~_umask())  # MindSpore lets the owner alone read it


def read_entries(path: str) -> tuple[dict[str, Parameter | str], bool]:
    """What a file holds, and whether it has a checksum; files of others need not.

    Raises `UserError` if it is missing, foreign or damaged.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; expected a .ckpt file")
    if not Path(path).stat().st_size:
        raise UserError(f"{path}: empty; expected a .ckpt file")
    # Before MindSpore reads the file: one wrong byte in a shape ends its process.
    checksum = _matches_its_checksum(Path(path))
    if checksum is False:
        raise UserError(f"{path}: damaged: its content does not match its checksum; use another copy of it")
    try:
        return mindspore.load_checkpoint(path), checksum is not None
    except Exception as error:  # MindSpore raises ValueError, RuntimeError or protobuf's own, by where it stumbles
        if stop := interruption_in(error):
            raise stop from None
        if is_pytorchs(Path(path)):
            raise UserError(
                f"{path}: a file of PyTorch, as Lightning's are; `python -m mindcv_lite convert` takes it"
            ) from None
        raise UserError(f"{path}: not a MindSpore checkpoint, or damaged ({first_line(error)})") from None


def is_pytorchs(path: Path) -> bool:
    """Whether the file is of PyTorch's own format, whatever its name: a zip or a pickle."""
    with open(path, "rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def _umask() -> int:
    umask = os.umask(0)  # there is no way to ask without setting it
    os.umask(umask)
    return umask


MARK = b"crc_num"  # MindSpore ends a file with this and the CRC-32 of all before it, in 10 bytes


def _matches_its_checksum(path: Path) -> bool | None:
    """Whether the content of a file gives the checksum at its end; None if there is none."""
    content = memoryview(path.read_bytes())
    body, mark, checksum = content[:-17], content[-17:-10], content[-10:]
    return zlib.crc32(body) == int.from_bytes(checksum, "big") if mark == MARK else None
