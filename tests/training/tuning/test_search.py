"""The search for a way of fine-tuning: what it tries in its time, what goes on, and when the recipe stays as it is."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from mindcv_lite.training.tuning.search import (
    DEFAULT,
    FOLDS,
    LEAST_SHARE,
    PROBE,
    Candidate,
    Outcome,
    Rung,
    Tally,
    Trial,
    better_half,
    candidates_for,
    chosen,
    results_of,
    search,
)

NAMES = [DEFAULT, "a", "b", "c", "d", "e"]


def candidates(epochs: int = 10, **others: int) -> list[Candidate]:
    return [Candidate(name, {}, others.get(name, epochs)) for name in NAMES]


class World:
    """Trials on images of which a candidate gets a fixed share right, in seconds that are known beforehand."""

    def __init__(self, start: float, epoch: float, images: int = 100, before: float = 0.5, **right: float):
        self.start, self.epoch, self.images, self.before, self.right = start, epoch, images, before, right
        self.trials: list[Trial] = []

    @property
    def seconds(self) -> float:
        return sum(self.start + trial.epochs * self.epoch for trial in self.trials)

    def __call__(self, trial: Trial) -> Outcome:
        self.trials.append(trial)
        right = self.right.get(trial.candidate.name, 0.8)
        seconds = trial.epochs * self.epoch
        return Outcome(
            self.images, round(right * self.images), round(self.before * self.images), self.start + seconds, seconds
        )


def test_the_time_is_kept_and_used_whatever_a_trial_takes():
    for epoch in (0.1, 1.0, 3.0, 10.0, 30.0, 60.0):
        world = World(15, epoch)
        search(candidates(a=30, b=30), 600, world)
        assert world.seconds <= 600
        used_up = len(world.trials) == len(set(world.trials)) >= 6 * FOLDS / 2
        assert used_up or world.seconds > 350, epoch


def test_a_first_trial_that_compiles_graphs_for_long_does_not_cost_the_others_their_folds():
    class Compiling(World):
        def __call__(self, trial: Trial) -> Outcome:
            outcome = super().__call__(trial)
            return replace(outcome, seconds=outcome.seconds + (60 if len(self.trials) == 1 else 0))

    world = Compiling(15, 2)
    rung, _ = search(candidates(), 600, world)
    assert (rung.share, rung.folds) == (1, FOLDS)
    assert 400 < world.seconds + 60 <= 600


def test_no_trial_is_made_twice():
    world = World(1, 0.01)
    search(candidates(), 600, world)
    assert max(Counter(world.trials).values()) == 1


def test_where_time_allows_all_of_them_are_trained_whole_on_all_folds():
    world = World(1, 0.1)
    rung, _ = search(candidates(), 6000, world)
    assert (rung.share, rung.folds) == (1, FOLDS)
    assert len([trial for trial in world.trials if trial.epochs == 10]) == 6 * FOLDS


def test_in_each_rung_all_are_trained_alike_and_the_better_half_goes_on():
    world = World(15, 3, a=0.9, b=0.7, c=0.95, d=0.6, e=0.75)
    rung, outcomes = search(candidates(), 500, world)
    assert [candidate.name for candidate in rung.candidates] == [DEFAULT, "c"]
    tried = [trial.candidate.name for trial in world.trials]
    assert tried[1:7] == NAMES
    assert sorted(tried[7:10]) == sorted([DEFAULT, "c", "a"])
    assert len({trial.epochs for trial in world.trials[1:7]}) == 1
    assert chosen(results_of(rung, outcomes)) == "c"


def test_where_time_is_short_fewer_are_compared_for_no_less_than_a_fifth_of_their_epochs():
    world = World(20, 50)
    rung, _ = search(candidates(), 600, world)
    assert len(rung.candidates) >= 2
    assert rung.share >= LEAST_SHARE
    assert min(trial.epochs for trial in world.trials) == 2


def test_where_there_is_no_time_the_recipe_stays_as_it_is():
    world = World(20, 200)
    rung, outcomes = search(candidates(), 600, world)
    assert [candidate.name for candidate in rung.candidates] == [DEFAULT]
    assert len(world.trials) == len(outcomes) == 1
    assert rung.trials() == world.trials
    assert chosen(results_of(rung, outcomes)) == DEFAULT


def test_a_stopped_search_goes_on_to_the_same_end():
    whole = World(15, 3, a=0.9, c=0.95)
    expected = search(candidates(), 500, whole)

    class Stop(Exception):
        pass

    done: dict[Trial, Outcome] = {}
    world = World(15, 3, a=0.9, c=0.95)

    def run(trial: Trial) -> Outcome:
        if trial not in done:
            if len(done) % 3 == 2 and trial not in tried:
                tried.add(trial)
                raise Stop
            done[trial] = world(trial)
        return done[trial]

    tried: set[Trial] = set()
    for _ in range(20):
        try:
            assert search(candidates(), 500, run) == expected
            break
        except Stop:
            continue
    assert world.trials == whole.trials
    assert tried


@pytest.mark.parametrize(
    ("right", "winner"),
    [
        ({}, DEFAULT),
        ({"a": 81}, DEFAULT),  # by one image of 100
        ({"a": 84}, DEFAULT),  # within the standard error of 4 %
        ({"a": 86}, "a"),
        ({"a": 86, "b": 87}, "b"),
        ({PROBE: 83}, DEFAULT),
        ({PROBE: 90}, PROBE),
        ({DEFAULT: 100, "a": 100}, DEFAULT),
    ],
)
def test_another_is_chosen_only_where_it_is_better_by_more_than_a_standard_error(right, winner):
    results = {name: Tally(100, right.get(name, 80)) for name in (DEFAULT, "a", "b", PROBE)}
    assert chosen(results) == winner


def test_the_recipe_stays_in_the_comparison_even_where_it_is_the_worst():
    rung = Rung(candidates()[:4], 1.0, 1)
    outcomes = {
        trial: Outcome(100, 50 if trial.candidate.name == DEFAULT else 90, None, 1.0, 1.0) for trial in rung.trials()
    }
    assert [candidate.name for candidate in better_half(rung, outcomes)] == [DEFAULT, "a"]


def test_weights_that_need_no_new_last_layer_are_not_compared_with_one():
    rung = Rung(candidates()[:1], 1.0, 2)
    outcomes = {trial: Outcome(100, 90, None, 1.0, 1.0) for trial in rung.trials()}
    assert results_of(rung, outcomes) == {DEFAULT: Tally(200, 180)}


def test_the_candidates_change_only_what_they_are_named_for(recipe):
    given = recipe(lr=0.3, min_lr=0.2, epoch_size=10)
    by_name = {candidate.name: candidate for candidate in candidates_for(given)}
    assert by_name[DEFAULT].keys == {}
    assert by_name["3 x lr"].keys == pytest.approx({"lr": 0.9, "min_lr": 0.6})
    assert by_name["lr / 3"].keys == pytest.approx({"lr": 0.1, "min_lr": 0.2 / 3})  # never above lr
    assert by_name["3 x epochs"].epochs == by_name["3 x epochs"].keys["epoch_size"] == 30
    assert len(by_name) == len(candidates_for(given))
    for candidate in by_name.values():
        changed = given.with_keys(**candidate.keys)
        assert changed.schedule.epoch_size == candidate.epochs
        differing = {name for name, value in changed.flat().items() if value != given.flat()[name]}
        assert differing == candidate.keys.keys()


def test_the_standard_error_is_never_nothing():
    assert Tally(100, 100).standard_error > 0.005
    assert Tally(100, 80).standard_error == pytest.approx(math.sqrt(0.8 * 0.2 / 100), rel=0.05)
