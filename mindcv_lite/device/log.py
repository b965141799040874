"""The log of training and validation: lines with their time on standard output, said by rank 0."""

import logging
import signal
import sys

from mindcv_lite.errors import on_one_line
from mindcv_lite.program import owns_process, say_on_stderr
from mindcv_lite.signals import leave_output


def hold_log() -> None:
    """Keep the lines of this program's log until its device is started."""
    if not owns_process():
        return
    package = logging.getLogger("mindcv_lite")
    package.handlers = [_Held()]
    package.propagate = False
    package.setLevel(logging.INFO)


def start_log(rank: int) -> None:
    """Say the lines of the log from now on, and those that were held; but of other ranks than 0 errors alone."""
    handler = _Lines()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    package = logging.getLogger("mindcv_lite")
    held = [record for each in package.handlers if isinstance(each, _Held) for record in each.records]
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.ERROR if rank else logging.INFO)
    for record in held:
        if package.isEnabledFor(record.levelno):
            package.handle(record)


class _Held(logging.Handler):
    """Keeps the lines of the log until the device is started, where it is decided which rank says them. An error that
    comes before is the only thing that is said."""

    def __init__(self):
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _Lines(logging.Handler):
    """Lines on stdout that leave a progress bar whole. A full disk costs the log and no training; where nobody reads
    any more, as after `head`, the program ends as by a signal: a run with its state saved."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # takes longer to import than a command line to answer

        try:
            tqdm.write(on_one_line(self.format(record)), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            leave_output(sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                answer = signal.getsignal(signal.SIGTERM)
                assert callable(answer), "a program of ours answers the signals"
                answer(signal.SIGPIPE, None)
            else:
                say_on_stderr(f"standard output: {error.strerror}: going on without the log")
