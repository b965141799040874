"""The library is compiled once, whole or not at all; where it cannot be, MindSpore's own operators stay."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mindcv_lite.cpu import operators as module
from mindcv_lite.cpu.operators import compiled_operators, find_compiler, key_of

COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo "compiler {version}" && exit
echo x >> "{log}"
sleep 0.2
while [ "$1" != -o ]; do shift; done
echo library > "$2"
"""


@pytest.fixture
def compiler(tmp_path, monkeypatch) -> Path:
    """A program in the place of the compiler, and a cache of its own."""
    path = tmp_path / "c++"
    write(path, COMPILER.format(version=1, log=tmp_path / "log"))
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def write(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_it_is_compiled_once_and_found_again(compiler, tmp_path, log):
    first, second = compiled_operators(), compiled_operators()
    assert first == second
    assert first is not None
    assert first.read_text() == "library\n"
    assert (tmp_path / "log").read_text() == "x\n"
    assert f"depthwise convolutions and BatchNorm are those of {first}" in log.text


@pytest.mark.usefixtures("compiler")
def test_several_at_once_end_with_one_whole_library(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        (path,) = set(pool.map(lambda _: compiled_operators(), range(4)))
    assert path is not None
    assert os.listdir(tmp_path / "cache/mindcv_lite/cpu") == [path.name]


def test_another_compiler_source_or_processor_means_another_library(compiler, tmp_path, monkeypatch):
    keys = [key_of(str(compiler))]
    write(compiler, COMPILER.format(version=2, log=tmp_path / "log"))
    keys.append(key_of(str(compiler)))
    monkeypatch.setattr(module, "processor", lambda: "another")
    keys.append(key_of(str(compiler)))
    (tmp_path / "other.cc").write_text("other")
    monkeypatch.setattr(module, "SOURCES", [tmp_path / "other.cc"])
    keys.append(key_of(str(compiler)))
    assert len(set(keys)) == 4


def test_without_a_compiler_the_stock_operators_stay_and_the_log_says_so(monkeypatch, log):
    monkeypatch.setenv("CXX", "no such compiler")
    assert compiled_operators() is None
    assert "MindSpore's own, which are slower: a C++ compiler (g++ or clang++, or what CXX names)" in log.text


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\necho 'x.cc:1: error: what is this' >&2; exit 1\n", "x.cc:1: error: what is this"),
        ("#!/bin/sh\nexit 1\n", "returned non-zero exit status 1"),
        ("no program", "Exec format error"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing_and_is_told(compiler, tmp_path, log, script, reason):
    write(compiler, script)
    assert compiled_operators() is None
    assert reason in log.text
    assert not list(tmp_path.glob("cache/mindcv_lite/cpu/*"))


@pytest.mark.usefixtures("compiler")
def test_a_cache_that_cannot_be_written_is_told(tmp_path, log):
    (tmp_path / "cache").write_text("a file")
    assert compiled_operators() is None
    assert f"in {tmp_path}/cache/mindcv_lite/cpu: Not a directory" in log.text


def test_the_usual_compilers_are_looked_for_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler({}) is None
    write(tmp_path / "clang++", "")
    assert find_compiler({}) == str(tmp_path / "clang++")
    write(tmp_path / "g++", "")
    assert find_compiler({"CXX": ""}) == str(tmp_path / "g++")
