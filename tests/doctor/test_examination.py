"""A line for each check, on whatever way it ends."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mindcv_lite.device.ranks import World
from mindcv_lite.doctor.examination import Examination, Heard
from mindcv_lite.doctor.findings import Failed, Finding, NotRun
from mindcv_lite.errors import Stopped, TrainingError, UserError
from mindcv_lite.signals import Interrupted
from tests.conftest import ROOT


def raising(error: BaseException):
    def check(heard: Heard):
        raise error

    return check


@pytest.mark.parametrize(
    ("check", "verdict", "text"),
    [
        (lambda heard: ("all right", {}), "ok", "all right"),
        (raising(NotRun("no NPU")), "not run", "no NPU"),
        (raising(Failed("wrong by 3")), "failed", "wrong by 3"),
        (raising(UserError("a.jpg: damaged")), "failed", "a.jpg: damaged"),
        (raising(TrainingError("the loss is not finite")), "failed", "the loss is not finite"),
        (raising(RuntimeError("Ascend kernel\nwith a long story")), "failed", "RuntimeError: Ascend kernel"),
    ],
)
def test_a_check_is_a_line_with_its_verdict_however_it_ends(check, verdict, text, capsys):
    examination = Examination(None)
    assert examination.run("a check", check, limit=60) == (verdict != "failed")
    line = capsys.readouterr().out
    assert re.fullmatch(rf"a check +{verdict} +{re.escape(text)}  \(\d+\.\d s\)\n", line)
    assert examination.failed == (verdict == "failed")


@pytest.mark.parametrize("stop", [Stopped(signal.SIGTERM, "stopped"), Interrupted(signal.SIGINT)])
def test_a_signal_is_no_finding(stop):
    with pytest.raises(type(stop)):
        Examination(None).run("a check", raising(stop), limit=60)


def test_a_check_hears_what_is_printed_and_with_the_time(capsys):
    def check(heard: Heard):
        print("epoch 1")
        when = heard.first_time("epoch", "1")
        assert when is not None
        assert heard.first_time("epoch 2") is None
        return f"heard {time.perf_counter() - when < 10}", {}

    Examination(None).run("a check", check, limit=60)
    assert "heard True" in capsys.readouterr().out


def test_a_check_that_failed_shows_what_it_said_last(capsys):
    def check(heard: Heard):
        print(*(f"epoch {number}" for number in range(20)), sep="\n")
        raise Failed("no loss")

    Examination(None).run("training", check, limit=60)
    lines = capsys.readouterr().out.splitlines()
    assert re.match("training +failed +no loss", lines[0])
    assert lines[1:] == [f"    epoch {number}" for number in range(14, 20)]


def test_the_json_holds_all_findings_and_their_figures(tmp_path, capsys):
    examination = Examination(tmp_path / "found.json")
    examination.add(Finding("memory", "noted", "8 GB"))
    examination.run("speed", lambda heard: ("12.5 images/s", {"images_per_second": np.float32(12.5)}), limit=60)
    examination.run("ranks", raising(NotRun("one rank")), limit=60)
    examination.close()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["counts"] == {"ok": 1, "failed": 0, "not run": 1}
    assert [finding["name"] for finding in found["findings"]] == ["memory", "speed", "ranks"]
    assert float(found["findings"][1]["figures"]["images_per_second"]) == 12.5
    assert "1 ok, 0 failed, 1 not run" in capsys.readouterr().out


def test_the_home_of_the_user_is_not_told(capsys):
    Examination(None).add(Finding("disk", "noted", f"{Path.home()}/.cache"))
    assert str(Path.home()) not in capsys.readouterr().out


def test_what_fails_on_another_rank_fails_on_all(recipe, world, capsys):
    ranks = world(recipe(), rank=0, size=2)

    class Ranks(World):
        def sum(self, numbers):
            return numbers + 1

    examination = Examination(None)
    examination.world = Ranks(**vars(ranks))
    assert not examination.run("a check", lambda heard: ("all right here", {}), limit=60)
    assert "on another rank: see its log, worker_*.log" in capsys.readouterr().out


def test_a_failure_is_said_before_the_other_ranks_are_asked(recipe, world, capsys):
    said = []

    class Ranks(World):
        def sum(self, numbers):
            said.append(capsys.readouterr().out)
            return numbers

    examination = Examination(None)
    examination.world = Ranks(**vars(world(recipe(), rank=0, size=2)))
    assert not examination.run("a check", raising(Failed("wrong by 3")), limit=60)
    assert len(said) == 1
    assert re.match(r"a check +failed +wrong by 3", said[0])
    assert capsys.readouterr().out == ""
    assert [finding.text for finding in examination.findings] == ["wrong by 3"]


def test_another_rank_says_only_what_failed_on_it(capsys, monkeypatch):
    monkeypatch.setenv("RANK_ID", "3")
    examination = Examination(None)
    examination.run("one", lambda heard: ("all right", {}), limit=60)
    examination.run("two", raising(Failed("wrong")), limit=60)
    examination.close()
    assert re.fullmatch(r"rank 3: two +failed +wrong .*\n", capsys.readouterr().out)


def program(text: str) -> subprocess.CompletedProcess[str]:
    head = """
