"""Whether msrun started this process, and how many beside it; known without MindSpore."""

import os
import shlex
import sys
from collections.abc import Mapping

from mindcv_lite.errors import UserError
from mindcv_lite.program import owns_process


def workers_started(environment: Mapping[str, str]) -> int:
    """The number of workers of this run that msrun started; 0 if it did not start this process."""
    return int(environment.get("MS_WORKER_NUM", "0")) if "MS_ROLE" in environment else 0


def require_launcher(distribute: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `UserError` unless `distribute` fits how the program was started."""
    workers, command = workers_started(environment), f"python {shlex.join(sys.argv)}"
    if distribute and not workers and not owns_process():
        raise UserError("distribute is True, but this process was not started by msrun; pass distribute=False")
    if distribute and not workers:
        raise UserError(
            "distribute is True, but this process was not started by msrun; for one device: "
            f"{command} --distribute False; for 8: msrun --bind_core=True --worker_num 8 {command}"
        )
    if not distribute and workers > 1:
        raise UserError(
            f"distribute is False, but msrun started {workers} processes that would all write the same files; "
            "add --distribute True, or start without msrun"
        )
