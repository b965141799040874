"""Weights files on disk: written whole or not at all, and only as many as the recipe keeps."""

import glob
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, Tensor

from mindcv_lite.errors import UserError
from mindcv_lite.recipe import Recipe
from mindcv_lite.weights import CARD_NAME

log = logging.getLogger(__name__)

RUN_FILES = ("recipe.yaml", "results.csv", "mobilenet_v3_*-*_*.ckpt", "mobilenet_v3_*_best.ckpt", ".*.unfinished*")


def save_weights(path: Path, parameters: Mapping[str, Parameter], card: dict[str, Any]) -> None:
    """Write weights and model card to a `.ckpt` file, whole or not at all."""
    # The card comes first: a file that was cut short then lacks weights, which shows.
    _write(
        {CARD_NAME: json.dumps(card)} | {name: Parameter(value.asnumpy()) for name, value in parameters.items()}, path
    )


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a `.safetensors` file, whole or not at all. Raises `UserError` if that fails."""
    try:
        _write({name: Parameter(Tensor(value)) for name, value in tensors.items()}, path)
    except Exception as error:  # safetensors has its own, for a full disk too
        raise UserError(f"{path}: cannot be written: {error}") from None


def _write(entries: dict[str, str | Parameter], path: Path) -> None:
    """Write a new file, flush it to disk, and only then give it its name."""
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        mindspore.save_checkpoint(entries, str(unfinished), format=path.suffix.removeprefix("."))
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:  # a full disk, say
        error.filename = error.filename or str(path)
        raise
    finally:
        for part in path.parent.glob(
            f"{glob.escape(unfinished.stem)}*"
        ):  # MindSpore has a temporary name of its own, too
            part.unlink()


def start_run(folder: Path, recipe: Recipe) -> None:
    """Make the folder of a run and save the recipe there; an earlier run's files move to a subfolder, none is lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _set_earlier_run_aside(folder)
        recipe.save(folder / "recipe.yaml")
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


class Checkpoints:
    """`<model>-<epoch>_<step>.ckpt` every so often, of which some stay, and `<model>_best.ckpt`."""

    def __init__(self, folder: Path, model: str, keep: int, policy: str):
        self.folder, self.model, self.keep, self.policy = folder, model, keep, policy
        self.kept: list[tuple[float, Path]] = []
        self.best = -1.0

    def save(
        self, epoch: int, step: int, parameters: Mapping[str, Parameter], card: dict[str, Any], top1: float | None
    ) -> None:
        """Save the weights after `epoch`, then remove the file that the policy gives up."""
        path = self.folder / f"{self.model}-{epoch}_{step}.ckpt"
        save_weights(path, parameters, card)
        self.kept.append((-1.0 if top1 is None else top1, path))
        if len(self.kept) > self.keep:
            given_up = self.kept[0] if self.policy == "latest_k" else min(self.kept, key=lambda kept: kept[0])
            self.kept.remove(given_up)
            given_up[1].unlink(missing_ok=True)

    def save_if_best(self, parameters: Mapping[str, Parameter], card: dict[str, Any], top1: float) -> bool:
        """Save the weights under the best one's name if no earlier ones of this run scored as high."""
        if top1 <= self.best:
            return False
        save_weights(self.folder / f"{self.model}_best.ckpt", parameters, card)
        self.best = top1
        return True
