"""Trials of a search: what train.py is asked for, what is kept of its answer, and what comes of one that fails."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.runs.results import RESULTS, EpochResult, append_result
from mindcv_lite.training.tuning import trials
from mindcv_lite.training.tuning.search import DEFAULT, Candidate, Outcome, Trial
from mindcv_lite.training.tuning.trials import BrokenTraining, Trainer, run_program
from tests.conftest import ROOT, write_images
from tests.training.tuning.command_lines import words_of

TRIAL = Trial(Candidate("3 x lr", {"lr": 0.0009, "scale": (0.7, 1.0)}, 10), 4, 2)


@pytest.fixture
def asked(monkeypatch) -> list[Recipe]:
    """The recipes of the runs that were asked for; each of them has 15 of 20 right before it begins, and 18 after."""
    asked = []

    def run(words: Sequence[str], output: Path, *held: int) -> None:
        assert words[:2] == [sys.executable, "train.py"]
        recipe = load_recipe(list(words[2:]), "")
        asked.append(recipe)
        folder = Path(recipe.output.ckpt_save_dir)
        append_result(folder / RESULTS, EpochResult(0, 0, top1=0.75, top5=1.0, val_loss=1.0, val_images=20))
        for epoch in range(1, recipe.schedule.epoch_size):
            append_result(folder / RESULTS, EpochResult(epoch, epoch, 1.0, None, None, None, 0.1, 100.0, None, 2.0))
        last = EpochResult(recipe.schedule.epoch_size, 9, 1.0, 0.9, 1.0, 1.0, 0.1, 100.0, None, 2.0, val_images=20)
        append_result(folder / RESULTS, last)
        (folder / "last.state.ckpt").write_bytes(b"state")

    monkeypatch.setattr(trials, "run_program", run)
    return asked


def trainer_of(folder: Path, *flags: object, counts: dict[str, int] | None = None) -> Trainer:
    images = folder / "images"
    if not images.exists():
        write_images(images, {"train": counts or {"a": 12, "b": 11}}, size=(8, 8))
    words = words_of(images, *flags)
    trainer = Trainer(load_recipe(words, ""), ["train.py", *words], folder / "search")
    os.close(trainer.lock)
    return trainer


def test_a_trial_is_a_run_of_the_recipe_with_the_candidates_keys_on_its_fold(asked, tmp_path):
    outcome = trainer_of(tmp_path)(TRIAL)
    assert (outcome.images, outcome.right, outcome.right_before, outcome.seconds_of_epochs) == (20, 18, 15, 8.0)
    given, meant = asked[0], load_recipe(words_of(tmp_path / "images"), "")
    differing = {name for name, value in given.flat().items() if value != meant.flat()[name]}
    of_the_trial = {"lr", "scale", "epoch_size", "base_updates", "val_share", "val_fold"}
    of_its_folder = {"ckpt_save_dir", "resume", "compile_cache", "val_interval", "keep_checkpoint_max"}
    assert differing == of_the_trial | of_its_folder | {"ckpt_save_interval"}
    assert (given.optimizer.lr, given.augmentation.scale, given.schedule.epoch_size) == (0.0009, (0.7, 1.0), 4)
    assert (given.data.val_share, given.data.val_fold) == (0.25, 2)
    assert given.optimizer.base_updates == 12  # of 30, as the trial has 4 of 10 epochs
    assert not list(tmp_path.rglob("*.ckpt"))


def test_another_start_takes_what_was_done_from_the_file(asked, tmp_path, log):
    first = trainer_of(tmp_path)(TRIAL)
    assert log.messages[-1].startswith("3 x lr, epochs: 4, fold 2: 18 of 20 right (15 by the last layer alone), ")
    assert trainer_of(tmp_path)(TRIAL) == first
    assert len(asked) == 1
    trainer_of(tmp_path)(Trial(TRIAL.candidate, 4, 3))
    assert len(asked) == 2
    assert [each.fold for each in (Trial(TRIAL.candidate, 4, fold) for fold in (2, 3))] == [
        fold for _, _, fold in trials.read_trials(tmp_path / "search/trials.csv")
    ]


def test_a_folder_of_another_search_is_refused(asked, tmp_path):
    trainer_of(tmp_path)
    with pytest.raises(UserError, match=r"search: holds another search, whose 'lr' is 0.0003, not 0.5; give another"):
        trainer_of(tmp_path, "--lr", 0.5)


def test_a_search_of_the_version_before_goes_on_though_it_knew_fewer_keys(asked, tmp_path):
    trainer_of(tmp_path)
    (start,) = (path for path in (tmp_path / "search").iterdir() if "sampling" in path.read_text(errors="replace"))
    lines = start.read_text().splitlines(keepends=True)
    start.write_text("".join(line for line in lines if not line.startswith("sampling")))
    trainer_of(tmp_path)
    with pytest.raises(UserError, match="whose 'sampling' is natural, not balanced"):
        trainer_of(tmp_path, "--sampling", "balanced")


ZERO = b"candidate,epochs,fold,images,right,right_before,seconds,seconds_of_epochs\na,1,0,0,0,,1,1\n"


@pytest.mark.parametrize(
    "content", [b"x\n1\n", b"candidate,epochs,fold,images,right,right_before,seconds\na,b\n", b"\xff\n1\n", ZERO]
)
def test_a_damaged_file_of_trials_is_named(asked, tmp_path, content):
    trainer_of(tmp_path)(TRIAL)
    (tmp_path / "search/trials.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"trials.csv: damaged; remove it to make the trials anew"):
        trainer_of(tmp_path)


def test_weights_that_need_no_new_last_layer_have_nothing_before(tmp_path):
    result = EpochResult(1, 9, 1.0, 0.9, 1.0, 1.0, 0.1, 100.0, None, 2.0, val_images=20)
    append_result(tmp_path / RESULTS, result)
    assert trials.outcome_in(tmp_path / RESULTS, 5.0) == Outcome(20, 18, None, 5.0, 2.0)


def test_a_candidate_that_breaks_has_none_right_but_the_recipe_itself_must_not_break(asked, monkeypatch, tmp_path, log):
    def broken(words: Sequence[str], output: Path, *held: int) -> None:
        raise BrokenTraining("a trial ended: the loss is not finite")

    trainer, default = trainer_of(tmp_path), Candidate(DEFAULT, {}, 10)
    trainer(Trial(default, 4, TRIAL.fold))
    monkeypatch.setattr(trials, "run_program", broken)
    outcome = trainer(TRIAL)
    assert (outcome.images, outcome.right, outcome.right_before, outcome.seconds_of_epochs) == (20, 0, None, 0)
    assert "3 x lr: a trial ended: the loss is not finite" in log.messages
    with pytest.raises(BrokenTraining):
        trainer(Trial(default, 2, 0))


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("print('x.py: error: no images'); exit(2)", UserError, "a trial ended: no images; all it said is in "),
        ("print('validation error: 5'); exit(2)", TrainingError, "a trial ended: exit status 2; all it said is in "),
        ("print('x.py: error: loss is nan'); exit(1)", BrokenTraining, "a trial ended: loss is nan; all"),
        ("print('hm'); exit(3)", TrainingError, "a trial ended: exit status 3; all"),
        ("import os; os.kill(os.getpid(), 9)", TrainingError, "a trial ended: exit status -9; all"),
    ],
)
def test_a_trial_that_fails_is_told_in_its_own_words(tmp_path, code, kind, text):
    (tmp_path / "log.txt").write_text("x.py: error: of an earlier start\n")
    with pytest.raises(kind, match=text) as told:
        run_program(python(code), tmp_path / "log.txt")
    assert type(told.value) is kind


def test_a_folder_in_which_another_search_is_at_work_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "TO_END", 0.1)
    lock = trials.locked(tmp_path)
    with pytest.raises(UserError, match="another search is at work there; give another --out"):
        trials.locked(tmp_path)
    os.close(lock)


def test_a_folder_with_other_files_is_refused(asked, tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search/recipe.yaml").write_text("mine")
    with pytest.raises(UserError, match="search: has other files in it, which a search might overwrite; give another"):
        trainer_of(tmp_path)


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"a": 20}, "there is one class, 'a', and a network learns to tell classes apart"),
        ({"a": 20, "b": 1}, "too few images to search on: .* a share of 0.25 holds out all images of a class"),
    ],
)
def test_images_that_cannot_be_searched_on_are_refused_at_once(tmp_path, counts, sentence):
    with pytest.raises(UserError, match=sentence):
        trainer_of(tmp_path, counts=counts)
    assert not (tmp_path / "search").exists()


def test_other_images_are_another_search(asked, tmp_path):
    trainer_of(tmp_path)
    (tmp_path / "images/train/a/3.jpg").rename(tmp_path / "images/train/a/new.jpg")
    with pytest.raises(UserError, match="holds another search, whose 'training images' is 23, names "):
        trainer_of(tmp_path)


def test_the_time_of_a_trial_is_that_of_all_its_starts(asked, tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(trials.time, "monotonic", lambda: now)
    run = trials.run_program

    def stopped(words: Sequence[str], output: Path, *held: int) -> None:
        nonlocal now
        now += 30
        raise KeyboardInterrupt

    def goes_on(words: Sequence[str], output: Path, *held: int) -> None:
        nonlocal now
        now += 12
        run(words, output)

    trainer = trainer_of(tmp_path)
    monkeypatch.setattr(trials, "run_program", stopped)
    with pytest.raises(KeyboardInterrupt):
        trainer(TRIAL)
    monkeypatch.setattr(trials, "run_program", goes_on)
    assert trainer_of(tmp_path)(TRIAL).seconds == 42


@pytest.mark.parametrize("content", ["5", "", ": : [", "\ud800"])
def test_a_damaged_start_is_named(asked, tmp_path, content):
    trainer_of(tmp_path)
    (tmp_path / "search/start.yaml").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"start.yaml: damaged; give another --out"):
        trainer_of(tmp_path)


@pytest.fixture
def searching(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """A search in which a trial is at work that takes a second to save its state."""
    trial = f"""
