"""Both ways to start a command: the same pages, the same sentences, at once."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import mindcv_lite
from mindcv_lite.__main__ import COMMANDS
from mindcv_lite.program import mindspore_version
from tests.conftest import ROOT

MODULE, SCRIPT = "python -m mindcv_lite", "mindcv-lite"
# pip writes a script that does this, by the entry point in pyproject.toml.
AS_PIP_DOES = (
    "import sys; sys.argv[0] = '/usr/bin/mindcv-lite'; from mindcv_lite.__main__ import main; sys.exit(main())"
)


@pytest.fixture(params=[MODULE, SCRIPT])
def way(request) -> str:
    return request.param


@pytest.fixture
def started(way, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """Start a command as a user does: exit status, output, errors. Nothing slow may be imported, nothing written."""

    def started(*arguments: str) -> tuple[int, str, str]:
        program = ["-m", "mindcv_lite"] if way == MODULE else ["-c", AS_PIP_DOES]
        command = [sys.executable, "-X", "importtime", *program, *arguments]
        environment = os.environ | {"COLUMNS": "200"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        lines = done.stderr.splitlines(keepends=True)
        imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
        assert "mindcv_lite.errors" in imported
        assert not imported & {"mindspore", "numpy", "PIL"}
        assert list(tmp_path.iterdir()) == []
        return done.returncode, done.stdout, "".join(line for line in lines if not line.startswith("import time:"))

    return started


def test_the_script_is_declared():
    assert '\nmindcv-lite = "mindcv_lite.__main__:main"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("arguments", [(), ("-h",), ("--help",)])
def test_the_help_page_has_a_line_for_each_command(way, started, arguments):
    status, output, errors = started(*arguments)
    assert (status, errors) == (0, "")
    assert output.startswith(f"usage: {way} COMMAND ...\n")
    lines = output.splitlines()
    for name, purpose in COMMANDS.items():
        assert f"  {name:<10} {purpose}" in lines
    assert max(map(len, lines)) <= 120


def test_the_version_is_that_of_the_package_and_of_the_mindspore_that_is_installed(started):
    line = f"mindcv_lite {mindcv_lite.__version__}, MindSpore {mindspore_version()}\n"
    assert started("--version") == (0, line, "")


def test_the_version_without_mindspore(monkeypatch):
    from mindcv_lite.__main__ import versions

    def not_there(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_there)
    assert versions() == f"mindcv_lite {mindcv_lite.__version__}, no MindSpore"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_at_once_what_it_takes(way, started, name):
    status, output, errors = started(name, "--help")
    assert (status, errors) == (0, "")
    assert output.startswith(f"usage: {way} {name} ")


@pytest.mark.parametrize("arguments", [(), ("--no_such_flag",), ("x", "y", "--no_such_flag=1")])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_command_line_is_answered_at_once_by_a_sentence(way, started, name, arguments):
    if not arguments and name in ("doctor", "recipes"):  # they need no argument, and begin their work
        return
    status, output, errors = started(name, *arguments)
    if (name, arguments) == ("benchmark", ()):  # what it measures is to be chosen first
        assert (status, errors) == (0, "")
        return
    assert (status, output) == (2, "")
    assert errors.startswith(f"{way} {name}: error: command line: ")
    assert len(errors.splitlines()) == 1


def test_a_name_that_is_no_command(way, started):
    status, output, errors = started("teach")
    assert (status, output) == (2, "")
    expected = f"{', '.join(COMMANDS)}; --help says what they do"
    assert errors == f"{way}: error: 'teach' is no command; expected one of {expected}\n"
