"""Signals that come at moments at which nothing may be broken off."""

import os
import signal
import threading
import time

import pytest

from mindcv_lite.signals import Interrupted, interrupt, signals_blocked


def test_a_signal_that_another_thread_has_is_answered_after_the_block(monkeypatch):
    monkeypatch.setattr(Interrupted, "latest", None)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGALRM)]
    signal.signal(signal.SIGTERM, interrupt)
    done = threading.Event()
    threading.Thread(target=done.wait).start()  # it does not block signals
    ended = False

    def block() -> None:
        nonlocal ended
        with signals_blocked():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
            ended = True
        time.sleep(5)

    try:
        with pytest.raises(Interrupted):
            block()
    finally:
        done.set()
        for number, handler in before:
            signal.signal(number, handler)
    assert ended
