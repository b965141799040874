"""Files that other programs read: of the version that the package has, and of the tools that .ci/run calls."""

import re

import yaml

import mindcv_lite
from tests.conftest import ROOT

CI = (ROOT / ".ci/run").read_text()


def test_the_changelog_and_the_citation_are_of_this_version():
    version = mindcv_lite.__version__
    assert re.search(rf"^## {re.escape(version)}( |$)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


def test_the_workflow_runs_ci_on_each_python_that_is_supported():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["ci"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    supported = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert supported
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(*map(int, supported.groups()))]


def test_each_hook_of_a_commit_is_a_check_of_ci():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["name"] for hook in repository["hooks"]] == ["ruff check", "ruff format", "pyrefly check"]
    for hook in repository["hooks"]:
        assert f"\n{hook['name']}" in CI
        assert hook["entry"].startswith(hook["name"])


def test_a_bug_report_asks_for_the_report_of_the_machine():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    fields = {part["id"]: part for part in form["body"]}
    assert "python -m mindcv_lite doctor" in fields["doctor"]["attributes"]["description"]
    assert fields["doctor"]["validations"]["required"]
