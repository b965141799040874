"""Which way of fine-tuning suits a set of images: successive halving (Jamieson and Talwalkar 2016,
https://arxiv.org/abs/1502.07943) on images that are held out of the training split.

Each rung has its part of the time. All candidates left are trained in it alike: for a share of their epochs, or where
time allows for all of them, on several folds, each with other images held out. The better half goes on.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from mindcv_lite.recipe.keys import Recipe

FOLDS = 4  # each holds out a quarter of the images
LEAST_SHARE = 0.2  # of a candidate's epochs: a rung of less would say little
DEFAULT = "the recipe"
PROBE = "last layer alone"


@dataclass(frozen=True)
class Candidate:
    """A recipe's `keys` with other values, known by its name; `epochs` of training in all."""

    name: str
    keys: Mapping[str, Any] = field(compare=False)
    epochs: int


@dataclass(frozen=True)
class Trial:
    """A candidate to be trained for so many epochs, while the images of a fold are held out."""

    candidate: Candidate
    epochs: int
    fold: int


@dataclass(frozen=True)
class Outcome:
    """What a trial gave: the images that were held out, how many of them were right in the end, and before, with
    nothing but a last layer fitted, if it was; the seconds that it took in all, and those of its epochs."""

    images: int
    right: int
    right_before: int | None
    seconds: float
    seconds_of_epochs: float


@dataclass(frozen=True)
class Cost:
    """The seconds that a trial takes: `start` and so many for each epoch."""

    start: float
    epoch: float

    def of(self, epochs: int) -> float:
        return self.start + epochs * self.epoch


@dataclass(frozen=True)
class Rung:
    """The trials of a rung: all `candidates`, for a share of their epochs, on the first `folds` folds."""

    candidates: Sequence[Candidate]
    share: float
    folds: int

    def trials(self) -> list[Trial]:
        return [
            Trial(candidate, _epochs_in(candidate, self.share), fold)
            for fold in range(self.folds)
            for candidate in self.candidates
        ]


@dataclass(frozen=True)
class Tally:
    """Images that were held out, and how many of them were right, over all folds."""

    images: int
    right: int

    @property
    def top1(self) -> float:
        return self.right / self.images

    @property
    def standard_error(self) -> float:
        # With (right + 1) of (images + 2): where all are right the error is not nothing.
        share = (self.right + 1) / (self.images + 2)
        return math.sqrt(share * (1 - share) / self.images)


def candidates_for(recipe: Recipe) -> list[Candidate]:
    """What is tried, the most promising first."""
    lr, min_lr, epochs = recipe.optimizer.lr, recipe.schedule.min_lr, recipe.schedule.epoch_size
    higher, lower = ({"lr": factor * lr, "min_lr": factor * min_lr} for factor in (3, 1 / 3))
    longer = {"epoch_size": 3 * epochs}
    ways: list[tuple[str, dict[str, Any]]] = [
        (DEFAULT, {}),
        ("3 x lr", higher),
        ("lr / 3", lower),
        ("3 x epochs", longer),
        ("gentle augmentation", {"scale": (0.7, 1.0), "color_jitter": 0.1}),
        ("3 x epochs, 3 x lr", longer | higher),
    ]
    return [Candidate(name, keys, keys.get("epoch_size", epochs)) for name, keys in ways]


def _first_trial(candidates: Sequence[Candidate]) -> Trial:
    """The shortest that says something, to learn how fast this machine is."""
    return Trial(candidates[0], _epochs_in(candidates[0], LEAST_SHARE), 0)


def _cost_of(outcomes: Mapping[Trial, Outcome]) -> Cost:
    """By the trials so far that came to their end. The first one alone compiles all its graphs."""
    whole = {trial: outcome for trial, outcome in outcomes.items() if outcome.seconds_of_epochs}
    starts = [max(0.0, outcome.seconds - outcome.seconds_of_epochs) for outcome in whole.values()]
    epochs = sum(trial.epochs for trial in whole)
    return Cost(median(starts), sum(outcome.seconds_of_epochs for outcome in whole.values()) / epochs)


def _epochs_in(candidate: Candidate, share: float) -> int:
    return max(1, round(share * candidate.epochs))


def plan(
    candidates: Sequence[Candidate], cost: Cost, seconds: float, done: Collection[Trial]
) -> tuple[list[Candidate], int]:
    """As many of the candidates as a search of `seconds` can compare, and its rungs; one candidate: no search."""
    for count in range(len(candidates), 1, -1):
        rungs = math.ceil(math.log2(count))
        if _rung_within(candidates[:count], cost, seconds / rungs, done):
            return list(candidates[:count]), rungs
    return list(candidates[:1]), 0


