"""What a search leaves: a table, a picture, and a recipe that is the one that it started from with what was chosen."""

import csv

import pytest
from PIL import Image

from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.training.tuning.findings import report
from mindcv_lite.training.tuning.search import DEFAULT, Candidate, Outcome, Rung, Trial
from tests.training.tuning.command_lines import words_of

DEFAULT_CANDIDATE, OTHER = Candidate(DEFAULT, {}, 10), Candidate("3 x lr", {"lr": 0.0009}, 10)


@pytest.fixture
def start(image_folder) -> Recipe:
    """A recipe whose images have a split to validate on."""
    return load_recipe(words_of(image_folder({"val": {"a": 1}})), "")


def outcomes_of(rung: Rung, **right: int) -> dict[Trial, Outcome]:
    return {
        trial: Outcome(50, right["other"] if trial.candidate is OTHER else right["default"], right["before"], 9.0, 5.0)
        for trial in rung.trials()
    }


@pytest.mark.parametrize(
    ("right", "changed"),
    [
        ({"default": 40, "other": 48, "before": 30}, {"lr": 0.0009}),
        ({"default": 40, "other": 41, "before": 30}, {}),
        ({"default": 40, "other": 41, "before": 49}, {"probe_only": True}),
    ],
)
def test_the_recipe_that_is_left_is_that_of_the_search_with_what_was_chosen(start, tmp_path, right, changed):
    rung = Rung([DEFAULT_CANDIDATE, OTHER], 1.0, 2)
    report(start, rung, outcomes_of(rung, **right), tmp_path)
    found = load_recipe(["--config", str(tmp_path / "recipe.yaml")], "")
    assert found == start.with_keys(**changed)
    assert found.origin.keys() == start.origin.keys() | changed.keys()  # what a model card may settle stays open


def test_what_was_found_is_said_and_stands_in_the_table_and_the_picture(start, tmp_path, log):
    rung = Rung([DEFAULT_CANDIDATE, OTHER], 1.0, 2)
    short = Rung([DEFAULT_CANDIDATE], 0.2, 1)
    outcomes = outcomes_of(short, default=20, other=0, before=20) | outcomes_of(rung, default=40, other=48, before=30)
    report(start, rung, outcomes, tmp_path)
    assert log.messages[1].split() == ["candidate", "epochs", "folds", "images", "top1", "low", "high"]
    assert log.messages[4].split("  ")[0] == "3 x lr"
    assert log.messages[-2] == ("chosen: 3 x lr; held-out top-1 96.00% (95 % interval 90.16% to 98.43%, 100 images)")
    assert log.messages[-1] == f"python train.py --config {tmp_path}/recipe.yaml"
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1:] == [
        [DEFAULT, "2", "1", "50", "0.4000", "0.2761", "0.5382"],
        [DEFAULT, "10", "2", "100", "0.8000", "0.7112", "0.8666"],
        ["3 x lr", "10", "2", "100", "0.9600", "0.9016", "0.9843"],
    ]
    with Image.open(tmp_path / "tune.png") as picture:
        assert picture.width == 900


def test_an_estimate_after_a_part_of_the_epochs_says_so(start, tmp_path, log):
    rung = Rung([DEFAULT_CANDIDATE, OTHER], 0.4, 1)
    report(start, rung, outcomes_of(rung, default=40, other=41, before=30), tmp_path)
    assert log.messages[-2].endswith("50 images) after about 40% of its epochs: more --minutes try all of them")


def test_without_a_split_to_validate_on_the_recipe_holds_out_images(image_folder, tmp_path, log):
    start = load_recipe(words_of(image_folder({"train": {"a": 1}})), "")
    rung = Rung([DEFAULT_CANDIDATE, OTHER], 1.0, 1)
    out = tmp_path / "with a space"
    out.mkdir()
    report(start, rung, outcomes_of(rung, default=40, other=41, before=30), out)
    assert load_recipe(["--config", str(out / "recipe.yaml")], "") == start.with_keys(val_share=0.2)
    assert log.messages[-1] == f"python train.py --config '{out}/recipe.yaml'"


def test_the_last_layer_alone_is_no_rival_of_a_recipe_that_had_a_part_of_its_epochs(start, tmp_path, log):
    rung = Rung([DEFAULT_CANDIDATE, OTHER], 0.4, 1)
    report(start, rung, outcomes_of(rung, default=30, other=31, before=50), tmp_path)
    assert log.messages[-2].startswith("chosen: the recipe; ")
