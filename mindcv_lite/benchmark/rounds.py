"""One round of a benchmark: batches, one after the other, on the clock."""

import resource
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mindcv_lite.data.waiting import Waiting
from mindcv_lite.errors import UserError

Round = dict[str, float]  # what was measured, by the names of `report.ROWS` and more
RATIO = "ratio"  # how the first of two compares to the second
STEP, OF_A_BATCH, OF_ONE = "training step", "inference of a batch", "inference of one image"  # what is compared
Work = Generator[int, None, None]  # does a batch each time it is asked, without end, and says how many images it had


class NoNetwork(UserError):
    """Another project does not have the recipe's network."""


@dataclass(frozen=True)
class Plan:
    """How many rounds, and when one is over: after `batches`, or with the batch that comes after `seconds`."""

    rounds: int
    seconds: float
    batches: int | None


class Stopwatch:
    """Seconds, CPU seconds of all threads of this process, and its peak memory, since it was made."""

    def __init__(self):
        with suppress(OSError):  # forgets the earlier peak; a system without it reports the peak of the whole process
            Path("/proc/self/clear_refs").write_text("5")
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def round_of(self, images: int, steps: int | None = None, waited: float | None = None) -> Round:
        """The round that ends now. `waited`: seconds of it, for data."""
        seconds, cpu_seconds = self.seconds, time.process_time() - self.cpu_began
        measured = {
            "images": images,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "images_per_second": images / seconds,
            "cpu_ms_per_image": 1000 * cpu_seconds / images,
            "images_per_cpu_second": images / cpu_seconds,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if steps is not None:
            measured |= {"steps": steps, "ms_per_step": 1000 * seconds / steps}
        if waited is not None:
            measured["waited_share"] = waited / seconds
        return measured


def timed(work: Work, plan: Plan, waiting: Waiting | None = None) -> Round:
    """A round of `work`. `waiting`: where it waits for its data."""
    waited_before = waiting.seconds if waiting else 0.0
    watch, images, steps, over = Stopwatch(), 0, 0, False
    while not over:
        images += next(work)
        steps += 1
        over = steps == plan.batches if plan.batches else watch.seconds >= plan.seconds
    return watch.round_of(images, steps, waiting.seconds - waited_before if waiting else None)


def in_turn(contestants: dict[str, Callable[[], Work]], plan: Plan) -> dict[str, list[Round]]:
    """Rounds of each contestant in turn, A B, B A, A B, after one of each that does not count.

    Each begins its work anew, and ends it, so that none works ahead in the other's round; the first batch is not timed.
    Of two, how the first compares to the second comes with them, as `RATIO`.
    """
    results: dict[str, list[Round]] = {name: [] for name in contestants}
    for number in range(plan.rounds + 1):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            work = contestants[name]()
            next(work)
            measured = timed(work, plan)
            work.close()
            if number:
                results[name].append(measured)
    return results | ({RATIO: ratios(*results.values())} if len(results) == 2 else {})


def spread(rounds: list[Round], name: str) -> dict[str, float]:
    """Median, lowest and highest value of a number over the rounds."""
    values = [each[name] for each in rounds]
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def ratios(ours: list[Round], theirs: list[Round]) -> list[Round]:
    """How many times as much ours did as theirs, round by round."""
    names = ("images_per_second", "images_per_cpu_second")
    return [{name: a[name] / b[name] for name in names} for a, b in zip(ours, theirs, strict=True)]
