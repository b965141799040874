"""Weights files of PyTorch: `.safetensors`, and its own format where torch is installed."""

import argparse
import logging
import pickle
import re
from pathlib import Path

import mindspore
import numpy as np

from mindcv_lite.errors import UserError, first_line

log = logging.getLogger(__name__)

# Where training programs keep the weights beside other things; averaged weights first, as timm takes them.
STATE_DICTS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What wraps a network puts its name before the parameters' names.
WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
COUNTERS = ("num_batches_tracked", "n_averaged")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict, without counters. Raises `UserError` if the file holds none."""
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    try:
        tensors = read(path)
    except UserError:
        raise
    except Exception as error:  # whatever the two readers stumble over
        raise UserError(f"{path}: not a weights file of PyTorch, or damaged ({first_line(error)})") from None
    tensors = {WRAPPERS.sub("", name): value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if name.split(".")[-1] not in COUNTERS}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    return {name: value.asnumpy() for name, value in mindspore.load_checkpoint(str(path), format="safetensors").items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # pyrefly: ignore [missing-import]  (the user's own)
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
