"""The hot loops of the CPU kernels work on vectors on every processor: what g++ says of them, and what it wrote."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mindcv_lite.cpu_kernels.compilation import FLAGS, SOURCES

COMPILERS = {
    "x86-64-v2": ["g++", "-march=x86-64-v2"],  # SSE4
    "x86-64-v3": ["g++", "-march=x86-64-v3"],  # AVX2
    "x86-64-v4": ["g++", "-march=x86-64-v4"],  # AVX-512
    "aarch64": ["aarch64-linux-gnu-g++"],
}
PORTABLE_FLAGS = [flag for flag in FLAGS if flag not in ("-march=native", "-shared")]
SCALAR_PRODUCT = re.compile(r"^\s+(?:v?mulss|vfn?m(?:add|sub)\d+ss|fn?m(?:ul|add|sub)\s+s\d+)\b.*", re.MULTILINE)


@pytest.fixture(scope="module", params=COMPILERS)
def compiler(request) -> list[str]:
    command = COMPILERS[request.param]
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout
    if "Free Software Foundation" not in version:
        pytest.skip(f"{command[0]} is not GCC, whose report is read here")
    trial = [*command, "-fsyntax-only", "-x", "c++", "/dev/null"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip(f"{command[0]} does not compile for {request.param}")
    return command


def compiled(compiler: list[str], source: Path) -> tuple[str, str]:
    """The assembler's text, and the compiler's report of what it vectorized and what it did not."""
    report = ["-fopt-info-vec-missed", "-fopt-info-vec-optimized"]
    command = [*compiler, *PORTABLE_FLAGS, *report, "-S", "-o", "-", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def is_hot(lines: list[str], number: int) -> bool:
    """Whether the loop that the report places at this line (from 1) is under `#pragma omp simd`.

    The report places a loop at its `for`, at the line below, or at what it computes. What it places at the pragma
    itself is the sum of a vector's floats, which is no hot loop.
    """
    above, before, line = (lines[i].strip() for i in range(number - 3, number))
    if line.startswith("for ("):
        return before.startswith("#pragma omp simd")
    if before.startswith("for ("):
        return above.startswith("#pragma omp simd")
    return not line.startswith("#pragma omp simd")


def loops(report: str, source: Path, remark: str) -> set[int]:
    """The lines of the hot loops of which the report says this."""
    lines = source.read_text(encoding="utf-8").splitlines()
    numbers = set(map(int, re.findall(rf"{re.escape(str(source))}:(\d+):\d+: {remark}", report)))
    return {number for number in numbers if is_hot(lines, number)}


SIMD_SOURCES = [source for source in SOURCES if "omp simd" in source.read_text(encoding="utf-8")]


@pytest.mark.parametrize("source", SIMD_SOURCES, ids=lambda source: source.name)
def test_no_hot_loop_stays_scalar(compiler, source):
    _, report = compiled(compiler, source)
    assert loops(report, source, "optimized: loop vectorized")
    assert not loops(report, source, "missed: couldn't vectorize loop")


@pytest.mark.parametrize("name", ["depthwise.cc", "stem.cc"])
def test_products_of_convolutions_are_those_of_vectors(compiler, name):
    (source,) = (source for source in SOURCES if source.name == name)
    assembly, _ = compiled(compiler, source)
    assert re.search(r"\b(?:v?mulps|vfmadd\d+ps|fmla\s+v)", assembly)
    assert not SCALAR_PRODUCT.findall(assembly)
