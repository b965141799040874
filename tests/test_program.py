"""Packages are looked for, and those that are missing named with what installs them."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from importlib import metadata

import pytest

from mindcv_lite.errors import UserError
from mindcv_lite.program import is_installed, lack, mindspore_version, require_packages, version_of
from mindcv_lite.signals import SIGNALS


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


@pytest.mark.parametrize(("name", "is_told"), [("mindspore", True), ("mindcv_lite.nowhere", False)])
def test_a_package_that_is_missing_is_a_sentence_and_a_module_of_ours_a_defect(name, is_told):
    program = f"from mindcv_lite.program import run_script\ndef main(): import {name}\nrun_script(main)"
    blocked = "import sys; sys.modules['mindspore'] = None\n"
    done = subprocess.run([sys.executable, "-c", blocked + program], capture_output=True, text=True, timeout=60)
    assert done.returncode == (2 if is_told else 1)
    assert done.stderr.startswith("-c: error: the package 'mindspore' is missing; ") == is_told
    assert ("Traceback" in done.stderr) != is_told


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_program_with_a_word_and_its_status(number):
    process = waiting_program(hangup=signal.SIG_DFL)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "\n-c: interrupted\n"
    assert process.returncode == 128 + number


def test_ctrl_c_stays_ctrl_c_where_a_library_takes_its_handler_and_answers_it_by_sigterm():
    take = "signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))"
    process = waiting_program(hangup=signal.SIG_DFL, first=take)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT


def test_a_program_under_nohup_does_not_hear_that_its_terminal_is_closed():
    process = waiting_program(hangup=signal.SIG_IGN)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_program_whose_terminal_is_closed_can_still_save_what_it_has(tmp_path):
    ours, terminal = pty.openpty()
    program = f"""
import pathlib, time
from mindcv_lite.program import run_script
def main():
    try:
        pathlib.Path({str(tmp_path / "ready")!r}).touch()
        time.sleep(60)
    finally:
        print("saving", flush=True)
        pathlib.Path({str(tmp_path / "saved")!r}).touch()
run_script(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: (signal.signal(signal.SIGHUP, signal.SIG_DFL), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(terminal)
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    os.close(ours)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert (tmp_path / "saved").exists()


def waiting_program(hangup: signal.Handlers, first: str = "None") -> subprocess.Popen:
    program = (
        "import os, signal, time; from mindcv_lite.program import run_script; "
        f"run_script(lambda: ({first}, print(flush=True), time.sleep(60)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    )
    assert process.stdout
    process.stdout.readline()
    return process


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