def _rung_within(candidates: Sequence[Candidate], cost: Cost, seconds: float, done: Collection[Trial]) -> Rung | None:
    """The rung that compares the candidates best within `seconds`; None: there is none. Trials that are `done` cost
    nothing."""

    def fits(rung: Rung) -> bool:
        return sum(cost.of(trial.epochs) for trial in rung.trials() if trial not in done) <= seconds

    whole = [Rung(candidates, 1.0, folds) for folds in range(FOLDS, 0, -1)]
    parts = [Rung(candidates, percent / 100, 1) for percent in range(99, round(100 * LEAST_SHARE) - 1, -1)]
    return next((rung for rung in [*whole, *parts] if fits(rung)), None)


def tallies(outcomes: Mapping[Trial, Outcome]) -> dict[tuple[str, int, int], Tally]:
    """Of each candidate after so many epochs, over as many folds."""
    together: dict[tuple[str, int], list[Outcome]] = {}
    for trial, outcome in outcomes.items():
        together.setdefault((trial.candidate.name, trial.epochs), []).append(outcome)
    return {(*key, len(some)): tally(some) for key, some in together.items()}


def tally(outcomes: Sequence[Outcome]) -> Tally:
    return Tally(sum(each.images for each in outcomes), sum(each.right for each in outcomes))


def better_half(rung: Rung, outcomes: Mapping[Trial, Outcome]) -> list[Candidate]:
    """The recipe as it is, and the best of the others: half of the candidates, but never less than two."""
    results = results_of(rung, outcomes)
    default, *others = sorted(  # among equals, the order stays
        rung.candidates, key=lambda candidate: (candidate.name != DEFAULT, -results[candidate.name].top1)
    )
    return [default, *others[: max(1, math.ceil(len(rung.candidates) / 2) - 1)]]


def results_of(rung: Rung, outcomes: Mapping[Trial, Outcome]) -> dict[str, Tally]:
    """Of each candidate of a rung; and of the last layer alone, where one was fitted, once the recipe it is compared
    with has had all its epochs."""
    of = {
        candidate.name: [outcomes[trial] for trial in rung.trials() if trial.candidate == candidate]
        for candidate in rung.candidates
    }
    results = {name: tally(some) for name, some in of.items()}
    before = [outcome.right_before for outcome in of[DEFAULT] if outcome.right_before is not None]
    if rung.share == 1 and len(before) == len(of[DEFAULT]):
        results[PROBE] = Tally(results[DEFAULT].images, sum(before))
    return results


def chosen(results: Mapping[str, Tally]) -> str:
    """The best; but the recipe as it is, unless another is better by more than a standard error: the best of several
    is often the luckiest."""
    best = max(results, key=lambda name: (results[name].top1, name == DEFAULT))
    default = results[DEFAULT]
    return best if results[best].top1 > default.top1 + default.standard_error else DEFAULT


def search(
    candidates: Sequence[Candidate],
    seconds: float,
    run: Callable[[Trial], Outcome],
    note: Callable[[str], None] = lambda line: None,
) -> tuple[Rung, dict[Trial, Outcome]]:
    """The last rung of a search of `seconds`, and what every trial gave. `note`: says what comes."""
    outcomes: dict[Trial, Outcome] = {}

    def left() -> float:
        return seconds - sum(outcome.seconds for outcome in outcomes.values())

    def tried(trial: Trial) -> None:
        if trial not in outcomes:
            outcomes[trial] = run(trial)

    def climbed(rung: Rung) -> Rung:
        note(
            f"{len(rung.candidates)} candidates, each for about {rung.share:.0%} of its epochs, on {rung.folds} "
            f"fold{'s' * (rung.folds > 1)}"
        )
        for trial in rung.trials():
            tried(trial)
        return rung

    trial = _first_trial(candidates)
    tried(trial)
    last = Rung(candidates[:1], trial.epochs / candidates[0].epochs, 1)
    candidates, rungs = plan(candidates, _cost_of(outcomes), left(), outcomes)
    for number in range(rungs, 0, -1):
        if rung := _rung_within(candidates, _cost_of(outcomes), left() / number, outcomes):
            last = climbed(rung)
            candidates = better_half(rung, outcomes)
    # Trials took less time than was thought: to the last ones more may be given.
    while len(last.candidates) > 1:
        rung = _rung_within(last.candidates, _cost_of(outcomes), left(), outcomes)
        if not rung or (rung.share, rung.folds) <= (last.share, last.folds):
            break
        last = climbed(rung)
    return last, outcomes
