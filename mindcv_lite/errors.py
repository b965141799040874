"""The one way in which a mistake of the user ends a command: a sentence on stderr and exit status 2."""

import argparse
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class UserError(Exception):
    """A mistake that the user can mend. Its text says what, where, what was expected, what came, what to do."""


class TrainingError(RuntimeError):
    """A run that cannot go on, such as one whose loss is no longer finite; exit status 1."""


class Stopped(Exception):
    """A program that a signal stopped: with its state saved, or in one of its processes; status 128 + the signal."""

    def __init__(self, number: int, text: str):
        super().__init__(text)
        self.number = number


def first_line(error: Exception) -> str:
    """What an error of a library says, without its long explanations: MindSpore may mark the line that tells."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [line.removeprefix("[ERROR] ") for line in lines if line.startswith("[ERROR]")]
    return (marked or lines or [type(error).__name__])[0]


def program_name() -> str:
    """How this program was started: `train.py`, the installed `mindcv-lite`, or `python -m mindcv_lite`."""
    name = Path(sys.argv[0]).name
    return "python -m mindcv_lite" if name == "__main__.py" else name


class CommandLine(argparse.ArgumentParser):
    """A parser that answers a wrong command line with one sentence instead of its usage."""

    def __init__(self, **keys: Any):
        super().__init__(prog=program_name(), **keys)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; --help lists all flags")


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM before there was anything to save; exit status 128 + the signal."""

    latest: "Interrupted | None" = None  # of this process

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def interruption_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """The signal that a library has taken for an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def interrupt(number: int, frame: types.FrameType | None) -> None:
    """Take a signal by an exception; but not within an import, which that may break beyond repair: soon after it."""
    if any(each.f_code.co_filename.startswith("<frozen importlib") for each, _ in traceback.walk_stack(frame)):
        signal.signal(signal.SIGALRM, lambda _, frame: interrupt(number, frame))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        Interrupted.latest = Interrupted(number)
        raise Interrupted.latest


def take_signals_back() -> None:
    """Let Python's handlers have the signals again: MindSpore takes Ctrl-C for itself where it compiles a graph or
    starts a pipeline. Only the main thread can. Raises `Interrupted` anew if MindSpore has lost it, as its compiler
    may: wherever that asks Python whether an object has an attribute, it takes every error for a no."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.getsignal(number))
        if Interrupted.latest:
            raise Interrupted.latest


def run_script(main: Callable[[], object], program: str = "") -> None:
    """Run `main` as a program: an error of ours becomes one line and exit status 2 or 1, a signal 128 + its number."""
    program = program or program_name()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        main()
    except (UserError, TrainingError) as error:
        sys.stdout.flush()
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except Stopped as stop:
        sys.stdout.flush()
        print(f"{program}: {stop}", file=sys.stderr)
        sys.exit(128 + stop.number)
    except BrokenPipeError:  # who reads our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed at the end
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        sys.stdout.flush()
        print(f"{program}: error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except (Exception, KeyboardInterrupt) as error:
        if (stop := interruption_in(error)) is None:
            raise
        print(f"\n{program}: interrupted", file=sys.stderr)
        sys.exit(128 + getattr(stop, "number", signal.SIGINT))
