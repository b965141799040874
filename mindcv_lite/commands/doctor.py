"""Find out whether this machine trains as it should: what it is made of, checks from integers to whole trainings on
generated images, and how fast it is. For one device, or under msrun for several:
msrun --worker_num 8 python -m mindcv_lite doctor. What it prints is made to be pasted into a bug report.

Exit status 0 if nothing failed, else 1. What was not run is no failure.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from argparse import SUPPRESS
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mindcv_lite.errors import UserError
from mindcv_lite.files import lock, require_file, require_folder
from mindcv_lite.program import CommandLine

if TYPE_CHECKING:
    from argparse import Namespace


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    if flags.json:
        require_file(flags.json)
    if flags.profile:
        require_folder(flags.profile)
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        schedule(flags.device_target)
        return
    if flags.within:
        failed = _examine(flags)
    else:
        with the_only_doctor():
            failed = _examine(flags) if "MS_ROLE" in os.environ else _supervise(flags, arguments)
    sys.exit(1 if failed else 0)


QUICK = "what the machine is made of, and the first checks: a minute on a CPU; on an NPU nobody has measured it"


def command_line() -> CommandLine:
    usage = "%(prog)s [--quick] [--device_target auto|Ascend|GPU|CPU] [--json FILE] [--profile DIR]"
    parser = CommandLine(usage=usage, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--quick", action="store_true", help=QUICK)
    targets = ("auto", "Ascend", "GPU", "CPU")
    add("--device_target", choices=targets, default="auto", help="default: auto, an NPU where there is one")
    add("--json", type=absolute, metavar="FILE", help="write all findings and figures as JSON, too")
    text = "keep MindSpore's profile of 20 steps there, and name the ten operators that take longest"
    add("--profile", type=absolute, metavar="DIR", help=text)
    # For a process of another doctor: it writes its findings to this file, and works in the folder of its name.
    add("--within", type=absolute, help=SUPPRESS)
    return parser


def absolute(text: str) -> Path:
    """The checks run in another folder."""
    return Path(text).absolute()


@contextmanager
def the_only_doctor() -> Iterator[None]:
    """Raise `UserError` if another one is at work on this machine: both would get less of its memory and its cores."""
    if "MS_ROLE" in os.environ and os.environ.get("DEVICE_ID", "0") != "0":  # the first rank of a machine sees to it
        yield
        return
    folder = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        lock(folder, wait=False)
    except BlockingIOError:
        raise UserError("another doctor is at work on this machine: wait until it has ended") from None
    try:
        yield
    finally:
        os.close(folder)


def schedule(target: str) -> None:
    """What msrun's scheduler does: no check, and for as long as the ranks are at work."""
    _hush_mindspore()
    from mindcv_lite.doctor.checks import join_as_scheduler

    join_as_scheduler(target)


def _supervise(flags: "Namespace", arguments: list[str]) -> int:
    """Check one device, in a process of its own, which may die and must let the device go; the number of failures."""
    from mindcv_lite.doctor.environment import environment
    from mindcv_lite.doctor.examination import Examination

    folder = Path(tempfile.mkdtemp(prefix="mindcv_lite-doctor-"))
    examination = Examination(flags.json, lambda: shutil.rmtree(folder, ignore_errors=True))
    try:
        examination.describe(environment())
        _hush_mindspore()
        transcript = folder / "device.jsonl"
        command = [sys.executable, "-m", "mindcv_lite", "doctor", *arguments, "--within", str(transcript)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            try:
                status = process.wait()
            finally:
                process.kill()
        examination.take_over(transcript, status)
        if not flags.quick:
            from mindcv_lite.doctor.checks import check_programs

            check_programs(examination, folder)
        examination.close()
    finally:
        examination.clean_up()
    return examination.failed


def _examine(flags: "Namespace") -> int:
    """Check the device of this process, and all ranks if msrun has started it; the number of failures."""
    from mindcv_lite.doctor.environment import environment
    from mindcv_lite.doctor.examination import Examination

    if flags.within and "MS_ROLE" not in os.environ:
        _end_with_supervisor(flags.within.parent)
    examination = Examination(flags.json, transcript=flags.within)
    folder = flags.within.with_suffix("") if flags.within else None
    try:
        if not flags.within:
            examination.describe(environment())
        _hush_mindspore()
        # MindSpore changes the environment when it is imported.
        from mindcv_lite.doctor.checks import check_device, refuse_programs

        check_device(examination, flags.device_target, folder, flags.quick, flags.profile)
        if not flags.within and not flags.quick:
            refuse_programs(examination)
        examination.close()
    finally:
        examination.clean_up()
    return examination.failed


def _hush_mindspore() -> None:
    """Let it log errors alone, unless the user asks for more."""
    os.environ.setdefault("GLOG_v", "3")


def _end_with_supervisor(folder: Path) -> None:
    """The end of the supervisor, even if it is killed, closes our input. `folder`: of its temporary files."""

    def watch() -> None:
        os.read(0, 1)
        while folder.exists():  # a check may write to it meanwhile
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
