"""How fast: the graph's compilation, the steps, the input alone, the device alone; and where the time goes."""

import csv
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import mindspore

from mindcv_lite.benchmark.rounds import Plan, Work, timed
from mindcv_lite.benchmark.subjects import random_batch, steps_on
from mindcv_lite.data.pipeline import TrainingBatches
from mindcv_lite.doctor.examination import Answer
from mindcv_lite.doctor.findings import Failed, NotRun
from mindcv_lite.doctor.images import write_images
from mindcv_lite.doctor.recipes import Bench
from mindcv_lite.doctor.scripts import Run, train
from mindcv_lite.text_tables import aligned
from mindcv_lite.training.loop import fit

STEPS = 20  # of an epoch
BATCH, BATCH_ON_CPU = 75, 4  # the published recipes' batch; a CPU takes a second for 40 images
MOST_EXPENSIVE = 10


class Speed:
    """The small network at 224 pixels, as the published recipe trains it; on a CPU in small batches."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.batch = BATCH if bench.has_npu else BATCH_ON_CPU
        self.run: Run | None = None
        self.operators: list[tuple[str, int, float]] = []  # of the profile, with count and milliseconds

    def trained(self) -> Answer:
        images = self.bench.images("speed")
        different = 10 * self.batch  # the others are hard links to these
        write_images(images, train=different, val=0, size=(500, 375), names=-(-STEPS * self.bench.world.size // 10))
        self.bench.world.wait_for_all()
        self.run = train(
            self.bench.recipe(
                "speed",
                data_dir=images,
                num_samples=STEPS * self.batch * self.bench.world.size,
                image_resize=224,
                batch_size=self.batch,
                epoch_size=2,
                num_classes=1000,
                val_while_train=False,
                color_jitter=0.4,
            )
        )
        watch = self.run.record.watch
        compiled = self.run.results[0].graph_compile if self.run.results else None
        figures = {
            "graph_compile": compiled,
            "ms_per_step": watch.ms_per_step,
            "images_per_second": watch.images_per_second,
            "batch": self.batch,
        }
        text = (
            f"{watch.images_per_second:.1f} images/s, {watch.ms_per_step:.1f} ms/step of {self.batch} images a rank, "
            f"graph compile {compiled or 0:.1f} s"
        )
        return text, figures

    def input_alone(self) -> Answer:
        """What the host can give, beside what the device takes: one batch again and again."""
        run = self._run()
        record = run.record
        steps, epoch = steps_on([random_batch(record.recipe)], record.step), Plan(1, 0, STEPS)
        if self.bench.sinks:  # the graph of a sinking epoch has the step within; alone it is compiled now
            timed(steps, epoch)
        step_alone = timed(steps, epoch)
        needed = self.batch / step_alone["seconds"] * STEPS  # of this rank
        given = timed(batch_sizes(record.watch.batches), Plan(1, 0, 2 * STEPS))["images_per_second"]
        watch = record.watch
        if watch.waited is None:  # nor does its speed tell: so few batches all wait in its queue when the epoch begins
            share, waiting = None, "how long the training waited is not known of a sinking device"
        else:
            share = watch.waited / watch.seconds
            waiting = f"{share:.1%} of the training was waiting"
        enough = "enough" if given > needed else "too little: docs/performance.md says how to get more"
        text = (
            f"{given:.0f} images/s a rank, the device takes {needed:.0f} ({step_alone['ms_per_step']:.1f} ms/step on "
            f"one batch): {enough}; {waiting}"
        )
        return text, {"input": given, "needed": needed, "waited_share": share}

    def profiled(self, folder: Path) -> Answer:
        """Another epoch under MindSpore's profiler. `folder`: gets a new one for this rank."""
        record = self._run().record
        recipe = record.recipe.with_keys(epoch_size=int(record.step.step.asnumpy()) // STEPS + 1)
        batches = TrainingBatches(record.watch.batches.images, recipe, record.world)
        folder /= f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_rank_{record.world.rank}"
        folder.mkdir(parents=True)
        profiler = mindspore.Profiler(output_path=str(folder))
        try:
            fit(record.step, batches, recipe, record.world, [])
        finally:
            profiler.stop()
        profiler.analyse()
        self.operators = most_expensive(folder)
        return f"{STEPS} steps, kept in {folder}", {"operators": self.operators}

    def table(self) -> Iterator[str]:
        """The operators of the profile that take longest."""
        total = sum(ms for _, _, ms in self.operators) or 1.0
        rows = [("operator", "times", "ms", "share")]
        for name, count, ms in self.operators[:MOST_EXPENSIVE]:
            rows.append((name, str(count), f"{ms:.1f}", f"{ms / total:.1%}"))
        yield from aligned(rows)

    def _run(self) -> Run:
        if not self.run:
            raise NotRun("no training came to its end")
        return self.run


def batch_sizes(batches: TrainingBatches) -> Work:
    for epoch in itertools.count():
        for images, *_ in batches.epoch(epoch):
            yield len(images)


# A profile's table of operators on each kind of device: its name, and its columns of type, count and milliseconds.
TABLES = (
    ("op_statistic*.csv", "OP Type", "Count", "Total Time(us)", 1e-3),
    ("cpu_op_type_info*.csv", "op_type", "type_occurrences", "total_compute_time", 1.0),
)


def most_expensive(folder: Path) -> list[tuple[str, int, float]]:
    """Operators of a profile with count and milliseconds, the most expensive first. Raises `Failed` without any."""
    for pattern, name, count, duration, factor in TABLES:
        rows: dict[str, tuple[int, float]] = {}
        for path in folder.rglob(pattern):
            with open(path, newline="", encoding="utf-8-sig") as file:
                for row in csv.DictReader(file):
                    before = rows.get(row[name], (0, 0.0))
                    rows[row[name]] = before[0] + int(row[count]), before[1] + float(row[duration]) * factor
        if rows:
            return sorted(((key, *row) for key, row in rows.items()), key=lambda row: -row[2])
    raise Failed(f"{folder}: no table of operators in it ({', '.join(table[0] for table in TABLES)})")
