"""Processes that work for this one."""

import multiprocessing
import os

from mindcv_lite.processes import in_processes


def test_processes_do_not_inherit_what_mindspore_has_set_for_itself(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    os.putenv("OMP_NUM_THREADS", "1")  # as MindSpore does, behind the back of os.environ
    with in_processes(os.getenv, ["OMP_NUM_THREADS"], "looks") as tasks:
        assert tasks[0].result() is None


def test_there_are_no_more_processes_than_the_user_allows(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with in_processes(abs, [-2, 3, -4], "counts") as tasks:
        assert len(multiprocessing.active_children()) == 1
        assert [task.result() for task in tasks] == [2, 3, 4]


def test_processes_inherit_what_the_user_has_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with in_processes(os.getenv, ["OMP_NUM_THREADS"], "looks") as tasks:
        assert tasks[0].result() == "2"
