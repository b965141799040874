"""SIGTERM (a pre-empted machine), Ctrl-C and the like: a run stops after the running step, with its state saved."""

import logging
import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mindcv_lite.device.ranks import World
from mindcv_lite.program import owns_process
from mindcv_lite.signals import handle_signals, interrupt, leave_closed_terminal, name_of

log = logging.getLogger(__name__)


class StopRequest:
    """Whether a signal asked this process, or that of another rank, to stop."""

    def __init__(self, world: World):
        self.world = world
        self.number = 0

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Take the signals as requests; a second one ends the process at once. They stay the caller's in a process that
        runs no program of ours."""
        if not owns_process():
            yield
            return
        earlier = handle_signals(self._note)
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def of_any_rank(self) -> int:
        """The number of the signal, 0 if there was none; every rank must call it and gets the same number."""
        return int(self.world.gather(np.array([self.number])).max())

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        if number == signal.SIGPIPE and self.number:  # Ctrl-C ends who reads the log, too
            return
        if self.number:
            interrupt(number, frame)
        self.number = number
        leave_closed_terminal()
        log.info("%s: stopping after this step; once more to stop at once", name_of(number))
