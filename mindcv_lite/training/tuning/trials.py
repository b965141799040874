"""Trials of a search: runs of train.py in processes of their own, and what they gave, kept from start to start."""

import csv
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import yaml

from mindcv_lite.data.datasets.holdout import hold_out
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.datasets.splits import require_classes, training_splits
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.files import lock, write_text
from mindcv_lite.recipe.keys import KEYS, Recipe
from mindcv_lite.recipe.yaml_io import plain
from mindcv_lite.runs.results import RESULTS, EpochResult, read_results
from mindcv_lite.text_tables import write_csv
from mindcv_lite.training.tuning.search import DEFAULT, FOLDS, Outcome, Trial

log = logging.getLogger(__name__)

START, TRIALS, LOCK = "start.yaml", "trials.csv", ".lock"  # in the folder of a search
SECONDS, LOG = "seconds.txt", "log.txt"  # in that of a trial: how long it has taken in all starts, and what it said
TO_END = 30.0  # seconds in which a trial saves its state whose search has ended
TRIAL_COLUMNS = ["candidate", "epochs", "fold", *(field.name for field in fields(Outcome))]


class BrokenTraining(TrainingError):
    """A trial that could not go on by itself, as one whose loss is not finite any more."""


class Trainer:
    """Runs trials by train.py, in `folder`, where each start finds what earlier ones have done."""

    def __init__(self, recipe: Recipe, words: Sequence[str], folder: Path):
        """`words`: train.py and its command line, of which the recipe is. Raises `UserError` if the images are too few,
        or the folder is that of something else."""
        self.recipe, self.words, self.folder = recipe, words, folder
        images, _ = training_splits(recipe.with_keys(val_while_train=False))
        _require_folds(images, recipe)
        _require_own_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = locked(folder)
        require_same_start(facts_of(recipe, images), folder / START)
        self.done = read_trials(folder / TRIALS)

    def __call__(self, trial: Trial) -> Outcome:
        """What a trial gave, now or in an earlier start."""
        key = trial.candidate.name, trial.epochs, trial.fold
        if key not in self.done:
            self.done[key] = self._trained(trial)
            rows = [(*each, *astuple(outcome)) for each, outcome in self.done.items()]
            write_csv(self.folder / TRIALS, [TRIAL_COLUMNS, *rows])
        outcome = self.done[key]
        before = "" if outcome.right_before is None else f" ({outcome.right_before} by the last layer alone)"
        log.info(
            "%s, epochs: %d, fold %d: %d of %d right%s, %.0f s",
            *(trial.candidate.name, trial.epochs, trial.fold),
            *(outcome.right, outcome.images, before, outcome.seconds),
        )
        return outcome

    def _trained(self, trial: Trial) -> Outcome:
        name = re.sub(r"\W+", "_", f"{trial.candidate.name} {trial.epochs} epochs fold {trial.fold}")
        folder = self.folder / "trials" / name
        folder.mkdir(parents=True, exist_ok=True)
        keys = dict(trial.candidate.keys) | {
            "epoch_size": trial.epochs,
            "val_share": 1 / FOLDS,
            "val_fold": trial.fold,
            "val_while_train": True,
            "val_interval": trial.epochs,
            "ckpt_save_dir": folder,
            "ckpt_save_interval": trial.epochs,
            "keep_checkpoint_max": 1,
            "compile_cache": self.folder / "graphs",
            "resume": True,
        }
        if base := self.recipe.optimizer.base_updates:  # so that a part of its epochs has the rate that all would have
            keys["base_updates"] = max(1, round(base * trial.epochs / trial.candidate.epochs))
        flags = [f"--{key}={plain(value)}" for key, value in keys.items()]
        clock = Clock(folder / SECONDS)
        try:
            with clock:
                run_program([sys.executable, *self.words, *flags], folder / LOG, self.lock)
        except BrokenTraining as error:  # most likely at too high a rate: a finding, unless it is the recipe's own
            if trial.candidate.name == DEFAULT:
                raise
            log.info("%s: %s", trial.candidate.name, error)
            images = next(outcome.images for (_, _, fold), outcome in self.done.items() if fold == trial.fold)
            return Outcome(images, 0, None, clock.seconds, 0.0)
        outcome = outcome_in(folder / RESULTS, clock.seconds)
        for path in folder.glob("*.ckpt"):  # 60 MB of a network that nobody will use
            path.unlink()
        return outcome


