"""The library is compiled once, whole or not at all; where it cannot be, MindSpore's own operators stay."""

import _ctypes
import os
import platform
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mindcv_lite.cpu_kernels import compilation as module
from mindcv_lite.cpu_kernels.compilation import compiled_library, find_compiler, key_of

COMPILER = """#!/bin/sh
[ "$1" = -O2 ] && shift
[ "$1" = --version ] && printf 'compiler {version} \\374' && exit
echo x >> "{log}"
sleep 0.2
while [ "$1" != -o ]; do shift; done
cp "{library}" "$2"
"""


@pytest.fixture
def compiler(tmp_path, monkeypatch) -> Path:
    """A program in the place of the compiler, and a cache of its own."""
    path = tmp_path / "c++"
    write(path, script(tmp_path))
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def script(tmp_path: Path, version: int = 1, library: str | Path = _ctypes.__file__) -> str:
    """A compiler that makes a copy of `library`, whatever it is asked for."""
    return COMPILER.format(version=version, log=tmp_path / "log", library=library)


def write(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_it_is_compiled_once_and_found_again(compiler, tmp_path, log):
    first, second = compiled_library(), compiled_library()
    assert first == second
    assert first is not None
    assert first.read_bytes() == Path(_ctypes.__file__).read_bytes()
    assert (tmp_path / "log").read_text() == "x\n"
    assert f"CPU kernels are those of {first}" in log.text
    assert os.listdir(first.parent) == [first.name]


@pytest.mark.parametrize("length", [0, 1000])
def test_a_library_that_was_cut_short_is_compiled_anew(compiler, tmp_path, length):
    path = compiled_library()
    assert path is not None
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    assert compiled_library() == path
    assert path.read_bytes() == whole
    assert (tmp_path / "log").read_text() == "x\nx\n"


@pytest.mark.usefixtures("compiler")
def test_several_at_once_end_with_one_whole_library(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        (path,) = set(pool.map(lambda _: compiled_library(), range(4)))
    assert path is not None
    assert os.listdir(tmp_path / "cache/mindcv_lite/cpu") == [path.name]


def test_whatever_a_library_depends_on_means_another_one(compiler, tmp_path, monkeypatch):
    keys = [key_of([str(compiler)]), key_of([str(compiler), "-O2"])]
    write(compiler, script(tmp_path, version=2))
    keys.append(key_of([str(compiler)]))
    (tmp_path / "other.cc").write_text("other")
    for name, value in (
        ("instruction_set", lambda: "another"),
        ("SOURCES", [tmp_path / "other.cc"]),
        ("HEADERS", [tmp_path / "other.cc"]),
        ("FLAGS", ("-O1",)),
    ):
        monkeypatch.setattr(module, name, value)
        keys.append(key_of([str(compiler)]))
    assert len(set(keys)) == 7


STOCK = "CPU kernels are MindSpore's own, which are slower: "


def test_a_compiler_that_is_none_is_named(monkeypatch, log):
    monkeypatch.setenv("CXX", "no such compiler")
    assert compiled_library() is None
    assert f"{STOCK}CXX is 'no such compiler', which is no C++ compiler" in log.text


def test_another_system_keeps_the_stock_operators(compiler, monkeypatch, log):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert compiled_library() is None
    assert f"{STOCK}faster ones are for Linux" in log.text


def test_a_folder_whose_name_mindspore_takes_apart_is_told(compiler, tmp_path, monkeypatch, log):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a:b"))
    assert compiled_library() is None
    assert "/a:b/mindcv_lite/cpu: MindSpore takes no library with a colon in its path" in log.text


def test_a_user_without_a_home_is_told(compiler, monkeypatch, log):
    def homeless() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert compiled_library() is None
    assert f"{STOCK}Could not determine home directory." in log.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("#!/bin/sh\necho 'x.cc:1: error: what is this' >&2; exit 1\n", "x.cc:1: error: what is this"),
        ("#!/bin/sh\nexit 1\n", "returned non-zero exit status 1"),
        ("#!/bin/sh\nexit 0\n", "cannot open shared object file"),
        ("#!/bin/sh\nprintf 'x.cc:1: error: \\377\\n' >&2; exit 1\n", "x.cc:1: error: \ufffd"),
        ("no program", "Exec format error"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing_and_is_told(compiler, tmp_path, log, content, reason):
    write(compiler, content)
    assert compiled_library() is None
    assert reason in log.text
    assert not list(tmp_path.glob("cache/mindcv_lite/cpu/*"))


@pytest.mark.usefixtures("compiler")
def test_a_cache_that_cannot_be_written_is_told(tmp_path, log):
    (tmp_path / "cache").write_text("a file")
    assert compiled_library() is None
    assert f"Not a directory: '{tmp_path}/cache/mindcv_lite/cpu'" in log.text


def test_the_usual_compilers_are_looked_for_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        RuntimeError, match=r"a C\+\+ compiler \(g\+\+ or clang\+\+, or what CXX names\) makes faster ones"
    ):
        find_compiler({})
    write(tmp_path / "clang++", "")
    assert find_compiler({}) == [str(tmp_path / "clang++")]
    write(tmp_path / "g++", "")
    assert find_compiler({"CXX": ""}) == [str(tmp_path / "g++")]
    assert find_compiler({"CXX": "clang++ -O2"}) == [str(tmp_path / "clang++"), "-O2"]
    write(tmp_path / "my compiler", "")
    assert find_compiler({"CXX": f"{tmp_path}/my compiler"}) == [f"{tmp_path}/my compiler"]
