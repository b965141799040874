"""A file with a checksum is read whole or refused; MindSpore's reader never sees one that is damaged."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from mindcv_lite.checkpoints.ckpt_file import read_entries, write_entries
from mindcv_lite.checkpoints.model_card import CARD_KEYS, CARD_NAME
from mindcv_lite.checkpoints.weights import FACTS_NAME, read_weights
from mindcv_lite.errors import UserError
from mindcv_lite.runs.state import read_state
from mindcv_lite.signals import Interrupted

NUMBERS = {
    "features.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "count": np.array(7, np.int32),
    "half": np.array([1.5, -2.5], np.float16),
}
KINDS: list[tuple[str, dict[str, Any], Callable[[Path], object]]] = [
    (CARD_NAME, dict.fromkeys((*CARD_KEYS, "class_names")), lambda path: read_weights(str(path))),
    (FACTS_NAME, {"step": 3, "card": {}}, read_state),
]
each_kind = pytest.mark.parametrize(("name", "text", "read"), KINDS, ids=["weights", "state"])


def written(folder: Path, name: str, text: dict[str, Any]) -> tuple[Path, bytes]:
    path = folder / "x.ckpt"
    write_entries(path, {name: json.dumps(text)} | NUMBERS)
    return path, path.read_bytes()


def refuse(read: Callable[[Path], object], path: Path, content: bytes) -> None:
    """One line that names the file; any other exception, and none, is a failure."""
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        read(path)
    assert len(str(error.value).splitlines()) == 1


def test_entries_keep_type_shape_and_bits(tmp_path):
    path, _ = written(tmp_path, "text", {"a": "ä"})
    found, checked = read_entries(str(path))
    assert checked
    assert json.loads(str(found.pop("text"))) == {"a": "ä"}
    assert found.keys() == NUMBERS.keys()
    for name, value in NUMBERS.items():
        ours: np.ndarray = found[name].asnumpy()  # type: ignore[union-attr]
        assert (ours.dtype, ours.shape, ours.tobytes()) == (value.dtype, value.shape, value.tobytes()), name


@each_kind
def test_a_whole_file_is_taken(tmp_path, name, text, read):
    path, _ = written(tmp_path, name, text)
    read(path)


@each_kind
def test_a_flipped_bit_anywhere_is_refused(tmp_path, name, text, read):
    path, whole = written(tmp_path, name, text)
    random = np.random.default_rng(0)
    start = whole.index(b"features.0.weight")
    meaning = range(start - 6, whole.index(b"Float32", start) + 7)  # sizes, name, shape and type of the first tensor
    checksum = range(len(whole) - 17, len(whole))
    for position in [*random.integers(0, len(whole), 200), *meaning, *checksum]:
        content = bytearray(whole)
        content[position] ^= 1 << random.integers(8)
        refuse(read, path, bytes(content))


@each_kind
def test_a_file_cut_short_anywhere_is_refused(tmp_path, name, text, read):
    path, whole = written(tmp_path, name, text)
    for lost in [*range(1, 40), len(whole) // 2, len(whole) - 1]:  # 17: the checksum, to the byte
        refuse(read, path, whole[:-lost])


@each_kind
def test_a_file_with_more_at_its_end_is_refused(tmp_path, name, text, read):
    path, whole = written(tmp_path, name, text)
    for more in (b"\0", b"crc_num", whole[-17:]):
        refuse(read, path, whole + more)


def test_a_file_of_others_needs_no_checksum(tmp_path):
    path = tmp_path / "x.ckpt"
    mindspore.save_checkpoint([{"name": "a", "data": Tensor(np.ones(3, np.float32))}], str(path))
    found, checked = read_entries(str(path))
    assert not checked
    assert found["a"].asnumpy().tolist() == [1, 1, 1]  # type: ignore[union-attr]
    assert read_weights(str(path)).card is None


def test_a_file_of_others_with_mindspores_checksum_is_checked(tmp_path):
    path = tmp_path / "x.ckpt"
    mindspore.save_checkpoint([{"name": "a", "data": Tensor(np.ones(3, np.float32))}], str(path), crc_check=True)
    assert read_entries(str(path))[1]
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.ckpt: damaged: its content does not match its checksum; use another copy"):
        read_entries(str(path))


def test_a_signal_while_a_file_is_read_is_no_damage(tmp_path, monkeypatch):
    def interrupted(_: str) -> None:
        try:
            raise Interrupted(signal.SIGINT)
        except BaseException as stop:  # as MindSpore does it
            raise ValueError("may not have permission to read it") from stop

    write_entries(tmp_path / "a.ckpt", {"x": np.ones(1, np.float32)})
    monkeypatch.setattr(mindspore, "load_checkpoint", interrupted)
    with pytest.raises(Interrupted):
        read_entries(str(tmp_path / "a.ckpt"))


def test_mindspore_finds_the_checksum_right(tmp_path):
    path, _ = written(tmp_path, "text", {})
    assert mindspore.load_checkpoint(str(path), crc_check=True).keys() == {"text", *NUMBERS}
