"""Find out which way of fine-tuning suits your photos, and write the recipe of it.

Takes the keys of train.py; --config is the fine-tune recipe of the small network if none is given. A quarter of the
training photos is held out to compare on, the validation split is left for an honest test. After a stop, the same
command goes on.
"""

import csv
import logging
import math
import re
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import yaml

from mindcv_lite.errors import CommandLine, TrainingError, UserError
from mindcv_lite.files import require_folder, write_text, written_whole
from mindcv_lite.packages import is_installed
from mindcv_lite.recipe import Recipe, load_recipe, plain, require_extras, require_paths, require_teachers
from mindcv_lite.report.statistics import wilson_interval
from mindcv_lite.tables import aligned, write_csv
from mindcv_lite.training.results import RESULTS, EpochResult, read_results
from mindcv_lite.tuning import (
    FOLDS,
    PROBE,
    Outcome,
    Rung,
    Tally,
    Trial,
    candidates_for,
    chosen,
    results_of,
    search,
    tallies,
)

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]  # of a clone
FINE_TUNE = ROOT / "configs/mobilenetv3/mobilenet_v3_small_finetune.yaml"
START, TRIALS, TABLE, PICTURE, FOUND = "start.yaml", "trials.csv", "table.csv", "tune.png", "recipe.yaml"


def main(arguments: list[str]) -> None:
    own = command_line()
    flags, words = own.parse_known_args(arguments)
    if not any(word in ("-c", "--config") or word.startswith("--config=") for word in words):
        words = ["--config", str(FINE_TUNE), *words]
    if not (ROOT / "train.py").is_file():
        raise UserError("train.py is not beside the package: run tune in a clone of the project")
    recipe = load_recipe(words, __doc__, own)
    require_startable(recipe)
    require_folder(flags.out)
    trainer = Trainer(recipe, words, flags.out)
    candidates = candidates_for(recipe)
    log.info(
        "%d candidates, %g minutes, 1/%d of the training photos held out; all goes to %s",
        *(len(candidates), flags.minutes, FOLDS, flags.out),
    )
    rung, outcomes = search(candidates, 60 * flags.minutes, trainer, log.info)
    report(recipe, rung, outcomes, flags.out)


def command_line() -> CommandLine:
    """The flags that are no keys of a recipe."""
    parser = CommandLine(add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("search")
    group.add_argument("--minutes", type=minutes, default=10.0, help="of training, validation included; default 10")
    text = f"folder for {FOUND}, {TABLE}, {PICTURE} and the trials; default tune"
    group.add_argument("--out", type=Path, default=Path("tune"), metavar="DIR", help=text)
    return parser


def minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"expected a number of minutes, got {text!r}")
    return value


def require_startable(recipe: Recipe) -> None:
    """Raise `UserError` on what is no start of a search; this needs no MindSpore."""
    require_paths(recipe)
    require_teachers(recipe)
    require_extras(recipe)
    if not recipe.data.has_photos:
        raise UserError(
            f"data_dir is not set: --data_dir names the folder that holds {recipe.data.train_split}/<class>/"
        )
    if not recipe.model.ckpt_path and not recipe.model.pretrained:
        raise UserError("ckpt_path is not set: --ckpt_path names the weights to start from, as of ImageNet")
    for name, expected in (("val_share", None), ("resume", False), ("dry_run", False), ("probe_only", False)):
        if recipe.flat()[name] != expected:
            raise UserError(f"key '{name}': the search decides that itself; leave it out")
    if recipe.system.distribute:
        raise UserError("key 'distribute': a search is made on one device; leave it out")


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
        run_program([sys.executable, str(ROOT / "train.py"), *self.words, *flags], folder / "log.txt")
        outcome = outcome_in(folder / RESULTS, time.monotonic() - began)
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
        raise (UserError if status == 2 else TrainingError)(f"a trial ended: {said}; all it said is in {output}")


def outcome_in(path: Path, seconds: float) -> Outcome:
    """What the results of a run say that took so long."""
    results = read_results(path)
    first, last = results[0], results[-1]
    assert last.val_photos, "a trial validates its last epoch"
    trained = sum(result.seconds or 0.0 for result in results)
    return Outcome(last.val_photos, right_in(last), right_in(first) if first.epoch == 0 else None, seconds, trained)


def right_in(result: EpochResult) -> int:
    assert result.top1 is not None
    assert result.val_photos
    return round(result.top1 * result.val_photos)


def report(recipe: Recipe, rung: Rung, outcomes: Mapping[Trial, Outcome], folder: Path) -> None:
    """Say what was found, and write the table, the picture and the recipe."""
    results = results_of(rung, outcomes)
    best = chosen(results)
    rows = [Row(name, epochs, folds, tally) for (name, epochs, folds), tally in tallies(outcomes).items()]
    write_csv(folder / TABLE, [ROW_COLUMNS, *(row.cells("{:.4f}") for row in rows)])
    for line in ["", *aligned([ROW_COLUMNS, *(row.cells("{:.2%}") for row in rows)]), ""]:
        log.info(line)
    if is_installed("matplotlib"):
        draw(rows, folder / PICTURE)
    candidates = {candidate.name: candidate.keys for candidate in rung.candidates} | {PROBE: {"probe_only": True}}
    tally = results[best]
    low, high = wilson_interval(tally.top1, tally.photos)
    estimate = f"held-out top-1 {tally.top1:.2%} (95 % interval {low:.2%} to {high:.2%}, {tally.photos} photos)"
    if rung.share < 1:
        estimate += f" after {rung.share:.0%} of its epochs: more --minutes try all of them"
    words = f"chosen: {best}; {estimate}"
    keys = candidates[best]
    text = recipe.with_keys(**keys).text({*recipe.origin, *keys})
    write_text(folder / FOUND, f"# By `python -m mindcv_lite tune`, {words}\n{text}")
    log.info(words)
    log.info("python train.py --config %s", folder / FOUND)


@dataclass(frozen=True)
class Row:
    """A line of the table: a candidate after so many epochs."""

    candidate: str
    epochs: int
    folds: int
    tally: Tally

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.tally.top1, self.tally.photos)

    def cells(self, share: str) -> list[str]:
        """`share`: how a share is written."""
        shares = [share.format(value) for value in (self.tally.top1, *self.interval)]
        return [self.candidate, *map(str, (self.epochs, self.folds, self.tally.photos)), *shares]


ROW_COLUMNS = ["candidate", "epochs", "folds", "photos", "top1", "low", "high"]


def draw(rows: Sequence[Row], path: Path) -> None:
    """A picture of the rows, the first at the top: top-1 with its 95 % interval."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure((9, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.plot(row.interval, (place, place), color="tab:blue", linewidth=1.3)
        axes.plot(row.tally.top1, place, "o", color="tab:blue")
    axes.set_yticks(
        range(len(rows)), [f"{row.candidate}, {row.epochs} epochs, {row.tally.photos} photos" for row in rows]
    )
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("held-out top-1, with its 95 % interval")
    axes.grid(alpha=0.3, axis="x")
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, dpi=100)
