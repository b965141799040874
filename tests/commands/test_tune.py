"""The command line of a search: what is refused before anything is begun, and the recipe that it starts from."""

import os
from pathlib import Path

import pytest

from mindcv_lite.commands import tune
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.training.tuning import search, trials


@pytest.fixture
def flags(image_folder, tmp_path) -> list[str]:
    (tmp_path / "w.ckpt").write_bytes(b"weights")
    images = image_folder({"train": {"a": 12, "b": 11}, "val": {"a": 1, "b": 1}})
    return ["--data_dir", str(images), "--ckpt_path", str(tmp_path / "w.ckpt"), "--out", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--val_share", "0.2"], "key 'val_share': the search decides that itself; leave it out"),
        (["--val_fold", "1"], "key 'val_fold': the search decides that itself"),
        (["--resume"], "key 'resume': the search decides that itself"),
        (["--distribute", "True"], "key 'distribute': a search is made on one device; leave it out"),
        (["--minutes", "x"], "argument --minutes: expected a number of minutes, got 'x'"),
        (["--minutes", "nan"], "argument --minutes: expected a number of minutes, got 'nan'"),
        (["--minutes", "-1"], "argument --minutes: expected a number of minutes, got '-1'"),
        (["--out", ""], "argument --out: expected a folder, got ''"),
        (["--ckpt_path", "none.ckpt"], "none.ckpt: no such checkpoint; expected a .ckpt file"),
        (["--data_dir", "none"], "none: no such folder; --data_dir names the folder that holds train"),
        (["--lr", "x"], "command line: key 'lr': expected a number"),
    ],
)
def test_a_wrong_command_line(refusal, flags, more, sentence):
    assert sentence in refusal(tune.main, [*flags, *more])


def test_a_file_in_the_place_of_the_folder(refusal, flags, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert "out: no folder to write to" in refusal(tune.main, flags)


def test_the_recipe_is_that_for_fine_tuning_the_small_network_if_none_is_given(flags, monkeypatch, tmp_path):
    started: list[tuple[Recipe, float]] = []

    def stop(candidates: object, seconds: float, run: trials.Trainer, note: object) -> None:
        os.close(run.lock)
        started.append((recipes[0], seconds))
        raise InterruptedError

    recipes: list[Recipe] = []
    monkeypatch.setattr(search, "search", stop)
    monkeypatch.setattr(search, "candidates_for", lambda recipe: (recipes.append(recipe), [])[1])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InterruptedError):
        tune.main(["--data_dir", "images", *flags[2:], "--minutes", "2.5", "--lr", "0.5"])
    (recipe, seconds), *_ = started
    assert seconds == 150
    assert (recipe.optimizer.opt, recipe.optimizer.lr, recipe.model.model) == ("adamw", 0.5, "mobilenet_v3_small_100")
    assert Path(recipe.data.data_dir) == tmp_path / "images"  # to be used from wherever one likes
