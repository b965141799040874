"""Programs that the doctor starts: what it makes of their ends, and that it leaves none behind."""

import sys
import time

import pytest

from mindcv_lite.doctor import programs, starts
from mindcv_lite.doctor.findings import Failed, NotRun
from mindcv_lite.doctor.programs import outcome, started
from mindcv_lite.doctor.starts import dying_rank, two_ranks, two_starts
from mindcv_lite.runs.results import RESULTS


def test_a_program_runs_without_traces_of_msrun_and_with_this_python(tmp_path, monkeypatch):
    for name in ("MS_ROLE", "MS_SCHED_PORT", "RANK_ID"):
        monkeypatch.setenv(name, "1")
    program = "import os, mindcv_lite; print({'MS_ROLE', 'MS_SCHED_PORT', 'RANK_ID'} & {*os.environ})"
    assert outcome(["python", "-c", program], tmp_path, 60) == (0, "set()\n")
    assert outcome(["python", "-c", "raise SystemExit(3)"], tmp_path, 60) == (3, "")


def test_a_program_that_takes_too_long_is_ended_with_all_that_it_has_started(tmp_path):
    program = "import os, subprocess, time; subprocess.Popen(['sleep', '50'], preexec_fn=os.setsid); time.sleep(50)"
    began = time.monotonic()
    with pytest.raises(Failed, match="was not done after 1 s: ended"):
        outcome([sys.executable, "-c", program], tmp_path, 1)
    assert time.monotonic() - began < 20
    assert not programs.running


def test_what_a_program_has_started_is_found_by_its_environment(tmp_path):
    program = "import subprocess; subprocess.run(['sleep', '50'], env={**__import__('os').environ, 'RANK_ID': '1'})"
    with started([sys.executable, "-c", program], tmp_path) as process:
        assert starts.came_true(lambda: len(process.processes("RANK_ID=1")) == 1, 20)
        assert len(process.processes()) == 2
    assert process.processes() == []


@pytest.fixture
def train_py(tmp_path, monkeypatch):
    """A program in the place of train.py; `recipe` is the file it is given."""

    def write(text: str) -> None:
        path = tmp_path / "train.py"
        head = "import os, signal, subprocess, sys, time\nfrom pathlib import Path\nrecipe = Path(sys.argv[2])\n"
        path.write_text(head + text)
        monkeypatch.setattr(starts, "script", lambda name: path)

    return write


LOSS = f"""
from mindcv_lite.runs.results import EpochResult, append_result
folder = recipe.with_suffix("")
folder.mkdir()
append_result(folder / "{RESULTS}", EpochResult(1, 6, LOSS, None, None, None, 0.02, 100.0, None, 1.0))
print("compile_cache: GRAPHS graphs of an earlier start")
"""


def test_a_second_start_takes_the_graphs_of_the_first(tmp_path, train_py):
    train_py(LOSS.replace("LOSS", "1.1").replace("GRAPHS", "3"))
    text, _ = two_starts(tmp_path, "CPU", 60)
    assert text.endswith("with 3 graphs of the first; the same loss")


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (LOSS.replace("LOSS", "1.1").replace("GRAPHS", "0"), "the second start took no graph of the first"),
        (LOSS.replace("LOSS", "1.1 if 'start_1' in str(recipe) else 1.2").replace("GRAPHS", "3"), r"loss \[1.2\]"),
        ("print('no memory'); sys.exit(1)", "start 1 ended with exit status 1: no memory"),
    ],
)
def test_a_second_start_that_is_not_as_the_first_is_told(tmp_path, train_py, program, told):
    train_py(program)
    with pytest.raises(Failed, match=told):
        two_starts(tmp_path, "CPU", 60)


def test_an_accelerator_may_add_in_another_order(tmp_path, train_py):
    train_py(LOSS.replace("LOSS", "1.1 if 'start_1' in str(recipe) else 1.101").replace("GRAPHS", "3"))
    assert two_starts(tmp_path, "Ascend", 60)[0].endswith("the same loss within 0.09% (at most 2%)")


