"""Which weights files a run leaves behind, also when saving fails or an earlier run lies there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mindspore
import numpy as np
import pytest
import safetensors.numpy  # MindSpore's own dependency

from mindcv_lite.checkpoints.ckpt_file import write_entries
from mindcv_lite.checkpoints.model_card import CARD_KEYS
from mindcv_lite.checkpoints.weights import read_weights
from mindcv_lite.errors import UserError
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.runs.checkpoint_saver import CheckpointSaver, save_weights
from mindcv_lite.runs.folder import claim, start_run
from mindcv_lite.runs.state import find_state, keep_as_last, save_state
from tests.conftest import ROOT

MODEL = "mobilenet_v3_small_100"
BEST = f"{MODEL}_best.ckpt"
CARD = dict.fromkeys((*CARD_KEYS, "class_names"))  # whole, and says nothing


def parameters(value: float) -> dict[str, np.ndarray]:
    """Tiny weights that tell which save they are of."""
    return {"features.0.weight": np.full((2, 3), value, np.float32)}


def value_of(path: Path) -> float:
    values = read_weights(str(path)).parameters["features.0.weight"].asnumpy()
    assert values.shape == (2, 3)
    return float(values[0, 0])


def names(folder: Path) -> list[str]:
    """All files, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def checkpoints_of(folder: Path, keep: int = 2, policy: str = "latest_k", scores: tuple = ()) -> CheckpointSaver:
    """After one save of each score, at the ends of epochs of 10 steps."""
    checkpoints = CheckpointSaver(folder, MODEL, keep, policy)
    for epoch, score in enumerate(scores, 1):
        checkpoints.save(epoch, 10 * epoch, parameters(epoch), CARD, score)
    return checkpoints


def epochs(folder: Path) -> list[int]:
    """The epochs whose files are there; each must hold what was saved then."""
    kept = []
    for path in folder.glob("*.ckpt"):
        epoch, step = map(int, path.stem.removeprefix(f"{MODEL}-").split("_"))
        assert step == 10 * epoch
        assert value_of(path) == epoch
        kept.append(epoch)
    return sorted(kept)


# ------------------------------------------------------------------------------------------------- which files stay


def test_a_checkpoint_is_named_by_model_epoch_and_step_and_has_weights_and_card(tmp_path):
    card = CARD | {"model": MODEL, "class_names": ["a", "b"], "top1": 0.5}
    CheckpointSaver(tmp_path, MODEL, 3, "latest_k").save(7, 91, parameters(1.5), card, 0.5)
    assert names(tmp_path) == [f"{MODEL}-7_91.ckpt"]
    weights = read_weights(str(tmp_path / f"{MODEL}-7_91.ckpt"))
    assert weights.card == card
    assert list(weights.parameters) == ["features.0.weight"]
    assert value_of(tmp_path / f"{MODEL}-7_91.ckpt") == 1.5


