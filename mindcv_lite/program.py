"""How a program of this project starts and ends: its name, its command line, the packages it needs, its exit status."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from mindcv_lite.errors import Stopped, TrainingError, UserError, on_one_line
from mindcv_lite.signals import handle_signals, interrupt, interruption_in, keep_ctrl_c, leave_output

_owner: list[str] = []  # the program of ours that this process runs


def program_name() -> str:
    """How this program was started: `train.py`, the installed `mindcv-lite`, or `python -m mindcv_lite`."""
    name = Path(sys.argv[0]).name
    return "python -m mindcv_lite" if name == "__main__.py" else name


class CommandLine(argparse.ArgumentParser):
    """A parser that answers a wrong command line with one sentence instead of its usage."""

    def __init__(self, **keys: Any):
        super().__init__(prog=_owner[-1] if _owner else program_name(), **keys)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; --help lists all flags")


def owns_process() -> bool:
    """Whether this process runs a program of ours, so that its signals and its log are ours; in a notebook they are
    not."""
    return bool(_owner)


def run_script(main: Callable[[], object], program: str = "") -> None:
    """Run `main` as a program: an error of ours becomes one line and exit status 2 or 1, a signal 128 + its number."""
    program = program or program_name()
    _owner.append(program)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    keep_ctrl_c()
    handle_signals(interrupt)
    try:
        main()
    except (UserError, TrainingError) as error:
        _end(f"{program}: error: {on_one_line(str(error))}", 2 if isinstance(error, UserError) else 1)
    except Stopped as stop:
        _end(f"{program}: {on_one_line(str(stop))}", 128 + stop.number)
    except BrokenPipeError:  # who reads our output has seen enough, as `head` does
        _end("", 128 + signal.SIGPIPE)
    except OSError as error:
        where = on_one_line(str(error.filename or "standard output, or a file"))
        _end(f"{program}: error: {where}: {error.strerror or error}", 2)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("mindcv_lite"):
            raise
        advice = f"{sys.executable} may not be the Python that this project was installed for: activate its environment"
        _end(f"{program}: error: the package '{error.name}' is missing; {advice}, or pip install -e .", 2)
    except (Exception, KeyboardInterrupt) as error:
        if (stop := interruption_in(error)) is None:
            raise
        _end(f"\n{program}: interrupted", 128 + getattr(stop, "number", signal.SIGINT))


def _end(text: str, status: int) -> NoReturn:
    """Say why the program ends, as far as somebody listens, and end it."""
    try:
        sys.stdout.flush()
    except OSError:
        leave_output(sys.stdout.fileno())
    if text:
        say_on_stderr(text)
    sys.exit(status)


def say_on_stderr(text: str) -> None:
    """A line on stderr, which goes nowhere where that is a full disk or nobody reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        leave_output(sys.stderr.fileno())


def progress_bar(*arguments: Any, shown: bool = True, **keys: Any) -> Any:
    """tqdm's bar, which goes when it is done. It is shown in a terminal and in a notebook, and nowhere else."""
    in_notebook = "ipykernel" in sys.modules
    if in_notebook and is_installed("ipywidgets"):
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    keys["disable"] = not shown or (False if in_notebook else None)  # None: where stderr is no terminal
    return tqdm(*arguments, leave=False, **keys)


def is_installed(name: str) -> bool:
    """Without importing it; a folder that happens to have its name is no package."""
    package = find_spec(name)
    return package is not None and package.origin is not None


def version_of(*names: str) -> str:
    """The version of the first of these packages that is installed, without importing it; nothing if none is."""
    from importlib import metadata  # takes longer to import than a command line to answer

    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def mindspore_version() -> str:
    return version_of("mindspore", "mindspore-dev")  # wheels of a development state have a name of their own


def lack(who: str, *names: str) -> str:
    """A sentence that says which of the packages that `who` needs are missing; nothing if none is."""
    missing = [name for name in names if not is_installed(name)]
    return f"{who} needs {' and '.join(missing)}, missing here: pip install {' '.join(missing)}" if missing else ""


def require_packages(who: str, *names: str) -> None:
    """Raise `UserError` if there is a `lack`."""
    if sentence := lack(who, *names):
        raise UserError(sentence)
