"""Ctrl-C, SIGTERM and the like."""

import os
import signal
import stat
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

# Ctrl-C; a machine that is taken away; a terminal that is closed; SLURM's warning before the end of a job.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
CTRL_C = signal.SIGRTMIN + 8  # what SIGINT is passed on as, in a program of ours


def keep_ctrl_c() -> None:
    """Let Ctrl-C come as `CTRL_C`, to be called before other threads start.

    MindSpore takes SIGINT's handler where it compiles a graph or starts a pipeline, and answers Ctrl-C by SIGTERM.
    Here no thread has SIGINT but one that waits for it.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # which the thread inherits
    threading.Thread(target=_pass_on_ctrl_c, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask | {signal.SIGINT})


def _pass_on_ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main
    while signal.sigwait({signal.SIGINT}):
        signal.pthread_kill(main, CTRL_C)


def name_of(number: int) -> str:
    """What a user calls a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


class Interrupted(KeyboardInterrupt):
    """A signal came before there was anything to save; exit status 128 + the signal."""

    latest: "Interrupted | None" = None  # of this process

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def handle_signals(handler: Callable[[int, types.FrameType | None], None]) -> dict[int, Any]:
    """Let `handler` have the `SIGNALS`, but not a SIGHUP that nohup has turned off. Returns the handlers of before."""
    numbers = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    return before | {CTRL_C: signal.signal(CTRL_C, lambda _, frame: handler(signal.SIGINT, frame))}


def interruption_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """The signal that a library has taken for an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def leave_closed_terminal() -> None:
    """Let output to a terminal that is gone go nowhere: each line would be an error."""
    for output in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output):
                leave_output(output)


def leave_output(descriptor: int) -> None:
    """Let what is written there go nowhere, and what is still to be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def interrupt(number: int, frame: types.FrameType | None) -> None:
    """Take a signal by an exception; but not within an import, which that may break beyond repair, and not where
    signals are blocked: soon after it."""
    if _blocks or any(
        each.f_code.co_filename.startswith("<frozen importlib") for each, _ in traceback.walk_stack(frame)
    ):
        signal.signal(signal.SIGALRM, lambda _, frame: interrupt(number, frame))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        leave_closed_terminal()
        Interrupted.latest = Interrupted(number)
        raise Interrupted.latest


def take_signals_back() -> None:
    """Let Python's handlers have the signals again: MindSpore takes Ctrl-C for itself where it compiles a graph or
    starts a pipeline. Only the main thread can. Raises `Interrupted` anew if MindSpore has lost it, as its compiler
    may: wherever that asks Python whether an object has an attribute, it takes every error for a no."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if (handler := signal.getsignal(number)) is not None:  # None: set before Python began
                signal.signal(number, handler)
        if Interrupted.latest:
            raise Interrupted.latest


def take_sigterm_for_ctrl_c() -> None:
    """Let SIGTERM raise `KeyboardInterrupt`, unless it has a handler.

    MindSpore takes Ctrl-C for itself, at moments of its own, and answers it by SIGTERM, which would end a notebook.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Signals that come in the block are answered after it, if `interrupt` does. Processes that start in it inherit the
    mask, and hear none.

    The mask alone is not enough: a thread of a library may have the signal, and Python lets the main thread answer.
    """
    _blocks.append(True)
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, CTRL_C, signal.SIGALRM))
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        _blocks.pop()


_blocks: list[bool] = []  # of `signals_blocked` that are at work