@pytest.mark.parametrize(("keep", "kept"), [(1, [5]), (2, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_latest_k_keeps_the_latest(tmp_path, keep, kept):
    checkpoints_of(tmp_path, keep, "latest_k", (0.5, 0.9, 0.1, None, 0.3))
    assert epochs(tmp_path) == kept


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ((0.5, 0.9, 0.1, 0.7, 0.3), [2, 4]),
        ((0.1, 0.2, 0.3, 0.4, 0.5), [4, 5]),
        ((0.5, 0.4, 0.3, 0.2, 0.1), [1, 2]),
        ((0.9, None, 0.0, None, 0.2), [1, 5]),
        ((0.0, None, 0.9), [1, 3]),  # not scored is worse than the lowest score
    ],
)
def test_top_k_keeps_the_best(tmp_path, scores, kept):
    checkpoints_of(tmp_path, 2, "top_k", scores)
    assert epochs(tmp_path) == kept


def test_the_best_is_kept_apart_and_replaced_only_by_a_better_one(tmp_path):
    checkpoints = checkpoints_of(tmp_path)
    saved = [
        checkpoints.save_if_best(parameters(top1), CARD | {"top1": top1}, top1) for top1 in (0.0, 0.3, 0.2, 0.3, 0.4)
    ]
    assert saved == [True, True, False, False, True]
    assert names(tmp_path) == [BEST]
    assert value_of(tmp_path / BEST) == pytest.approx(0.4)
    card = read_weights(str(tmp_path / BEST)).card
    assert card == CARD | {"top1": 0.4}
    checkpoints_of(tmp_path, 1, "latest_k", (0.5, 0.5, 0.5))
    assert names(tmp_path) == [f"{MODEL}-3_30.ckpt", BEST]


def test_a_file_that_is_gone_already_disturbs_nothing(tmp_path):
    checkpoints = checkpoints_of(tmp_path, 1, "latest_k", (0.5,))
    (tmp_path / f"{MODEL}-1_10.ckpt").unlink()
    checkpoints.save(2, 20, parameters(2), CARD, 0.5)
    assert epochs(tmp_path) == [2]


def test_files_of_others_stay(tmp_path):
    (tmp_path / "mine.ckpt").write_bytes(b"mine")
    checkpoints_of(tmp_path, 1, "latest_k", (0.5, 0.6))
    assert (tmp_path / "mine.ckpt").read_bytes() == b"mine"


# ---------------------------------------------------------------------------------------------------- saving that fails


class DiskFull(OSError):
    pass


def half_saved(entries, path, **keys):
    Path(path).write_bytes(b"half of a checkpoint")
    raise DiskFull


def raise_disk_full(*arguments):
    raise DiskFull


FAILURES = [
    (mindspore, "save_checkpoint", half_saved),
    (os, "fsync", raise_disk_full),
    (os, "replace", raise_disk_full),
]


@pytest.mark.parametrize(("module", "name", "failure"), FAILURES, ids=[name for _, name, _ in FAILURES])
def test_a_save_that_fails_leaves_the_old_file_whole_and_no_part_of_the_new_one(
    tmp_path, monkeypatch, module, name, failure
):
    path = tmp_path / BEST
    save_weights(path, parameters(1), CARD | {"top1": 0.1})
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(module, name, failure)
        with pytest.raises(UserError, match="cannot be written: "):
            save_weights(path, parameters(2), CARD | {"top1": 0.2})
        with pytest.raises(UserError, match="cannot be written: "):
            save_weights(tmp_path / "other.ckpt", parameters(2), CARD | {"top1": 0.2})
    assert names(tmp_path) == [BEST]
    assert path.read_bytes() == before
    save_weights(path, parameters(3), CARD | {"top1": 0.3})
    assert value_of(path) == 3


@pytest.mark.parametrize(("module", "name", "failure"), FAILURES, ids=[name for _, name, _ in FAILURES])
def test_tensors_that_cannot_be_saved_leave_no_part_of_a_file(tmp_path, monkeypatch, module, name, failure):
    monkeypatch.setattr(module, name, failure)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        write_entries(tmp_path / "x.safetensors", {"a": np.zeros(3, np.float32)})
    assert names(tmp_path) == []


def test_tensors_keep_type_shape_and_bits_in_a_file_of_any_name(tmp_path):
    tensors = {"a.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "count": np.array(7, np.int64)}
    path = tmp_path / "odd [name] *.safetensors"
    write_entries(path, tensors)
    assert names(tmp_path) == [path.name]
    read = safetensors.numpy.load_file(path)  # what PyTorch's users read with
    assert {name: (value.dtype, value.shape) for name, value in read.items()} == {
        name: (value.dtype, value.shape) for name, value in tensors.items()
    }
    assert all(np.array_equal(read[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("policy", ["latest_k", "top_k"])
def test_a_checkpoint_that_fails_costs_no_earlier_one(tmp_path, monkeypatch, policy):
    checkpoints = checkpoints_of(tmp_path, 2, policy, (0.1, 0.2))
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", raise_disk_full)
        with pytest.raises(UserError, match="cannot be written: "):
            checkpoints.save(3, 30, parameters(3), CARD, 0.3)
    assert epochs(tmp_path) == [1, 2]
    checkpoints.save(4, 40, parameters(4), CARD, 0.4)
    assert epochs(tmp_path) == [2, 4]


def test_a_best_one_that_fails_does_not_count_as_the_best(tmp_path, monkeypatch):
    checkpoints = checkpoints_of(tmp_path)
    checkpoints.save_if_best(parameters(1), CARD, 0.1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", raise_disk_full)
        with pytest.raises(UserError, match="cannot be written: "):
            checkpoints.save_if_best(parameters(2), CARD, 0.9)
    assert value_of(tmp_path / BEST) == 1
    assert checkpoints.save_if_best(parameters(3), CARD, 0.5)
    assert value_of(tmp_path / BEST) == 3


def test_the_new_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, call=call: (done.append(name), call(*given))[1])
    save_weights(tmp_path / BEST, parameters(1), CARD)
    assert done[:2] == ["fsync", "replace"]


# ------------------------------------------------------------------------------------------------------ start of a run


def test_a_run_starts_with_its_recipe_in_a_new_folder(tmp_path, recipe):
    folder = tmp_path / "deep" / "ckpt"
    given = recipe(epoch_size=7, lr=0.123)
    claim(folder)
    start_run(folder, given)
    assert names(folder) == ["recipe.yaml"]
    assert load_recipe(["--config", str(folder / "recipe.yaml")], "") == given


def test_an_earlier_run_is_moved_aside_whole_and_nothing_else_is(tmp_path, recipe):
    start_run(tmp_path, recipe(lr=0.1))
    for name in (f"{MODEL}-1_10.ckpt", BEST, "results.csv", "curves.png"):
        (tmp_path / name).write_text(f"first {name}")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/events.out.tfevents.1").write_text("first events")
    for name in ("notes.txt", "picture.png"):
        (tmp_path / name).write_text("mine")
    start_run(tmp_path, recipe(lr=0.2))
    assert names(tmp_path) == ["notes.txt", "picture.png", "recipe.yaml", "run_1"]
    made = [f"{MODEL}-1_10.ckpt", BEST, "curves.png", "recipe.yaml", "results.csv", "tensorboard"]
    assert names(tmp_path / "run_1") == sorted(made)
    assert names(tmp_path / "run_1/tensorboard") == ["events.out.tfevents.1"]
    assert (tmp_path / "run_1" / BEST).read_text() == f"first {BEST}"

    (tmp_path / "results.csv").write_text("second")
    start_run(tmp_path, recipe(lr=0.3))
    assert names(tmp_path / "run_2") == ["recipe.yaml", "results.csv"]
    assert len(names(tmp_path / "run_1")) == len(made)  # the first is where it was
    rates = [
        load_recipe(["--config", str(tmp_path / name)], "").optimizer.lr
        for name in ("run_1/recipe.yaml", "run_2/recipe.yaml", "recipe.yaml")
    ]
    assert rates == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(("path", "said"), [(BEST, True), (f"elsewhere/{BEST}", False)])
def test_who_starts_from_the_weights_of_the_folder_is_told_what_resume_does(tmp_path, recipe, log, path, said):
    save_step(tmp_path, 1)
    start_run(tmp_path, recipe(ckpt_path=tmp_path / path))
    assert ("--resume instead goes on with the run in" in log.text) == said


def test_weights_of_an_earlier_run_that_was_killed_in_a_save_move_aside_too(tmp_path, recipe):
    (tmp_path / f".{BEST}.part").mkdir()
    (tmp_path / f".{BEST}.part" / BEST).write_bytes(b"half")
    (tmp_path / BEST).write_bytes(b"whole")
    start_run(tmp_path, recipe())
    assert names(tmp_path) == ["recipe.yaml", "run_1"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file/ckpt: cannot write there: Not a directory; give another --ckpt_save_dir"
    ):
        claim(tmp_path / "file" / "ckpt")


def test_the_card_is_one_json_string(tmp_path):
    save_weights(tmp_path / BEST, parameters(1), {"mean": (1.5, 2.5), "top1": None})
    card = mindspore.load_checkpoint(str(tmp_path / BEST))["model_card"]
    assert json.loads(str(card)) == {"mean": [1.5, 2.5], "top1": None}


# ------------------------------------------------------------------------------------------------ the state of a run

STATES = ["last.state.ckpt", "previous.state.ckpt"]


def save_step(folder: Path, step: int) -> None:
    save_state(folder, {"weight": np.full(3, step, np.float32)}, {"step": step, "card": CARD})


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def step_found(resume: bool | str, folder: Path) -> int:
    """Of the state that is gone on from; its numbers must be of that step, too."""
    state = find_state(resume, folder)
    assert state
    assert state.numbers["weight"].tolist() == [state.facts["step"]] * 3
    return state.facts["step"]


def test_a_state_keeps_the_one_before_it_and_leaves_no_other_file(tmp_path):
    save_step(tmp_path, 1)
    assert names(tmp_path) == STATES[:1]
    for step in (2, 3):
        save_step(tmp_path, step)
        assert names(tmp_path) == STATES
        assert [step_found(str(tmp_path / name), tmp_path) for name in STATES] == [step, step - 1]


def test_a_state_says_where_it_is_from_and_what_its_weights_mean(tmp_path):
    save_step(tmp_path, 1)
    state = find_state(True, tmp_path)
    assert state
    assert (state.path, state.card) == (str(tmp_path / STATES[0]), CARD)


def test_without_resume_no_state_is_looked_for(tmp_path):
    save_step(tmp_path, 1)
    spoil(tmp_path / STATES[0])
    assert find_state(False, tmp_path) is None


def test_nothing_to_go_on_with_is_a_fresh_start_that_is_said(tmp_path, log):
    assert find_state(True, tmp_path / "new") is None
    assert f"no run to go on with in {tmp_path / 'new'}: a fresh start" in log.text


@pytest.mark.parametrize("rename", [1, 2])
def test_killed_before_one_of_its_two_renames_a_run_goes_on_from_the_new_state(tmp_path, monkeypatch, rename):
    save_step(tmp_path, 1)
    renames, replace = iter(range(1, 10)), os.replace

    def killed(source, target):
        if (Path(source).name in STATES or Path(target).name in STATES) and next(renames) == rename:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save_step(tmp_path, 2)
    assert step_found(True, tmp_path) == 2
    keep_as_last(tmp_path / "new.last.state.ckpt")
    save_step(tmp_path, 3)
    assert names(tmp_path) == sorted(STATES)
    assert [step_found(str(tmp_path / name), tmp_path) for name in STATES] == [3, 2]


def test_a_damaged_state_names_the_one_before_it_which_is_never_taken_unasked(tmp_path):
    for step in (10, 20):
        save_step(tmp_path, step)
    spoil(tmp_path / STATES[0])
    with pytest.raises(UserError) as error:
        find_state(True, tmp_path)
    previous = tmp_path / STATES[1]
    assert str(error.value).startswith(f"{tmp_path / STATES[0]}: damaged: ")
    assert str(error.value).endswith(f"; the state before it is whole (step 10): --resume {previous}")
    assert step_found(str(previous), tmp_path) == 10


def test_a_damaged_state_does_not_take_the_place_of_the_one_before_it_that_a_run_went_on_from(tmp_path):
    for step in (10, 20):
        save_step(tmp_path, step)
    spoil(tmp_path / STATES[0])
    keep_as_last(tmp_path / STATES[1])
    save_step(tmp_path, 30)
    assert [step_found(str(tmp_path / name), tmp_path) for name in STATES] == [30, 10]
    keep_as_last(tmp_path / STATES[0])
    assert step_found(True, tmp_path) == 30


def test_a_run_that_goes_back_to_an_older_state_does_not_overwrite_a_better_network(tmp_path):
    before = checkpoints_of(tmp_path, scores=(0.5,))
    facts = before.facts()
    assert before.save_if_best(parameters(2), CARD | {"top1": 0.9}, 0.9)
    back = CheckpointSaver(tmp_path, MODEL, 2, "latest_k")
    back.restore(facts)
    assert not back.save_if_best(parameters(3), CARD | {"top1": 0.8}, 0.8)
    assert value_of(tmp_path / BEST) == 2


def test_a_folder_takes_one_training_at_a_time(tmp_path):
    claim(tmp_path / "ckpt")
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from mindcv_lite.runs.folder import claim
from mindcv_lite.program import run_script
run_script(lambda: claim(Path({str(tmp_path / "ckpt")!r})), "train.py")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"train.py: error: {tmp_path / 'ckpt'}: another training is writing there; give ")


@pytest.mark.parametrize("saved", [1, 2])
def test_without_a_whole_older_state_the_advice_is_a_fresh_start(tmp_path, saved):
    for step in range(saved):
        save_step(tmp_path, step)
    for path in tmp_path.iterdir():
        spoil(path)
    with pytest.raises(
        UserError, match=r"last\.state\.ckpt: damaged: .*; there is no older state: start afresh without"
    ):
        find_state(True, tmp_path)


def test_weights_are_no_state_and_a_state_is_no_weights(tmp_path):
    save_weights(tmp_path / BEST, parameters(1), CARD)
    with pytest.raises(
        UserError, match=r"_best\.ckpt: no state of a run; --resume takes last\.state\.ckpt, --ckpt_path"
    ):
        find_state(str(tmp_path / BEST), tmp_path)
    with pytest.raises(UserError, match=r"nothing\.ckpt: no such file"):
        find_state(str(tmp_path / "nothing.ckpt"), tmp_path)
    save_step(tmp_path, 1)
    with pytest.raises(UserError, match=r"last\.state\.ckpt: the state of a run, no weights: "):
        read_weights(str(tmp_path / "last.state.ckpt"))


@pytest.mark.parametrize(("module", "name", "failure"), FAILURES, ids=[name for _, name, _ in FAILURES])
def test_a_state_that_cannot_be_written_leaves_both_earlier_ones_whole(tmp_path, monkeypatch, module, name, failure):
    for step in (1, 2):
        save_step(tmp_path, step)
    before = [(tmp_path / name).read_bytes() for name in STATES]
    with monkeypatch.context() as patched:
        patched.setattr(module, name, failure)
        with pytest.raises(UserError, match="cannot be written: "):
            save_step(tmp_path, 3)
    assert names(tmp_path) == STATES
    assert [(tmp_path / name).read_bytes() for name in STATES] == before
    save_step(tmp_path, 4)
    assert [step_found(str(tmp_path / name), tmp_path) for name in STATES] == [4, 2]


def test_a_run_that_goes_on_stays_in_its_folder_and_its_recipe_does_not_resume_on_its_own(tmp_path, recipe):
    start_run(tmp_path, recipe(lr=0.1))
    save_step(tmp_path, 1)
    (tmp_path / "results.csv").write_text("first")
    start_run(tmp_path, recipe(lr=0.1, epoch_size=9, resume=True), goes_on=True)
    assert names(tmp_path) == [STATES[0], "recipe.yaml", "results.csv"]
    saved = load_recipe(["--config", str(tmp_path / "recipe.yaml")], "")
    assert (saved.output.resume, saved.schedule.epoch_size) == (False, 9)


def test_states_of_an_earlier_run_move_aside_with_it(tmp_path, recipe):
    start_run(tmp_path, recipe())
    for step in (1, 2):
        save_step(tmp_path, step)
    start_run(tmp_path, recipe())
    assert names(tmp_path) == ["recipe.yaml", "run_1"]
    assert names(tmp_path / "run_1") == sorted([*STATES, "recipe.yaml"])


@pytest.mark.parametrize(("policy", "kept"), [("latest_k", [3, 4]), ("top_k", [1, 4])])
def test_a_resumed_run_keeps_and_gives_up_files_as_the_undisturbed_one(tmp_path, policy, kept):
    first = checkpoints_of(tmp_path, 2, policy, (0.9, 0.1, 0.2))
    first.best = 0.5
    facts = json.loads(json.dumps(first.facts()))  # as in a state
    resumed = CheckpointSaver(tmp_path, MODEL, 2, policy)
    resumed.restore(facts)
    assert not resumed.save_if_best(parameters(4), CARD, 0.5)
    resumed.save(4, 40, parameters(4), CARD, 0.3)
    assert epochs(tmp_path) == kept
