"""What README.md, CONTRIBUTING.md and docs/ tell people to type and to follow: it is there, and it is understood."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mindcv_lite.__main__ import COMMANDS, SCRIPTS
from mindcv_lite.models.complexity import complexity_of
from mindcv_lite.models.variants import VARIANTS
from mindcv_lite.recipe.keys import FOREIGN_KEYS, KEYS
from mindcv_lite.recipe.load import load_recipe
from tests.conftest import ROOT

MODEL_PAGE = ROOT / "configs/mobilenetv3/README.md"
DOCS = [MODEL_PAGE, *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(r"^( *)```\w*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"(?:^|.* )python (train|validate)\.py (.*(?:--config|-c) .*)")
COMMAND = re.compile(r"(?:^|.* )(?:python -m mindcv_lite|mindcv-lite) ([a-z]+)((?: .*)?)")


def text_of(path: Path) -> str:
    """What a reader sees: comments are left out."""
    return re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.DOTALL)


def lines_of(pattern: re.Pattern) -> Iterator[tuple[str, str, str]]:
    """The lines in blocks of code that are a program's: page, program, arguments."""
    for path in DOCS:
        for _, block in BLOCK.findall(text_of(path)):
            for line in block.splitlines():
                if found := pattern.fullmatch(line.strip()):
                    yield str(path.relative_to(ROOT)), found[1], found[2]


@pytest.mark.parametrize(("page", "script", "arguments"), [*lines_of(SCRIPT)])
def test_each_command_line_of_a_script_is_a_recipe(page, script, arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    own = ("--report", "report", "report_a", "report_b")  # a flag of validate.py, no key of a recipe
    arguments = arguments.replace("$seed", "1").replace("/path/to/mindcv/", "")
    load_recipe([word for word in shlex.split(arguments) if word not in own], "")


@pytest.mark.parametrize(("page", "command", "arguments"), [*lines_of(COMMAND)])
def test_each_command_line_is_one_that_the_command_takes(page, command, arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command in COMMANDS
    if command in SCRIPTS:
        test_each_command_line_of_a_script_is_a_recipe(page, command, arguments, monkeypatch)
        return
    module, words = importlib.import_module(f"mindcv_lite.commands.{command}"), shlex.split(arguments)
    parser = module.command_line()
    if command == "benchmark":
        assert words[0] in module.SUBJECTS
        load_recipe(words[1:], "", parser)
    elif command == "tune":
        load_recipe(["--config", "configs/mobilenetv3/mobilenet_v3_small_finetune.yaml", *words], "", parser)
    elif command == "predict":
        parser.parse_intermixed_args(words)
    else:
        parser.parse_args(words)


def test_both_kinds_of_lines_are_found():
    assert {script for _, script, _ in lines_of(SCRIPT)} == {"train", "validate"}
    assert len({command for _, command, _ in lines_of(COMMAND)}) > 9


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_to_a_file_or_a_heading(path):
    for target in re.findall(r"\]\(([^)]*)\)", text_of(path)):
        if not target.startswith("https://"):
            name, _, heading = target.partition("#")
            page = path.parent / name if name else path
            assert page.is_file(), target
            assert not heading or heading in headings_of(page), target


def headings_of(path: Path) -> set[str]:
    """The headings of a page, as links name them."""
    text = BLOCK.sub("", text_of(path))
    return {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)", text, re.M)
    }


def test_each_key_that_mindcv_has_and_this_project_does_not_is_on_its_page():
    text = (ROOT / "docs/mindcv.md").read_text()
    assert [name for name in FOREIGN_KEYS if f"`{name}`" not in text] == []


def test_each_key_is_on_some_page():
    text = "".join(path.read_text() for path in DOCS)
    assert [name for name in KEYS if not re.search(rf"\b{name}\b", text)] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_the_model_page_has_each_recipe_once_in_its_table():
    table = MODEL_PAGE.read_text().partition("## Recipes")[2].partition("## Notes")[0]
    named = re.findall(r"`(\w+\.yaml)`", table)
    assert len(named) == len({*named})
    assert {path.name for path in MODEL_PAGE.parent.glob("*.yaml")} <= {*named}


@pytest.mark.parametrize("model", VARIANTS)
def test_the_model_page_says_how_large_a_network_is(model):
    lines = list(complexity_of(VARIANTS[model], 1000, 3, 224))
    trainable, statistics = sum(line.trainable for line in lines), sum(line.statistics for line in lines)
    multiply_adds = sum(line.multiply_adds for line in lines) / 1e6
    row = f"| `{model}` | {trainable:,} | {trainable + statistics:,} | {multiply_adds:.1f} M |\n"
    assert MODEL_PAGE.read_text().count(row) == 1
