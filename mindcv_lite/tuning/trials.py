"""Trials of a search: runs of train.py in processes of their own, and what they gave, kept from start to start."""

import csv
import logging
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

import yaml

from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.recipe import Recipe, plain
from mindcv_lite.tables import write_csv
from mindcv_lite.training.results import RESULTS, EpochResult, read_results
from mindcv_lite.tuning.search import DEFAULT, FOLDS, Outcome, Trial

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]  # of a clone
START, TRIALS = "start.yaml", "trials.csv"  # in the folder of a search


class Trainer:
    """Runs trials by train.py, in `folder`, where each start finds what earlier ones have done."""

    def __init__(self, recipe: Recipe, words: Sequence[str], folder: Path):
        """`words`: the command line of the recipe."""
        self.words, self.folder = words, folder
        folder.mkdir(parents=True, exist_ok=True)
        require_same_start(recipe, folder / START)
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
            *(outcome.right, outcome.photos, before, outcome.seconds),
        )
        return outcome

    def _trained(self, trial: Trial) -> Outcome:
        name = re.sub(r"\W+", "_", f"{trial.candidate.name} {trial.epochs} epochs fold {trial.fold}")
        folder = self.folder / "trials" / name
        folder.mkdir(parents=True, exist_ok=True)
        keys = dict(trial.candidate.keys) | {
            **{"epoch_size": trial.epochs, "val_interval": trial.epochs, "ckpt_save_interval": trial.epochs},
            **{"val_share": 1 / FOLDS, "val_fold": trial.fold, "val_while_train": True, "keep_checkpoint_max": 1},
            **{"ckpt_save_dir": folder, "resume": True, "compile_cache": self.folder / "graphs"},
        }
        flags = [f"--{key}={plain(value)}" for key, value in keys.items()]
        began = time.monotonic()
        try:
            run_program([sys.executable, str(ROOT / "train.py"), *self.words, *flags], folder / "log.txt")
        except BrokenTraining as error:  # most likely at too high a rate: a finding, unless it is the recipe's own
            if trial.candidate.name == DEFAULT or not (folder / RESULTS).exists():
                raise
            log.info("%s: %s", trial.candidate.name, error)
        outcome = outcome_in(folder / RESULTS, trial.epochs, time.monotonic() - began)
        for path in folder.glob("*.ckpt"):  # 60 MB of a network that nobody will use
            path.unlink()
        return outcome


TRIAL_COLUMNS = ["candidate", "epochs", "fold", *(field.name for field in fields(Outcome))]


def require_same_start(recipe: Recipe, path: Path) -> None:
    """Note what the search starts from. Raises `UserError` if another search has begun in this folder."""
    if not path.exists():
        recipe.save(path)
        return
    earlier, now = yaml.safe_load(path.read_text(encoding="utf-8")), yaml.safe_load(recipe.text())
    if differing := [name for name in now if earlier.get(name) != now[name]]:
        name = differing[0]
        raise UserError(
            f"{path.parent}: holds another search, whose '{name}' is {plain(earlier.get(name))}, not "
            f"{plain(now[name])}; give another --out"
        )


def read_trials(path: Path) -> dict[tuple[str, int, int], Outcome]:
    """The outcomes of trials by name, epochs and fold. Raises `UserError` if the file is none of ours."""
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {
            (row["candidate"], int(row["epochs"]), int(row["fold"])): Outcome(
                photos=int(row["photos"]),
                right=int(row["right"]),
                right_before=int(row["right_before"]) if row["right_before"] else None,
                seconds=float(row["seconds"]),
                seconds_of_epochs=float(row["seconds_of_epochs"]),
            )
            for row in rows
        }
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; remove it to make the trials anew, or give another --out") from None


class BrokenTraining(TrainingError):
    """A trial that could not go on by itself, as one whose loss is not finite any more."""


def run_program(words: Sequence[str], output: Path) -> None:
    """Run a program to its end, its output behind what is in the file. Raises `UserError` or `TrainingError` with its
    own last words. If we are stopped, it is stopped first, and saves its state."""
    with open(output, "a", encoding="utf-8") as file:
        # In a session of its own: a Ctrl-C reaches it once, from here.
        program = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = program.wait()
        except BaseException:
            program.terminate()
            program.wait()
            raise
    if status:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line.split("error: ", 1)[1] for line in reversed(lines) if "error: " in line), f"status {status}")
        raise ENDS.get(status, TrainingError)(f"a trial ended: {said}; all it said is in {output}")


ENDS = {1: BrokenTraining, 2: UserError}  # by exit status


def outcome_in(path: Path, epochs: int, seconds: float) -> Outcome:
    """What the results of a run of so many epochs say, which took so many seconds. One that broke has none right."""
    results = read_results(path)
    first, last = results[0], results[-1]
    right = right_in(last) if last.epoch == epochs else 0
    trained = sum(result.seconds or 0.0 for result in results)
    scored = next(result for result in results if result.val_photos)
    assert scored.val_photos
    return Outcome(scored.val_photos, right, right_in(first) if first.epoch == 0 else None, seconds, trained)


def right_in(result: EpochResult) -> int:
    assert result.top1 is not None
    assert result.val_photos
    return round(result.top1 * result.val_photos)
