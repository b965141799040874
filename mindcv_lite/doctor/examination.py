"""Checks one after the other: each says its line as it comes, and none may take for ever."""

import contextlib
import faulthandler
import io
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindcv_lite.doctor.findings import Failed, Finding, NotRun, Verdict
from mindcv_lite.doctor.programs import end_all
from mindcv_lite.errors import Stopped, TrainingError, UserError, first_line
from mindcv_lite.files import write_text
from mindcv_lite.signals import interruption_in

if TYPE_CHECKING:
    from mindcv_lite.device.ranks import World

Answer = tuple[str, Mapping[str, Any]]  # what was found, in one sentence, and its numbers
Check = Callable[["Heard"], Answer]  # raises `NotRun`, `Failed`, or any error of what it tries


class Heard(io.TextIOBase):
    """What a run says, with the time of each piece."""

    def __init__(self):
        self.pieces: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        self.pieces.append((time.perf_counter(), text))
        return len(text)

    def first_time(self, *parts: str) -> float | None:
        """When the first piece was said that has all these parts."""
        return next((when for when, text in self.pieces if all(part in text for part in parts)), None)

    def last_lines(self, count: int) -> list[str]:
        return "".join(text for _, text in self.pieces).splitlines()[-count:]


class Examination:
    """The findings so far. Rank 0 says them; another rank only what failed on it.

    `transcript`: a file that gets a line for each check that begins and each finding, for another process to read.
    `world`: from the check on that joins the ranks. `clean_up`: removes what the checks have written.
    """

    def __init__(
        self, json_file: Path | None, clean_up: Callable[[], None] = lambda: None, transcript: Path | None = None
    ):
        self.json_file, self.clean_up, self.transcript = json_file, clean_up, transcript
        self.rank = int(os.environ.get("RANK_ID", "0"))
        self.world: World | None = None
        self.findings: list[Finding] = []
        self.began = time.perf_counter()
        self.out = sys.stdout

    @property
    def failed(self) -> int:
        return sum(finding.verdict == "failed" for finding in self.findings)

    def figures_of(self, name: str) -> Mapping[str, Any]:
        return next((finding.figures for finding in self.findings if finding.name == name), {})

    def describe(self, environment: Iterable[Finding]) -> None:
        """Say what the machine is made of."""
        self.title(f"mindcv_lite doctor, {time.strftime('%Y-%m-%d %H:%M')}")
        for finding in environment:
            self.add(finding)
        self.title("checks")

    def title(self, text: str) -> None:
        self.say_all([f"\n{text}"])

    def say_all(self, lines: Iterable[str]) -> None:
        """Say lines that are no findings, on rank 0."""
        for line in lines if self.rank == 0 else ():
            self.say(line)

    def say(self, line: str) -> None:
        print(line if self.rank == 0 else f"rank {self.rank}: {line}", file=self.out, flush=True)

    def add(self, finding: Finding, seconds: float | None = None) -> None:
        """Say a finding, and keep it."""
        finding = replace(finding, text=_presentable(finding.text))
        if seconds is not None:
            finding = replace(finding, figures={**finding.figures, "check_seconds": round(seconds, 2)})
        self.findings.append(finding)
        self._note(asdict(finding))
        if self.rank == 0 or finding.verdict == "failed":
            took = "" if seconds is None else f"  ({seconds:.1f} s)"
            self.say(f"{finding.name:<{NAME_WIDTH}} {finding.verdict:<8} {finding.text}{took}")

    def run(self, name: str, check: Check, limit: float, verdict: Verdict = "ok") -> bool:
        """Run a check; whether it did not fail. `verdict`: if it returns an answer.

        What it prints and logs is heard by the check alone. After `limit` seconds without an answer the process ends.
        So does one of several ranks after an error that no check foresees: it may have left the others in the middle of
        a step, where they wait for it.
        """
        self._note({"begins": name})
        if self.rank == 0 and self.out.isatty():  # the check's line replaces this one
            print(f"{name} ...", end="\r", file=self.out, flush=True)
        watchdog = threading.Timer(limit, self.give_up, (name, limit))
        watchdog.daemon = True
        watchdog.start()
        # No thread of Python's can run while MindSpore keeps the interpreter for itself, as where it joins the ranks.
        faulthandler.dump_traceback_later(limit + GRACE, exit=True, file=sys.__stderr__ or 2)
        began, heard = time.perf_counter(), Heard()
        try:
            with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
                finding = found(name, verdict, lambda: check(heard))
                if failed := finding.verdict == "failed":  # said at once: the other ranks may never answer
                    self._add_with_last_lines(finding, began, heard)
                    if self._has_other_ranks and "error" in finding.figures:
                        self.say("    no more is checked: the other ranks may wait for this one within a step")
                        self._end()
                finding = self._agreed(finding)
        finally:
            watchdog.cancel()
            faulthandler.cancel_dump_traceback_later()
        if not failed:
            self._add_with_last_lines(finding, began, heard)
        return finding.verdict != "failed"

    def _add_with_last_lines(self, finding: Finding, began: float, heard: Heard) -> None:
        self.add(finding, time.perf_counter() - began)
        for line in heard.last_lines(SAID) if finding.verdict == "failed" else ():
            self.say(f"    {_presentable(line)}")

    @property
    def _has_other_ranks(self) -> bool:
        return self.world is not None and self.world.size > 1

    def _agreed(self, finding: Finding) -> Finding:
        """The same verdict on all ranks: failed if it is on one."""
        if not self.world or not self._has_other_ranks:
            return finding
        failures = int(self.world.sum(np.array([finding.verdict == "failed"], np.float64))[0])
        if failures and finding.verdict != "failed":
            where = "on another rank: see its log" if failures == 1 else f"on {failures} other ranks: see their logs"
            return replace(finding, verdict="failed", text=f"{where}, worker_*.log")
        return finding

    def give_up(self, name: str, limit: float) -> None:
        """End the process: a device that hangs answers to nothing else."""
        text = (
            f"no answer after {limit:.0f} s, so no more is checked; the logs of MindSpore and of the device may say "
            "more (under msrun scheduler.log and worker_*.log; on Ascend ~/ascend/log)"
        )
        self.add(Finding(name, "failed", text), limit)
        self._end()

    def _end(self) -> None:
        """End the process, which can go on no more."""
        end_all()
        with contextlib.suppress(UserError):
            self.close()
        self.clean_up()
        os._exit(1)

    def take_over(self, transcript: Path, status: int) -> None:
        """Keep the findings of another process, which has said them. `status`: with which it ended.

        A process that ends in a check, or after its last check without a reason among its findings, is a failure.
        """
        lines = [json.loads(line) for line in transcript.read_text().splitlines()] if transcript.exists() else []
        findings = [Finding(**line) for line in lines if "begins" not in line]
        self.findings += findings
        unanswered = lines[-1].get("begins") if lines else "device"
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        if unanswered:
            text = f"the process ended with {how} in this check, so no more is checked on the device"
            self.add(Finding(unanswered, "failed", text))
        elif status and not any(finding.verdict == "failed" for finding in findings):
            self.add(Finding("device process", "failed", f"it ended with {how}, though no check had failed"))

    def close(self) -> None:
        """Say how many there are of each verdict, and write the JSON, if it is asked for. Raises `UserError`."""
        if self.rank or self.transcript:
            return
        verdicts = Counter(finding.verdict for finding in self.findings)
        counts = {verdict: verdicts[verdict] for verdict in ("ok", "failed", "not run")}
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        self.say(f"\n{summary}; {time.perf_counter() - self.began:.0f} s")
        if self.json_file:
            content = {"counts": counts, "findings": [asdict(finding) for finding in self.findings]}
            write_text(self.json_file, json.dumps(content, indent=2, default=str) + "\n")

    def _note(self, line: dict[str, Any]) -> None:
        if self.transcript and self.rank == 0:
            with open(self.transcript, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, default=str) + "\n")


NAME_WIDTH = 36
GRACE = 10.0  # seconds
SAID = 6  # lines of what a check that failed has said before


def found(name: str, verdict: Verdict, check: Callable[[], Answer]) -> Finding:
    """What a check found. An error that no check foresees, as one of a library, is a failure whose figures name its
    class under `error`."""
    try:
        text, figures = check()
        return Finding(name, verdict, text, figures)
    except NotRun as reason:
        return Finding(name, "not run", str(reason))
    except (Failed, UserError, TrainingError) as error:
        return Finding(name, "failed", str(error))
    except Stopped:
        raise
    except Exception as error:
        if stop := interruption_in(error):
            raise stop from None
        kind = type(error).__name__
        return Finding(name, "failed", f"{kind}: {first_line(error)}", {"error": kind})


def _presentable(text: str) -> str:
    """On one line, without the path of the user's home."""
    home = str(Path.home())
    return " ".join(text.split()).replace(home, "~" if len(home) > 1 else home)
