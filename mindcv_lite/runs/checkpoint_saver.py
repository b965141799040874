"""The checkpoints of a run: as many weights files as the recipe keeps, and the best one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindcv_lite.checkpoints.ckpt_file import write_entries
from mindcv_lite.checkpoints.model_card import CARD_NAME
from mindcv_lite.checkpoints.weights import read_weights


def save_weights(path: Path, weights: Mapping[str, np.ndarray], card: dict[str, Any]) -> None:
    """Write weights and model card to a `.ckpt` file, whole or not at all."""
    # The card comes first: a file that was cut short then lacks weights or checksum, which shows.
    write_entries(path, {CARD_NAME: json.dumps(card), **weights})


class CheckpointSaver:
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
