"""The list of shipped recipes, from a checkout and from an installed package; the page of all keys."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindcv_lite.commands.recipes import main
from mindcv_lite.recipe.load import load_recipe
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))


@pytest.fixture
def lines(capsys) -> list[str]:
    main([])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_recipe_is_listed_with_its_network_and_its_first_comment(lines, path):
    head = f"{path.stem} ({load_recipe(['--config', str(path)], '').model.model})"
    opening = path.read_text().split("\n#   ")[0].splitlines()
    start = lines.index(head)
    assert lines[start + 1 : start + 1 + len(opening) + 1] == [*(line.replace("#", " ", 1) for line in opening), ""]


def test_the_list_says_where_the_files_are(lines):
    assert lines[-1].endswith(f" The files are in {ROOT / 'configs/mobilenetv3'}.")
    assert sum(line != "" and not line.startswith(" ") for line in lines) == len(CONFIGS) + 1


def test_the_page_of_keys_is_docs_recipe_md(capsys):
    main(["--keys"])
    command = "python -m mindcv_lite recipes --keys > docs/recipe.md"
    assert (ROOT / "docs/recipe.md").read_text() == capsys.readouterr().out, f"out of date; run: {command}"


@pytest.fixture
def installed(tmp_path) -> Path:
    """What pip makes of the package: the files that pyproject.toml names, and no link."""
    package = tmp_path / "site-packages/mindcv_lite"
    line = re.search(r"^package-data\.mindcv_lite = (\[.*\])", (ROOT / "pyproject.toml").read_text(), re.M)
    assert line
    for pattern in ("**/*.py", *re.findall('"(.*?)"', line[1])):
        for path in (ROOT / "mindcv_lite").glob(pattern):
            target = package / path.relative_to(ROOT / "mindcv_lite")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return package


def test_an_installed_package_has_the_recipes(installed, lines):
    command = [sys.executable, "-m", "mindcv_lite", "recipes"]
    environment = os.environ | {"PYTHONPATH": str(installed.parent)}
    done = subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:-1] == lines[:-1]
    assert done.stdout.endswith(f" The files are in {installed / 'configs/mobilenetv3'}.\n")
