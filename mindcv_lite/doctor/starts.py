"""What takes programs of their own: a second start with the graphs of the first, several ranks, a rank that dies."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindcv_lite.device.targets import npus
from mindcv_lite.doctor.examination import Answer
from mindcv_lite.doctor.findings import Failed, Finding, NotRun
from mindcv_lite.doctor.programs import free_port, msrun, outcome, started
from mindcv_lite.doctor.recipes import recipe_of
from mindcv_lite.doctor.scripts import script
from mindcv_lite.doctor.trainings import BOUND, difference_of
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.results import RESULTS, read_results


def two_starts(folder: Path, target: str, limit: float) -> Answer:
    """train.py with compile_cache, twice."""
    # Where the device sinks, train.py keeps no graphs.
    keys = {"compile_cache": folder / "graphs", "dataset_sink_mode": False, "jit_level": "O1", "epoch_size": 1}
    keys["freeze"] = "backbone"  # the graph of the head alone compiles sooner
    seconds, losses, output = [], [], ""
    for number in (1, 2):
        recipe = saved(folder, f"start_{number}", target, distribute=False, **keys)
        began = time.perf_counter()
        status, output = outcome([sys.executable, script("train"), "-c", recipe], folder, limit)
        seconds.append(time.perf_counter() - began)
        if status:
            raise Failed(f"start {number} ended with exit status {status}: {_last_line(output)}")
        losses.append([result.train_loss for result in read_results(folder / f"start_{number}" / RESULTS)])
    known = re.search(r"compile_cache: (\d+) graphs of an earlier start", output)
    if not known or known[1] == "0":
        said = next((line for line in output.splitlines() if "compile_cache" in line), _last_line(output))
        raise Failed(f"the second start took no graph of the first: {said}")
    difference, bound = difference_of(*losses), 0 if target == "CPU" else BOUND
    if not difference <= bound:
        what = f"the second start, with the graphs of the first, has the loss {losses[1]}"
        raise Failed(f"{what}, {difference:.2%} from {losses[0]}; expected at most {bound:.0%}")
    text = f"{seconds[0]:.1f} s, then {seconds[1]:.1f} s with {known[1]} graphs of the first; the same loss"
    if difference:
        text = f"{text} within {difference:.2%} (at most {bound:.0%})"
    return text, {"seconds": seconds, "difference": difference}


def two_ranks(folder: Path, target: str, limit: float) -> Answer:
    """This command under msrun: equal weights, exact counts, each rank's order of images."""
    _require_devices(2, target)
    port, transcript = free_port(), folder / "ranks.jsonl"
    logs = folder / f"logs_{port}"
    words = ["-m", "mindcv_lite", "doctor", "--quick", "--device_target", target, "--within", transcript]
    status, output = outcome(msrun(2, port, logs, *words), folder, 2 * limit)  # of which each check may take `limit`
    findings = _findings_in(transcript)
    passed = [finding.name for finding in findings if finding.verdict == "ok"]
    failed = [f"{finding.name}: {finding.text}" for finding in findings if finding.verdict == "failed"]
    if status or failed:
        log = logs / "worker_0.log"
        said = _last_line(log.read_text(errors="replace") if log.exists() else output)
        raise Failed(f"msrun ended with exit status {status}: {failed[0] if failed else said}")
    if "sums over ranks" not in passed:
        raise Failed(f"msrun reports success, but two ranks added nothing up; what was ok: {passed}")
    return f"msrun with 2 ranks, --quick: {len(passed)} checks ok on both", {"ok": passed}


def _findings_in(transcript: Path) -> list[Finding]:
    """What rank 0 of another doctor found."""
    lines = transcript.read_text().splitlines() if transcript.exists() else []
    return [Finding(**line) for line in map(json.loads, lines) if "verdict" in line]


def dying_rank(folder: Path, target: str, limit: float) -> Answer:
    """One of two ranks is killed after the first epoch: all must end, and what was saved must stand."""
    _require_devices(2, target)
    port, name = free_port(), "dying"
    # More epochs than will be trained, but few enough to end soon if this process is killed; of the head alone, whose
    # graph compiles sooner.
    keys = {"epoch_size": 100, "val_while_train": False, "freeze": "backbone"}
    recipe = saved(folder, name, target, distribute=True, **keys)
    results = folder / name / RESULTS
    logs = folder / f"logs_{port}"
    words = ["env", f"MS_NODE_TIMEOUT={SILENCE}", *msrun(2, port, logs, script("train"), "-c", recipe)]
    with started(words, folder) as program:
        if not came_true(lambda: results.exists() or program.poll() is not None, limit) or program.poll() is not None:
            log = logs / "worker_0.log"
            said = _last_line(log.read_text(errors="replace")) if log.exists() else "msrun wrote no log"
            raise Failed(f"two ranks did not come through their first epoch in {limit:.0f} s: {said}")
        if not (victims := program.processes("RANK_ID=1", "MS_ROLE=MS_WORKER")):
            raise Failed("two ranks are training, but none of their processes is rank 1")
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        killed = time.perf_counter()
        if not came_true(lambda: program.poll() is not None, limit):
            raise Failed(f"{limit:.0f} s after rank 1 was killed the others are still there: they wait for it")
        seconds = time.perf_counter() - killed
        if not came_true(lambda: not program.processes("MS_ROLE=MS_WORKER"), TO_END):
            raise Failed(f"{TO_END:.0f} s after msrun ended, as rank 1 was killed, processes of other ranks are there")
    if not program.returncode:
        raise Failed("msrun reports success, though rank 1 was killed")
    epochs = len(read_results(results))
    text = f"all ended {seconds:.1f} s after rank 1 was killed; epochs whose results were kept: {epochs}"
    return text, {"seconds": seconds}


SILENCE = 10  # seconds after which MindSpore takes a rank for dead; 30 unless set
TO_END = 30.0  # seconds in which processes end that were told to


def _require_devices(count: int, target: str) -> None:
    if target == "Ascend" and (found := npus() or 0) < count:
        raise NotRun(f"this needs {count} NPUs, {found} found")


def saved(folder: Path, name: str, target: str, **keys: Any) -> Path:
    """The file of a recipe whose run goes to the folder `name`."""
    recipe: Recipe = recipe_of(
        device_target=target, data_dir=folder / "images/training", ckpt_save_dir=folder / name, **keys
    )
    path = folder / f"{name}.yaml"
    recipe.save(path)
    return path


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "nothing was said"


def came_true(condition: Callable[[], bool], limit: float) -> bool:
    """Whether the condition held within `limit` seconds."""
    end = time.monotonic() + limit
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return holds
