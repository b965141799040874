"""What README.md and docs/ tell people to type and to follow: it is there, and it is understood."""

import re
import shlex

import pytest

from mindcv_lite.models.complexity import complexity_of
from mindcv_lite.models.variants import VARIANTS
from mindcv_lite.recipe.load import load_recipe
from tests.conftest import ROOT

MODEL_PAGE = ROOT / "configs/mobilenetv3/README.md"
DOCS = [ROOT / "README.md", MODEL_PAGE, *sorted(ROOT.glob("docs/*.md"))]
SCRIPT = re.compile(r"^ *(?:.* )?python (?:train|validate)\.py (.*(?:--config|-c) .*)$", re.MULTILINE)
LINES = [(str(path.relative_to(ROOT)), line) for path in DOCS for line in SCRIPT.findall(path.read_text())]


@pytest.mark.parametrize(("name", "line"), LINES)
def test_each_command_line_of_a_script_is_a_recipe(name, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    own = ("--report", "report", "report_a", "report_b")  # a flag of validate.py, no key of a recipe
    line = line.replace("$seed", "1")
    load_recipe([word for word in shlex.split(line) if word not in own], "")


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_to_a_file_or_a_heading(path):
    text = path.read_text()
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]*)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (path.parent / target).is_file(), target


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
