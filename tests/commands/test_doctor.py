"""The doctor command: what it says of a sound machine, of a broken one, and of a wrong command line."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mindspore
import pytest

from mindcv_lite.commands import doctor
from mindcv_lite.device.targets import BUSY_NPU
from mindcv_lite.doctor import checks, examination
from mindcv_lite.doctor.checks import check_device, common_folder
from mindcv_lite.doctor.examination import Examination
from mindcv_lite.doctor.images import CLASSES, write_images
from mindcv_lite.errors import UserError
from tests.conftest import ROOT


@pytest.fixture
def run():
    """(exit status, the lines, what is left of temporary files) of a doctor in a process of its own."""

    def run(*flags: object) -> tuple[int, list[str], list[Path]]:
        with tempfile.TemporaryDirectory() as temporary:  # not in tmp_path, which is too long for a socket's name
            command = [sys.executable, "-m", "mindcv_lite", "doctor", *map(str, flags)]
            variables = os.environ | {"TMPDIR": temporary}
            done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)
            assert "Traceback" not in done.stdout + done.stderr
            return done.returncode, done.stdout.splitlines(), list(Path(temporary).iterdir())

    return run


def verdicts(lines: list[str]) -> dict[str, str]:
    found = (re.match(r"(.+?) +(ok|failed|not run|noted) ", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def names_with(verdict: str, said: dict[str, str]) -> list[str]:
    """Of the checks, which come after what the machine is made of."""
    return [name for name in list(said)[list(said).index("device") :] if said[name] == verdict]


@pytest.mark.slow
@pytest.mark.usefixtures("three_rows")
def test_a_cpu_is_found_sound_and_what_needs_an_npu_is_not_said_to_have_run(run, tmp_path):
    flags = ("--device_target", "CPU", "--json", tmp_path / "found.json", "--profile", tmp_path / "profile")
    status, lines, left = run(*flags)
    assert (status, left) == (0, []), "\n".join(lines)
    said = verdicts(lines)
    assert said["MindSpore"] == "ok"
    first = ["device", "integers", "noise", "primitives", "network, float32"]
    fed = ["order of images, without sinking", "training without sinking", "validation of its checkpoint"]
    asked = ["resumed training", "EMA, clipping, dynamic loss scale", "accumulation", "erasing and mixing"]
    damaged = ["damaged image: error", "damaged image: replace"]
    programs = ["two starts with compile_cache", "two ranks", "a rank that dies"]
    assert names_with("ok", said) == [*first, *fed, *asked, *damaged, *programs]
    sinking = [f"{what}, sinking at {level}" for level in ("O2", "O1") for what in ("order of images", "training")]
    assert names_with("not run", said) == ["network, float16", "sums over ranks", *sinking]
    assert names_with("noted", said) == ["training", "input alone", "profile"]
    assert str(Path.home()) not in "\n".join(lines)
    assert any((tmp_path / "profile").iterdir())
    findings = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert {finding["name"]: finding["verdict"] for finding in findings} == said
    (training,) = (each for each in findings if each["name"] == "training without sinking")
    first, *_, last = training["figures"]["losses"]
    assert last < first


def test_no_npu_is_a_line_and_exit_status_1_and_leaves_nothing(run):
    status, lines, left = run("--device_target", "Ascend")
    assert (status, left) == (1, [])
    assert verdicts(lines)["device"] == "failed"
    assert any("device_target is Ascend, which MindSpore does not find here" in line for line in lines)
    assert re.match(r"\d+ ok, 1 failed, 0 not run; \d+ s", lines[-1])


def test_a_broken_plugin_is_a_line_and_no_check_is_tried_on_it(monkeypatch, tmp_path, capsys):
    def is_available(target):
        raise RuntimeError("libascend_plugin.so.2: undefined symbol: aclrtGetVersion\n- The C++ call stack")

    monkeypatch.setattr(mindspore.hal, "is_available", is_available)
    found = Examination(None)
    check_device(found, "auto", tmp_path / "work", quick=True, profile=None)
    text = "RuntimeError: libascend_plugin.so.2: undefined symbol: aclrtGetVersion"
    assert [(each.name, each.verdict, each.text) for each in found.findings] == [("device", "failed", text)]


def test_an_npu_that_another_program_holds_is_a_failure_and_the_cpu_is_not_checked_in_its_place(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(checks, "available_target", lambda wish: ("CPU", f"{BUSY_NPU}: taking the CPU"))
    monkeypatch.chdir(tmp_path)
    found = Examination(None)
    check_device(found, "auto", tmp_path / "work", quick=True, profile=None)
    text = f"{BUSY_NPU}; --device_target CPU checks the CPU"
    assert [(each.name, each.verdict, each.text) for each in found.findings] == [("device", "failed", text)]


def test_the_scheduler_of_msrun_joins_the_ranks_and_no_limit_of_a_check_ends_it(monkeypatch):
    def start(recipe):
        started.append(recipe.system.distribute)
        time.sleep(0.5)  # as long as the ranks are at work

    started = []
    monkeypatch.setattr(checks, "start_device", start)
    monkeypatch.setattr(checks, "LIMIT", 0.1)
    monkeypatch.setattr(examination, "GRACE", 0.1)
    monkeypatch.setattr(os, "_exit", lambda status: started.append("ended"))
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    monkeypatch.setenv("GLOG_v", "3")
    doctor.main(["--quick"])
    assert started == [True]


def test_two_doctors_at_once_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another doctor is at work on this machine: wait until it has ended"):
            doctor.main(["--quick"])
        monkeypatch.setenv("MS_ROLE", "MS_WORKER")
        monkeypatch.setenv("DEVICE_ID", "1")  # of several ranks on a machine the first alone asks
        with doctor.the_only_doctor():
            pass
    finally:
        os.close(folder)


def test_files_that_cannot_be_written_are_told_before_anything_is_checked(tmp_path):
    with pytest.raises(UserError, match="no such folder; give another path"):
        doctor.main(["--json", str(tmp_path / "missing/found.json")])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="no folder to write to"):
        doctor.main(["--profile", str(tmp_path / "file")])


def test_ranks_agree_on_a_folder(recipe, world):
    folder = common_folder(world(recipe()))
    assert not folder.exists()
    assert folder != common_folder(world(recipe()))


def test_images_are_written_once_by_whoever_comes_first(tmp_path):
    for _ in range(2):
        write_images(tmp_path / "images", train=4, val=3, size=(12, 10), names=2)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    count = {split: len(list((tmp_path / "images" / split).rglob("*.jpg"))) for split in ("train", "val")}
    assert count == {"train": 8, "val": 6}
    assert sorted(path.name for path in (tmp_path / "images/train").iterdir()) == sorted(CLASSES)


def test_a_terminal_that_is_closed_ends_it_as_a_signal_does(tmp_path):
    command = [sys.executable, "-m", "mindcv_lite", "doctor", "--device_target", "CPU"]
    variables = os.environ | {"TMPDIR": str(tmp_path)}
    heard = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # noqa: E731  (also where nohup started the tests)
    with subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, preexec_fn=heard
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.stdout.read()
    assert process.returncode == 128 + signal.SIGHUP
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_doctor_that_is_killed_leaves_no_process_and_no_file(tmp_path):
    command = [sys.executable, "-m", "mindcv_lite", "doctor", "--device_target", "CPU"]
    variables = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("integers"):  # then a process of its own is at work
                break
        process.kill()
        process.stdout.read()  # which has the other end of our pipe
    assert list(tmp_path.iterdir()) == []
