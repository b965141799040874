"""Packages are looked for, and those that are missing named with what installs them."""

import subprocess
import sys
from importlib import metadata

import pytest

from mindcv_lite.errors import UserError
from mindcv_lite.program import is_installed, lack, mindspore_version, require_packages, version_of


def test_a_package_is_looked_for_without_importing_it(monkeypatch):
    assert is_installed("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not is_installed("matplotlib")
    program = (
        "import sys; from mindcv_lite.program import is_installed; "
        "print(is_installed('matplotlib'), 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"]


def test_all_that_are_missing_are_named():
    assert lack("--this", "pytest") == ""
    require_packages("--this", "pytest")
    with pytest.raises(UserError) as error:
        require_packages("--this", "pytest", "no_such_one", "nor_this")
    assert str(error.value) == "--this needs no_such_one and nor_this, missing here: pip install no_such_one nor_this"


def test_versions_are_told_without_an_import_also_that_of_a_development_wheel(monkeypatch):
    assert version_of("no_such_one", "pytest") == pytest.__version__
    assert version_of("no_such_one") == ""
    wheels = {"mindspore-dev": "2.6.0.dev20250323"}

    def version(name: str) -> str:
        if name not in wheels:
            raise metadata.PackageNotFoundError(name)
        return wheels[name]

    monkeypatch.setattr(metadata, "version", version)
    assert mindspore_version() == "2.6.0.dev20250323"
