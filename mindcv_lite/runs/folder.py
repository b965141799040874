"""What a run leaves in its folder: as many weights files as the recipe keeps, and the state to go on from."""

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
from mindcv_lite.checkpoints.weights import CARD_NAME, FACTS_NAME, read_weights
from mindcv_lite.errors import UserError
from mindcv_lite.files import lock
from mindcv_lite.recipe.keys import Recipe

log = logging.getLogger(__name__)

NEW, LAST, PREVIOUS = "new.last.state.ckpt", "last.state.ckpt", "previous.state.ckpt"
# fmt: off
RUN_FILES = (
    "recipe.yaml", "results.csv", "curves.png", "tensorboard", "*.state.ckpt",
    "mobilenet_v3_*-*_*.ckpt", "mobilenet_v3_*_best.ckpt", ".*.part",
)
# fmt: on


def save_weights(path: Path, weights: Mapping[str, np.ndarray], card: dict[str, Any]) -> None:
    """Write weights and model card to a `.ckpt` file, whole or not at all."""
    # The card comes first: a file that was cut short then lacks weights or checksum, which shows.
    write_entries(path, {CARD_NAME: json.dumps(card), **weights})


def claim(folder: Path) -> int:
    """Make the folder of a run, and keep other trainings out of it until the descriptor that is returned is closed."""
    descriptor = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        lock(descriptor, wait=False)
        return descriptor
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        taken = isinstance(error, BlockingIOError)
        reason = "another training is writing there" if taken else f"cannot write there: {error.strerror}"
        raise UserError(f"{folder}: {reason}; give another --ckpt_save_dir") from None


def start_run(folder: Path, recipe: Recipe, goes_on: bool = False) -> None:
    """Save the recipe in the folder of a run, which `claim` has made.

    Unless the run `goes_on` there, an earlier run's files move to a subfolder: none is lost.
    """
    try:
        if not goes_on:
            _set_earlier_run_aside(folder)
        recipe.with_keys(resume=False).save(folder / "recipe.yaml")
    except OSError as error:
        raise UserError(f"{folder}: cannot write there: {error.strerror}; give another --ckpt_save_dir") from None


def _set_earlier_run_aside(folder: Path) -> None:
    earlier = [path for pattern in RUN_FILES for path in folder.glob(pattern)]
    if not earlier:
        return
    number = 1
    while (aside := folder / f"run_{number}").exists():
        number += 1
    aside.mkdir()
    for path in earlier:
        os.replace(path, aside / path.name)
    log.info("%s holds an earlier run: its %d files are moved to %s", folder, len(earlier), aside)


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


class Checkpoints:
    """`<model>-<epoch>_<step>.ckpt` every so often, of which some stay, and `<model>_best.ckpt`."""

    def __init__(self, folder: Path, model: str, keep: int, policy: str):
        self.folder, self.model, self.keep, self.policy = folder, model, keep, policy
        self.kept: list[tuple[float, Path]] = []
        self.best = -1.0
        self.best_path = folder / f"{model}_best.ckpt"

    def save(
        self, epoch: int, step: int, weights: Mapping[str, np.ndarray], card: dict[str, Any], top1: float | None
    ) -> None:
        """Save the weights after `epoch`, then remove the file that the policy gives up."""
        path = self.folder / f"{self.model}-{epoch}_{step}.ckpt"
        save_weights(path, weights, card)
        self.kept.append((-1.0 if top1 is None else top1, path))
        while len(self.kept) > self.keep:
            given_up = self.kept[0] if self.policy == "latest_k" else min(self.kept, key=lambda kept: kept[0])
            self.kept.remove(given_up)
            given_up[1].unlink(missing_ok=True)

    def save_if_best(self, weights: Mapping[str, np.ndarray], card: dict[str, Any], top1: float) -> bool:
        """Save the weights under the best one's name if no earlier ones of this run scored as high."""
        if top1 <= self.best:
            return False
        save_weights(self.best_path, weights, card)
        self.best = top1
        return True

    def facts(self) -> dict[str, Any]:
        """What a resumed run must know of the files it has."""
        return {"best": self.best, "kept": [(score, path.name) for score, path in self.kept]}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Go on with the files of a run that stopped."""
        self.kept = [(score, self.folder / name) for score, name in facts["kept"]]
        self.best = max(facts["best"], self._best_on_disk())  # which may be of a later epoch than the state

    def _best_on_disk(self) -> float:
        card = read_weights(str(self.best_path)).card if self.best_path.exists() else None
        return card["top1"] if card else -1.0
