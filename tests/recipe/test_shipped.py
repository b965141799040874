"""Shipped recipes by their names, in the place of a file."""

import shutil

import pytest

from mindcv_lite.errors import UserError
from mindcv_lite.recipe import shipped
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.recipe.shipped import recipe_file, shipped_recipes
from tests.conftest import ROOT

NAME = "mobilenet_v3_small_finetune"
PATH = ROOT / f"configs/mobilenetv3/{NAME}.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A name must not be found by luck, as a path below the working folder."""
    monkeypatch.chdir(tmp_path)


def test_the_shipped_recipes_are_those_of_configs():
    assert shipped_recipes() == {path.stem: path for path in sorted((ROOT / "configs").glob("*/*.yaml"))}


def test_a_checkout_that_lost_its_link_has_them_too(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "mindcv_lite").mkdir()
    (tmp_path / "mindcv_lite/configs").write_text("../configs")  # what a link is unpacked to where there are none
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "mindcv_lite")
    assert shipped_recipes()[NAME] == tmp_path / f"configs/mobilenetv3/{NAME}.yaml"


@pytest.mark.parametrize("flag", ["-c", "--config"])
def test_config_takes_the_name_of_a_shipped_recipe(flag):
    recipe = load_recipe([flag, NAME, "--epoch_size", "3"], "")
    assert recipe == load_recipe([flag, str(PATH), "--epoch_size", "3"], "")
    assert recipe.origin["lr"] == str(PATH)


def test_a_file_of_that_name_is_taken_first_and_a_folder_is_not(tmp_path):
    (tmp_path / NAME).mkdir()
    assert recipe_file(NAME) == str(PATH)
    (tmp_path / NAME).rmdir()
    (tmp_path / NAME).write_text("")
    assert recipe_file(NAME) == NAME


@pytest.mark.parametrize("config", [NAME[:-1], f"{NAME}.yaml", f"configs/mobilenetv3/{NAME}.yaml"])
def test_a_name_or_path_that_is_nearly_one_is_answered_with_it(config):
    with pytest.raises(UserError) as error:
        load_recipe(["--config", config], "")
    assert str(error.value) == (
        f"{config}: no such recipe; did you mean '{NAME}'? `python -m mindcv_lite recipes` lists all that are shipped"
    )


@pytest.mark.parametrize("config", ["", "\0", "x" * 5000, "no.yaml", "."])
def test_anything_else_is_left_to_the_reader(config):
    assert recipe_file(config) == config