class Clock:
    """The seconds within its blocks, of this start and of those before it, which are in a file."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds = 0.0
        with suppress(FileNotFoundError, ValueError):  # a number that was lost costs the search some of its time
            self.seconds = float(path.read_text(encoding="utf-8"))

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.monotonic() - self.began
        write_text(self.path, f"{self.seconds:.3f}\n")


def _require_folds(images: Split, recipe: Recipe) -> None:
    """Raise `UserError` unless the images can be trained on whichever quarter of them is held out."""
    require_classes(images, recipe.data)
    where = Path(recipe.data.data_dir, recipe.data.train_split)
    for fold in range(FOLDS):
        try:
            hold_out(images, 1 / FOLDS, fold, where)
        except UserError as error:
            raise UserError(f"too few images to search on: {error}") from None


def _require_own_folder(folder: Path) -> None:
    """Raise `UserError` if the folder has files that are of no search."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / START).exists() and not (folder / LOCK).exists():
        raise UserError(f"{folder}: has other files in it, which a search might overwrite; give another --out")


def locked(folder: Path) -> int:
    """A file that is held until this process and its trials have ended. Raises `UserError` if another search holds it:
    a trial whose search was killed may still save its state."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    end = time.monotonic() + TO_END
    while True:
        try:
            lock(descriptor, wait=False)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > end:
                raise UserError(f"{folder}: another search is at work there; give another --out") from None
            time.sleep(0.2)


# What earlier versions called it.
RENAMED = {"training photos": "training images", "photos": "images"}


def facts_of(recipe: Recipe, images: Split) -> dict[str, Any]:
    """What trials must have in common to be compared."""
    names = zlib.crc32("\n".join(os.path.basename(path) for path in images.paths).encode("utf-8", "surrogateescape"))
    return yaml.safe_load(recipe.text()) | {"training images": f"{len(images)}, names {names:08x}"}


def require_same_start(facts: Mapping[str, Any], path: Path) -> None:
    """Note what the search starts from. Raises `UserError` if another search has begun in this folder."""
    if not path.exists():
        write_text(path, yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True))
        return
    try:
        said = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        defaults = {name: key.default for name, key in KEYS.items()}  # of keys that the version before did not have
        earlier = defaults | {RENAMED.get(name, name): value for name, value in said.items()}
    except (ValueError, TypeError, yaml.YAMLError):
        raise UserError(f"{path}: damaged; give another --out") from None
    if differing := [name for name in facts if plain(earlier.get(name)) != plain(facts[name])]:
        name = differing[0]
        raise UserError(
            f"{path.parent}: holds another search, whose '{name}' is {plain(earlier.get(name))}, not "
            f"{plain(facts[name])}; give another --out"
        )


def read_trials(path: Path) -> dict[tuple[str, int, int], Outcome]:
    """The outcomes of trials by name, epochs and fold. Raises `UserError` if the file is none of ours."""
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return dict(map(_parsed, csv.DictReader(file)))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; remove it to make the trials anew, or give another --out") from None


def _parsed(row: Mapping[str, str]) -> tuple[tuple[str, int, int], Outcome]:
    row = {RENAMED.get(name, name): text for name, text in row.items()}
    images, right, before = int(row["images"]), int(row["right"]), row["right_before"]
    if not 0 <= right <= images or images == 0:
        raise ValueError
    seconds, seconds_of_epochs = float(row["seconds"]), float(row["seconds_of_epochs"])
    outcome = Outcome(images, right, int(before) if before else None, seconds, seconds_of_epochs)
    return (row["candidate"], int(row["epochs"]), int(row["fold"])), outcome


def run_program(words: Sequence[str], output: Path, *held: int) -> None:
    """Run a program to its end, its output behind what is in the file. `held`: open files that it holds too.

    Raises `UserError` or `TrainingError` with its own last words. If we are stopped, or killed, it is stopped as well,
    and saves its state.
    """
    said_before = output.stat().st_size if output.exists() else 0
    with open(output, "a", encoding="utf-8") as file:
        # In a session of its own: a Ctrl-C reaches it once, from here.
        program = subprocess.Popen(
            words,
            env=os.environ,  # without what MindSpore has set for itself
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=end_with_parent,
            pass_fds=held,
        )
        try:
            status = program.wait()
        except BaseException:
            program.terminate()
            program.wait()
            raise
    if status:
        lines = output.read_bytes()[said_before:].decode(errors="replace").splitlines()
        errors = [match[1] for line in lines if (match := re.match(r"\S+: error: (.+)", line))]
        kinds = {1: BrokenTraining, 2: UserError} if errors else {}
        said = errors[-1] if errors else f"exit status {status}"
        raise kinds.get(status, TrainingError)(f"a trial ended: {said}; all it said is in {output}")


def end_with_parent() -> None:
    """Ask the kernel to end this process by SIGTERM when the one that started it has ended, however that was."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def outcome_in(path: Path, seconds: float) -> Outcome:
    """What the results of a run say that took so long."""
    results = read_results(path)
    first, last = results[0], results[-1]
    assert last.val_images, "a trial validates its last epoch"
    trained = sum(result.seconds or 0.0 for result in results)
    return Outcome(last.val_images, _right_in(last), _right_in(first) if first.epoch == 0 else None, seconds, trained)


def _right_in(result: EpochResult) -> int:
    assert result.top1 is not None
    assert result.val_images
    return round(result.top1 * result.val_images)
