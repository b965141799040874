"""How many processors this process may use at a time."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_quota(cgroup: Path = CGROUP) -> float | None:
    """How many processors' time the container may take; None if there is no limit. cgroup v2, else v1."""

    def read(name: str) -> str:
        try:
            return (cgroup / name).read_text()
        except OSError:
            return ""

    v1 = (read(f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    quota, period, *_ = (*(read("cpu.max") or " ".join(v1)).split(), "", "")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def processors_here(ranks: int = 1) -> tuple[int, str]:
    """Those that this process may use, which is one of so many `ranks` in its container, and why they are no more."""
    return usable_processors(len(os.sched_getaffinity(0)), os.environ, ranks)


def usable_processors(
    affinity: int, environment: Mapping[str, str], ranks: int = 1, cgroup: Path = CGROUP
) -> tuple[int, str]:
    """The number, and why it is no more: the fewest of `affinity` (the processors that this process is bound to), its
    share of the container's time, of which so many `ranks` take theirs, and OMP_NUM_THREADS.

    Not msrun's OMP_NUM_THREADS: MindSpore sets it to 1 wherever it is imported, and what is started then inherits it.
    """
    limits = [(affinity, "those that this process is bound to")]
    if quota := cpu_quota(cgroup):
        limits.append((math.ceil(quota / ranks), f"the container's time is that of {quota:g}"))
    threads = "" if "MS_ROLE" in environment else environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if threads.isdecimal() and int(threads):
        limits.append((int(threads), f"OMP_NUM_THREADS is {threads}"))
    return min(limits, key=lambda limit: limit[0])
