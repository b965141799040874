"""Which devices there are, and which of them a program takes."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from glob import glob

import mindspore

from mindcv_lite.device.launcher import workers_started
from mindcv_lite.errors import UserError


def npus() -> int | None:
    """The number of NPUs that the driver shows this process; None where MindSpore cannot load what Ascend needs.

    No NPU is touched, so one that another program holds counts, too.
    """
    if not mindspore.hal.is_available("Ascend"):  # true where CANN is installed, with or without an NPU
        return None
    try:
        return mindspore.hal.device_count("Ascend")
    except RuntimeError:  # no driver, or a MindSpore that cannot count yet: then the device files tell
        return sum(os.access(path, os.R_OK | os.W_OK) for path in glob(NPU_FILES))


def available_target(wanted: str) -> tuple[str, str]:
    """The device to use, and a sentence if it takes one: `wanted`, or with `auto` Ascend where there is an NPU that
    computes, else the CPU. Raises `UserError`."""
    if wanted not in ("auto", "Ascend"):
        if not mindspore.hal.is_available(wanted):
            raise UserError(f"device_target is {wanted}, which MindSpore does not find here; {OTHER_TARGETS}")
        return wanted, ""
    found = npus()
    if found:
        # Under msrun all ranks must decide alike.
        surely = wanted == "Ascend" or workers_started(os.environ)
        usable = surely or can_compute("Ascend", chosen_npu("Ascend", os.environ))
        return ("Ascend", "") if usable else ("CPU", f"{BUSY_NPU}: taking the CPU")
    if wanted == "Ascend":
        missing = "which MindSpore does not find here" if found is None else f"but {NO_NPU}"
        raise UserError(f"device_target is Ascend, {missing}; {OTHER_TARGETS}")
    return "CPU", "" if found is None else f"{NO_NPU}: taking the CPU"


@cache
def can_compute(target: str, number: int | None) -> bool:
    """Whether a device, one of several by its number, can be taken now. A process of its own tries: one that has taken
    a device cannot leave it for another."""
    device = [target] if number is None else [target, number]
    trial = f"import mindspore; mindspore.set_device(*{device}); (mindspore.ops.ones(1) + 1).asnumpy()"
    try:
        return subprocess.run([sys.executable, "-c", trial], capture_output=True, timeout=LONGEST_TRIAL).returncode == 0
    except subprocess.TimeoutExpired:
        return False


LONGEST_TRIAL = 120  # seconds

NPU_FILES = "/dev/davinci[0-9]*"

OTHER_TARGETS = "use --device_target auto or CPU"

BUSY_NPU = "no NPU can be taken, another program may hold them (npu-smi info); --device_target Ascend says more"

NO_NPU = "MindSpore finds Ascend's software (CANN) here and no NPU that this user may take (npu-smi info lists them)"


def chosen_npu(target: str, environment: Mapping[str, str]) -> int | None:
    """The NPU that the variable DEVICE_ID names, as in MindCV; None: MindSpore's choice, and under msrun always.

    Raises `UserError` if there is no such NPU.
    """
    text = environment.get("DEVICE_ID")
    if text is None or target != "Ascend" or workers_started(environment):
        return None
    count = npus() or 0
    if not (text.isascii() and text.isdigit() and int(text) < count):
        raise UserError(f"the environment variable DEVICE_ID: expected an NPU from 0 to {count - 1}, got {text!r}")
    return int(text)