RANKS = f"""
from mindcv_lite.runs.results import EpochResult, append_result
folder = recipe.with_suffix("")
folder.mkdir()
rank = subprocess.Popen(["sleep", "50"], env=dict(os.environ, RANK_ID="1", MS_ROLE="MS_WORKER"))
append_result(folder / "{RESULTS}", EpochResult(1, 6, 1.1, None, None, None, 0.02, 100.0, None, 1.0))
rank.wait()
"""


@pytest.mark.parametrize(
    ("at_the_end", "told"),
    [
        ("sys.exit(1)", None),
        ("sys.exit(0)", "msrun reports success, though rank 1 was killed"),
        ("time.sleep(50)", "2 s after rank 1 was killed the others are still there"),
    ],
)
def test_a_dead_rank_must_end_the_run(tmp_path, train_py, monkeypatch, at_the_end, told):
    monkeypatch.setattr(starts, "msrun", lambda workers, port, logs, *command: ["python", *command])
    train_py(RANKS + at_the_end)
    if told:
        with pytest.raises(Failed, match=told):
            dying_rank(tmp_path, "CPU", 2 if "sleep" in at_the_end else 30)
    else:
        assert dying_rank(tmp_path, "CPU", 30)[0].endswith("epochs whose results were kept: 1")
    assert not programs.running


def test_ranks_that_do_not_start_are_told_by_the_last_that_they_said(tmp_path, train_py, monkeypatch):
    def msrun(workers, port, logs, *command):
        logs.mkdir()
        (logs / "worker_0.log").write_text("cannot join the other ranks\n")
        return ["python", *command]

    monkeypatch.setattr(starts, "msrun", msrun)
    train_py("sys.exit(1)")
    with pytest.raises(Failed, match="did not come through their first epoch in 30 s: cannot join the other ranks"):
        dying_rank(tmp_path, "CPU", 30)


TWO_RANKS = """
import json, sys
from pathlib import Path
FINDINGS = {findings}
transcript = Path(sys.argv[sys.argv.index("--within") + 1])
lines = []
for name, verdict in FINDINGS.items():
    lines += [json.dumps({{"begins": name}}), json.dumps({{"name": name, "verdict": verdict, "text": "seen"}})]
transcript.write_text("\\n".join(lines))
print("the last line")
sys.exit({status})
"""


@pytest.mark.parametrize(
    ("findings", "status", "told"),
    [
        ({"device": "ok", "network, float16": "not run", "sums over ranks": "ok"}, 0, None),
        ({"device": "ok", "sums over ranks": "failed"}, 1, "exit status 1: sums over ranks: seen"),
        ({"device": "ok"}, 1, "exit status 1: the last line"),
        ({"device": "ok", "sums over ranks": "not run"}, 0, r"added nothing up; what was ok: \['device'\]"),
        ({}, 0, "added nothing up"),
    ],
)
def test_two_ranks_are_judged_by_what_the_first_found(tmp_path, monkeypatch, findings, status, told):
    program = TWO_RANKS.format(findings=findings, status=status)
    monkeypatch.setattr(starts, "msrun", lambda workers, port, logs, *words: [sys.executable, "-c", program, *words])
    if told:
        with pytest.raises(Failed, match=told):
            two_ranks(tmp_path, "CPU", 30)
    else:
        text, figures = two_ranks(tmp_path, "CPU", 30)
        assert text == "msrun with 2 ranks, --quick: 2 checks ok on both"
        assert figures == {"ok": ["device", "sums over ranks"]}


def test_two_ranks_need_two_npus(tmp_path, monkeypatch):
    monkeypatch.setattr("mindcv_lite.doctor.starts.npus", lambda: 1)
    for check in (two_ranks, dying_rank):
        with pytest.raises(NotRun, match="this needs 2 NPUs, 1 found"):
            check(tmp_path, "Ascend", 1)