import os, signal, time
from pathlib import Path
from mindcv_lite.doctor.examination import Examination
"""
    return subprocess.run([sys.executable, "-c", head + text], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_check_that_hangs_is_told_and_ends_the_process(tmp_path):
    left = tmp_path / "left"
    left.touch()
    done = program(f"""
examination = Examination(Path({str(tmp_path / "found.json")!r}), Path({str(left)!r}).unlink)
examination.run("queue", lambda heard: time.sleep(50), limit=0.5)
""")
    assert done.returncode == 1
    assert re.match(r"queue +failed +no answer after 0 s", done.stdout)
    assert json.loads((tmp_path / "found.json").read_text())["counts"]["failed"] == 1
    assert not left.exists()


@pytest.mark.parametrize(("size", "status"), [(1, 0), (2, 1)])
def test_one_of_several_ranks_ends_after_an_error_that_no_check_foresees(tmp_path, size, status):
    found = tmp_path / "found.json"
    done = program(f"""
from types import SimpleNamespace
examination = Examination(Path({str(found)!r}))
examination.world = SimpleNamespace(size={size}, sum=lambda numbers: time.sleep(50))  # it waits for the others
examination.run("training", lambda heard: [][1], limit=40)
""")
    assert done.returncode == status
    assert re.match(r"training +failed +IndexError: list index out of range", done.stdout)
    assert ("no more is checked" in done.stdout) == found.exists() == (size > 1)


def test_a_check_that_hangs_and_lets_no_other_thread_run_ends_too(tmp_path, capsys):
    transcript = tmp_path / "device.jsonl"
    done = program(f"""
import ctypes
from mindcv_lite.doctor import examination as module
module.GRACE = 0.5
examination = Examination(None, transcript=Path({str(transcript)!r}))
examination.run("join", lambda heard: ctypes.PyDLL(None).sleep(50), limit=0.5)
""")
    assert done.returncode == 1
    assert "Timeout (0:00:01)!" in done.stderr
    examination = Examination(None)
    examination.take_over(transcript, done.returncode)
    assert re.match("join +failed +the process ended with exit status 1 in this check", capsys.readouterr().out)


def test_a_check_that_kills_its_process_is_known_to_the_one_that_started_it(tmp_path, capsys):
    transcript = tmp_path / "device.jsonl"
    done = program(f"""
examination = Examination(None, transcript=Path({str(transcript)!r}))
examination.run("integers", lambda heard: ("as NumPy's", {{"x": 3}}), limit=60)
examination.run("network", lambda heard: os.kill(os.getpid(), signal.SIGSEGV), limit=60)
""")
    examination = Examination(None)
    examination.take_over(transcript, done.returncode)
    assert [(finding.name, finding.verdict) for finding in examination.findings] == [
        ("integers", "ok"),
        ("network", "failed"),
    ]
    assert examination.figures_of("integers")["x"] == 3
    assert "the process ended with signal SIGSEGV in this check" in capsys.readouterr().out


def test_a_process_that_did_not_even_begin_is_a_failure(tmp_path, capsys):
    examination = Examination(None)
    examination.take_over(tmp_path / "never.jsonl", 2)
    assert examination.failed == 1
    assert re.match(r"device +failed +the process ended with exit status 2", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("verdict", "status", "told"),
    [
        ("ok", 0, None),
        ("failed", 1, None),
        ("ok", -11, "it ended with signal SIGSEGV, though no check had failed"),
        ("ok", 1, "it ended with exit status 1, though no check had failed"),
    ],
)
def test_a_process_that_fails_after_its_last_check_is_a_failure(tmp_path, verdict, status, told):
    transcript = tmp_path / "device.jsonl"
    Examination(None, transcript=transcript).add(Finding("integers", verdict, "as NumPy's"))
    examination = Examination(None)
    examination.add(Finding("disk", "failed", "full"))  # of the process that started it
    examination.take_over(transcript, status)
    texts = [finding.text for finding in examination.findings if finding.name == "device process"]
    assert texts == ([told] if told else [])
