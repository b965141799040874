"""The one way in which a mistake of the user ends a command: a sentence on stderr and exit status 2."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """A mistake that the user can mend. Its text says what, where, what was expected, what came, what to do."""


class TrainingError(RuntimeError):
    """A run that cannot go on, such as one whose loss is no longer finite; exit status 1."""


class Stopped(Exception):
    """A run that was asked to stop by a signal, and did so with its state saved; exit status 128 + the signal."""

    def __init__(self, number: int, text: str):
        super().__init__(text)
        self.number = number


def first_line(error: Exception) -> str:
    """What an error of a library says, without its long explanations."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class CommandLine(argparse.ArgumentParser):
    """A parser that answers a wrong command line with one sentence instead of its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; --help lists all flags")


def run_script(main: Callable[[], object], program: str = "") -> None:
    """Run `main` as a program: an error of ours becomes one line and exit status 2 or 1, Ctrl-C exit status 130."""
    program = program or Path(sys.argv[0]).name
    # Once it has compiled a graph, MindSpore answers Ctrl-C by sending its own process SIGTERM.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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
    except OSError as error:
        sys.stdout.flush()
        print(f"{program}: error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        sys.exit(130)
