"""The programs in docs/examples/, which show how others use an exported file: they say what `predict` says."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mindcv_lite.export.exporter import export
from tests.conftest import ROOT

PACKAGES = ("opencv5", "opencv4")  # what pkg-config calls OpenCV
LIBRARIES = "opencv_dnn opencv_imgcodecs opencv_imgproc opencv_core"


@pytest.fixture(scope="module")
def network(photos, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "network.onnx"
    export(photos.trained, path, include_preprocess=True, softmax=True)
    return path


def said_by(command: Sequence[object], paths: Sequence[Path]) -> tuple[list[str], list[float]]:
    """The classes and the probabilities that a program says of the photos."""
    words = [str(word) for word in (*command, *paths)]
    run = subprocess.run(words, capture_output=True, check=True, encoding="utf-8", env=os.environ | {"PYTHONUTF8": "1"})
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert [path for path, _, _ in rows] == [str(path) for path in paths]
    return [name for _, name, _ in rows], [float(probability) for _, _, probability in rows]


REFUSED = "no.jpg: no image that OpenCV reads"


def refusal(command: Sequence[object]) -> str:
    """The last line of a program that ends with status 1."""
    run = subprocess.run([str(word) for word in command], capture_output=True, encoding="utf-8")
    assert run.returncode == 1
    return run.stderr.splitlines()[-1]


def test_the_python_example_says_what_predict_says(photos, network):
    names, probabilities = said_by([sys.executable, ROOT / "docs/examples/classify.py", network], photos.paths)
    assert names == photos.names
    np.testing.assert_allclose(probabilities, photos.probabilities, atol=1e-4)  # four digits are said
    assert refusal([sys.executable, ROOT / "docs/examples/classify.py", network, "no.jpg"]) == REFUSED


def test_the_cpp_example_says_what_predict_says(photos, network, tmp_path):
    names, probabilities = said_by([compiled(ROOT / "docs/examples/classify.cc", tmp_path), network], photos.paths)
    assert names == photos.names
    # OpenCV's decoder and resize may be of any version.
    np.testing.assert_allclose(probabilities, photos.probabilities, atol=0.02)
    assert refusal([tmp_path / "classify", network, "no.jpg"]) == REFUSED


def compiled(source: Path, folder: Path) -> Path:
    compiler, pkg_config = shutil.which("g++"), shutil.which("pkg-config")
    if not compiler or not pkg_config:
        pytest.skip("no g++ or no pkg-config here")
    found = (name for name in PACKAGES if not subprocess.run([pkg_config, "--exists", name]).returncode)
    if (package := next(found, None)) is None:
        pytest.skip("OpenCV's headers are not installed")
    flags = subprocess.run([pkg_config, "--cflags", "--libs-only-L", package], capture_output=True, text=True).stdout
    libraries = [f"-l{name}" for name in LIBRARIES.split()]  # not all that pkg-config names: linking takes long
    command = [compiler, "-std=c++17", source, "-o", folder / "classify", *flags.split()]
    subprocess.run([*command, *libraries], check=True)
    return folder / "classify"
