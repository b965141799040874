"""Programs that the doctor starts: for a limited time, without traces of msrun."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired
from typing import IO

from mindcv_lite.doctor.findings import Failed

ROOT = Path(__file__).parents[2]  # where the package lies
MARK = "MINDCV_LITE_DOCTOR"  # a variable by which the processes are found that a program has started


class Program(Popen):
    mark = ""

    def processes(self, *variables: str) -> list[int]:
        """Its processes, and all that they have started, whose environment has these `NAME=value`."""
        wanted = {f"{MARK}={self.mark}", *variables}
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted <= {*(path / "environ").read_bytes().decode(errors="replace").split("\0")}:
                    found.append(int(path.name))
        return found


running: set[Program] = set()


def outcome(words: Sequence[object], folder: Path, limit: float) -> tuple[int, str]:
    """Exit status and output of a program that ran in `folder`. Raises `Failed` if it is not done after `limit` s."""
    with tempfile.TemporaryFile("w+", errors="replace") as output, started(words, folder, output) as process:
        try:
            status = process.wait(limit)
        except TimeoutExpired:
            raise Failed(f"{Path(str(words[0])).name} was not done after {limit:.0f} s: ended") from None
        output.seek(0)
        return status, output.read()


@contextlib.contextmanager
def started(words: Sequence[object], folder: Path, output: IO[str] | int = DEVNULL) -> Iterator[Program]:
    """A program that is ended with the block, with all that it has started."""
    mark = uuid.uuid4().hex
    program = Program([str(word) for word in words], cwd=folder, env=environment(mark), stdout=output, stderr=STDOUT)
    program.mark = mark
    running.add(program)
    try:
        yield program
    finally:
        end(program)


def environment(mark: str) -> dict[str, str]:
    """This process's, but not a worker's of msrun; python and this package are those that run now."""
    own = {name: value for name, value in os.environ.items() if "MS_ROLE" not in os.environ or name not in OF_MSRUN}
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", os.defpath)])
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), own.get("PYTHONPATH", "")]))
    return own | {MARK: mark}


# fmt: off
OF_MSRUN = {
    "MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_NODE_ID", "MS_NODE_TIMEOUT", "MS_TOPO_TIMEOUT",
    "RANK_ID", "RANK_SIZE", "DEVICE_ID",
}
# fmt: on


def end(program: Program) -> None:
    """End a program with all that it has started; msrun puts each worker into a session of its own."""
    program.kill()
    program.wait()
    while left := program.processes():
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    running.discard(program)


def end_all() -> None:
    for program in list(running):
        end(program)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def msrun(workers: int, port: int, logs: Path, *command: object) -> list[object]:
    """The words that start a Python command as so many ranks on this machine."""
    options = ["--worker_num", workers, "--local_worker_num", workers, "--master_port", port, "--join", "True"]
    return ["msrun", *options, "--log_dir", logs, "python", *command]
