"""The state of a run: all that `--resume` needs, in files that a kill at any moment leaves whole."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter

from mindcv_lite.checkpoints.ckpt_file import read_entries, write_entries
from mindcv_lite.checkpoints.weights import FACTS_NAME
from mindcv_lite.errors import UserError

log = logging.getLogger(__name__)

NEW, LAST, PREVIOUS = "new.last.state.ckpt", "last.state.ckpt", "previous.state.ckpt"


@dataclass(frozen=True)
class State:
    """A run at the end of a step: the numbers on the device by name, and facts about the run."""

    path: str
    numbers: dict[str, np.ndarray]
    facts: dict[str, Any]

    @property
    def card(self) -> dict[str, Any]:
        """The model card of the weights."""
        return self.facts["card"]


def save_state(folder: Path, numbers: Mapping[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write `last.state.ckpt`; the state that had this name stays, as `previous.state.ckpt`."""
    write_entries(folder / NEW, {FACTS_NAME: json.dumps(facts), **numbers})
    if (folder / LAST).exists():
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(folder / NEW, folder / LAST)


def keep_as_last(path: Path) -> None:
    """Rename the state that a run goes on from to `LAST`: a newer file that is damaged then cannot take its place."""
    if path.name in (NEW, PREVIOUS):
        os.replace(path, path.with_name(LAST))


def find_state(resume: bool | str, folder: Path) -> State | None:
    """The state that `resume` asks to go on from: of a file, or the newest in `folder`; None if there is none."""
    if not resume:
        return None
    if isinstance(resume, str):
        return read_state(Path(resume))
    states = [path for path in (folder / NEW, folder / LAST, folder / PREVIOUS) if path.exists()]
    if not states:
        log.info("no run to go on with in %s: a fresh start", folder)
        return None
    try:
        return read_state(states[0])
    except UserError as error:
        raise UserError(f"{error}{_advice_on_older(states[1:])}") from None


def read_state(path: Path) -> State:
    """Read a state. Raises `UserError` if it is missing, damaged or something else."""
    content, checked = read_entries(str(path))
    if FACTS_NAME not in content:
        raise UserError(f"{path}: no state of a run; --resume takes {LAST}, --ckpt_path takes weights")
    if not checked:
        raise UserError(f"{path}: damaged: its checksum is missing, the file was cut short")
    facts = json.loads(str(content.pop(FACTS_NAME)))
    numbers = {name: value.asnumpy() for name, value in content.items() if isinstance(value, Parameter)}
    return State(str(path), numbers, facts)


def _advice_on_older(states: list[Path]) -> str:
    for path in states:
        try:
            return f"; the state before it is whole (step {read_state(path).facts['step']}): --resume {path}"
        except UserError:
            pass
    return "; there is no older state: start afresh without --resume, or from weights with --ckpt_path"
