"""Weights files of PyTorch: `.safetensors`, and its own format where torch is installed."""

import argparse
import logging
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import mindspore
import numpy as np

from mindcv_lite.checkpoints.ckpt_file import is_pytorchs
from mindcv_lite.errors import UserError, first_line

log = logging.getLogger(__name__)

# Where training programs keep the weights beside other things; averaged weights first, as timm takes them.
STATE_DICTS = ("state_dict_ema", "model_ema", "state_dict", "model")
COUNTERS = ("num_batches_tracked", "n_averaged")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict, without counters. Raises `UserError` if the file holds none."""
    read = _read_safetensors if _is_safetensors(path) else _read_torch
    try:
        tensors = read(path)
    except UserError:
        raise
    except Exception as error:  # whatever the two readers stumble over
        raise UserError(f"{path}: not a weights file of PyTorch, or damaged ({first_line(error)})") from None
    return {name: value for name, value in tensors.items() if name.split(".")[-1] not in COUNTERS}


def _is_safetensors(path: Path) -> bool:
    """Whether it is safetensors by its content, a length and JSON, or by its name and not PyTorch's by its content."""
    with open(path, "rb") as file:
        begins_so = file.read(9)[8:] == b"{"
    return begins_so or (path.suffix == ".safetensors" and not is_pytorchs(path))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with TemporaryDirectory() as folder:  # MindSpore goes by the name
        named_so = Path(folder, "weights.safetensors")
        named_so.symlink_to(path.resolve())
        entries = mindspore.load_checkpoint(str(named_so), format="safetensors")
    return {name: value.asnumpy() for name, value in entries.items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # the user's own
    except ImportError:
        raise UserError(
            f"{path}: reading this format needs PyTorch: pip install torch, or give the weights as .safetensors"
        ) from None
    torch.serialization.add_safe_globals([argparse.Namespace])  # the flags, in files of training programs
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:  # its text advises to run whatever code the file brings along
        raise UserError(f"{path}: damaged, or more than weights; save the network's state_dict() alone") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a state dict of PyTorch, got {type(content).__name__}")
    part = next((name for name in STATE_DICTS if isinstance(content.get(name), dict)), None)
    if part:
        log.info("%s: '%s' is taken", path, part)
        content = content[part]
    return {name: value.float().numpy() for name, value in content.items() if isinstance(value, torch.Tensor)}
