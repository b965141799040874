"""A signal is a request, the second one an order, and afterwards the handlers are those of before."""

import ctypes
import signal
from contextlib import suppress

import numpy as np
import pytest

from mindcv_lite import program
from mindcv_lite.device.ranks import World
from mindcv_lite.signals import SIGNALS, Interrupted, interrupt, name_of, take_signals_back
from mindcv_lite.training.graceful_stop import StopRequest


@pytest.fixture(autouse=True)
def default_handlers(monkeypatch):
    """Whatever a test does, the test run's own Ctrl-C works afterwards, and no signal of it comes again."""
    monkeypatch.setattr(Interrupted, "latest", None)
    monkeypatch.setattr(program, "_owner", ["train.py"])
    before = [signal.getsignal(number) for number in SIGNALS]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def alone(recipe, world) -> World:
    return world(recipe())


class RankOfThree(World):
    """Rank 1 beside ranks that hold numbers of their own."""

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        return numbers + np.array([[0], [0], [signal.SIGTERM]])


def test_the_signals_of_a_process_that_runs_no_program_of_ours_stay_as_they_are(alone, monkeypatch):
    monkeypatch.setattr(program, "_owner", [])
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest(alone).listen():
        assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_said(alone, log, number):
    stop = StopRequest(alone)
    with stop.listen():
        assert stop.of_any_rank() == 0
        signal.raise_signal(number)
        assert stop.of_any_rank() == stop.number == number
    assert f"{name_of(number)}: stopping after this step; once more to stop at once" in log.text


def test_a_log_that_nobody_reads_after_ctrl_c_is_no_second_signal(alone):
    stop = StopRequest(alone)
    with stop.listen():
        signal.raise_signal(signal.SIGINT)
        handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        handler(signal.SIGPIPE, None)  # as the log does
        assert stop.of_any_rank() == signal.SIGINT


@pytest.mark.parametrize(("first", "second"), [SIGNALS[:2], SIGNALS[1::-1], SIGNALS[:1] * 2, SIGNALS[2:]])
def test_a_second_signal_stops_at_once(alone, first, second):
    with StopRequest(alone).listen():
        signal.raise_signal(first)
        with pytest.raises(Interrupted) as stopped:
            signal.raise_signal(second)
    assert stopped.value.number == second


def test_the_earlier_handlers_come_back_also_after_an_error(alone):
    handlers = [lambda *arguments: None for _ in SIGNALS]
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    with suppress(ZeroDivisionError), StopRequest(alone).listen():
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_signals_that_another_took_are_taken_back(alone):
    stop = StopRequest(alone)
    with stop.listen():
        ctypes.CDLL(None).signal(signal.SIGINT, signal.SIG_IGN)  # behind Python's back, as MindSpore's compiler does
        take_signals_back()
        signal.raise_signal(signal.SIGINT)
        assert stop.of_any_rank() == signal.SIGINT


def test_an_interruption_that_a_library_has_lost_comes_again():
    take_signals_back()  # there is nothing to come again
    with suppress(Interrupted):
        interrupt(signal.SIGTERM, None)
    with pytest.raises(Interrupted) as again:
        take_signals_back()
    assert again.value.number == signal.SIGTERM


def test_a_signal_to_another_rank_stops_this_one(alone):
    stop = StopRequest(RankOfThree(1, 3, alone.settings))
    assert (stop.number, stop.of_any_rank()) == (0, signal.SIGTERM)