import signal, time, pathlib
def save(number, frame):
    time.sleep(1)
    pathlib.Path({str(tmp_path / "saved")!r}).touch()
    raise SystemExit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path({str(tmp_path / "begun")!r}).touch()
time.sleep(60)
"""
    search = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from mindcv_lite.program import run_script
from mindcv_lite.training.tuning.trials import locked, run_program
folder = Path({str(tmp_path)!r})
run_script(lambda: run_program({python(trial)!r}, folder / "log.txt", locked(folder)))
"""
    with subprocess.Popen(python(search), stderr=subprocess.PIPE, text=True) as program:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        yield program


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_search_that_is_stopped_stops_its_trial_and_waits_for_its_state(searching, tmp_path, number):
    searching.send_signal(number)
    _, said = searching.communicate(timeout=20)
    assert searching.returncode == 128 + number
    assert said.strip().endswith("interrupted")
    assert (tmp_path / "saved").exists()


def test_a_trial_whose_search_is_killed_is_stopped_and_the_next_search_waits_for_it(searching, tmp_path):
    searching.kill()
    os.close(trials.locked(tmp_path))
    assert (tmp_path / "saved").exists()


def test_a_search_of_an_earlier_version_is_read_by_its_new_names(tmp_path):
    start, table = tmp_path / "start.yaml", tmp_path / "trials.csv"
    trials.require_same_start({"lr": 0.1, "training photos": "20, names 0"}, start)
    trials.require_same_start({"lr": 0.1, "training images": "20, names 0"}, start)
    with pytest.raises(UserError, match=r"whose 'training images' is 20, names 0, not 21, names 0"):
        trials.require_same_start({"lr": 0.1, "training images": "21, names 0"}, start)
    rows = "candidate,epochs,fold,{},right,right_before,seconds,seconds_of_epochs\na,1,0,20,18,,9.0,5.0\n"
    outcomes = []
    for name in ("photos", "images"):
        table.write_text(rows.format(name))
        outcomes.append(trials.read_trials(table))
    assert outcomes[0] == outcomes[1]
    assert [*outcomes[0]] == [("a", 1, 0)]
