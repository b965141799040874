"""MINDIR files: MindSpore's own graphs, for MindSpore and MindSpore Lite."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn

from mindcv_lite.errors import UserError
from mindcv_lite.files import scratch_folder


def mindir_file(cell: nn.Cell, images: np.ndarray, metadata: Mapping[str, str], batch: int | None = None) -> bytes:
    """The content of a MINDIR file of `cell`.

    `images`: a batch like those it is to take. `batch`: how many it takes at once; None: any number. `metadata` becomes
    the file's `user_info`.
    """

    def describe(model: Any) -> None:
        if hasattr(model.user_info, "add"):  # to a protobuf newer than MindSpore 2.7, its map is a list of entries
            for name, value in metadata.items():
                model.user_info.add(key=name, value=value)
        else:
            model.user_info.update(metadata)

    given = Tensor(shape=[batch, *images.shape[1:]], dtype=Tensor(images).dtype)
    # Not in the user's folder: MindSpore lets the owner alone read what it writes, and takes plain names only.
    with scratch_folder() as folder:
        if not re.fullmatch(r"[\w@./:-]+", str(folder), re.ASCII):
            raise UserError(
                f"{folder}: MindSpore takes no such name; set TMPDIR to a folder of plain letters and digits"
            )
        path = folder / "network.mindir"
        mindspore.export(cell, given, file_name=str(path), file_format="MINDIR", custom_func=describe)
        return path.read_bytes()


def open_mindir(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """What MindSpore predicts for a batch of images, by the content of a file."""
    with scratch_folder() as folder:
        path = folder / "network.mindir"
        path.write_bytes(content)
        cell: Any = nn.GraphCell(mindspore.load(str(path)))
    return lambda images: cell(Tensor(images)).asnumpy()
