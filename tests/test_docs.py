"""What README.md and docs/ tell people to type and to follow: it is there, and it is understood."""

import re
import shlex

import pytest

from mindcv_lite.recipe.load import load_recipe
from tests.conftest import ROOT

DOCS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SCRIPT = re.compile(r"^ *(?:.* )?python (?:train|validate)\.py (.*(?:--config|-c) .*)$", re.MULTILINE)
LINES = [(path.name, line) for path in DOCS for line in SCRIPT.findall(path.read_text())]


@pytest.mark.parametrize(("name", "line"), LINES)
def test_each_command_line_of_a_script_is_a_recipe(name, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    own = ("--report", "report", "report_a", "report_b")  # a flag of validate.py, no key of a recipe
    line = line.replace("$seed", "1")
    load_recipe([word for word in shlex.split(line) if word not in own], "")


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
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
