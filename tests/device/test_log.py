"""Which lines of the log are said, when, and what happens where they cannot be."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture
def program(tmp_path) -> tuple[str, Path]:
    script = tmp_path / "program.py"
    script.write_text(f"""
import logging, sys; sys.path[0] = {str(ROOT)!r}
from mindcv_lite.device.log import hold_log, start_log
from mindcv_lite.program import run_script
def main():
    log = logging.getLogger("mindcv_lite.test")
    hold_log()
    log.info("a\\tbefore")
    log.error("an error before")
    start_log(int(sys.argv[1]))
    log.info("after")
    try:
        print("the end", file=sys.stderr, flush=True)
    except OSError:
        pass
run_script(main)
""")
    return sys.executable, script


@pytest.mark.parametrize(("rank", "said"), [(0, ["a\\tbefore", "an error before", "after"]), (1, ["an error before"])])
def test_lines_from_before_the_device_was_started_are_said_then_by_the_rank_that_speaks(program, rank, said):
    done = subprocess.run([*program, str(rank)], capture_output=True, text=True, timeout=60)
    assert [line.split(" ", 2)[2] for line in done.stdout.splitlines()] == said
    assert done.stderr == "the end\n"


def test_where_nobody_reads_the_log_any_more_the_program_ends(program):
    reader, unread = os.pipe()
    os.close(reader)
    done = subprocess.run([*program, "0"], stdout=unread, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(unread)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "\nprogram.py: interrupted\n")


def test_where_nothing_can_be_said_at_all_the_program_goes_on(program):
    with open("/dev/full", "w") as full:
        assert subprocess.run([*program, "0"], stdout=full, stderr=full, timeout=60).returncode == 0


def test_where_nobody_reads_anything_any_more_the_status_is_that_of_a_broken_pipe(program):
    reader, unread = os.pipe()
    os.close(reader)
    done = subprocess.run([*program, "0"], stdout=unread, stderr=unread, timeout=60)
    os.close(unread)
    assert done.returncode == 128 + signal.SIGPIPE


def test_where_the_log_finds_no_room_the_program_goes_on(program):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*program, "0"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    sentence = "standard output: No space left on device: going on without the log"
    assert (done.returncode, done.stderr) == (0, f"{sentence}\nthe end\n")
