"""What the doctor checks, in order."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from mindcv_lite.data.datasets.splits import training_splits
from mindcv_lite.device.context import start_device
from mindcv_lite.device.launcher import workers_started
from mindcv_lite.device.ranks import World
from mindcv_lite.device.targets import available_target
from mindcv_lite.doctor import trainings
from mindcv_lite.doctor.arithmetic import integers, logits, noise_bits, primitives
from mindcv_lite.doctor.examination import Answer, Check, Examination, Heard
from mindcv_lite.doctor.findings import Failed, Finding, NotRun
from mindcv_lite.doctor.images import write_images
from mindcv_lite.doctor.order import order_of_images
from mindcv_lite.doctor.ranks import exact_sums
from mindcv_lite.doctor.recipes import SMALL, Bench, recipe_of
from mindcv_lite.doctor.speed import Speed
from mindcv_lite.doctor.starts import dying_rank, two_ranks, two_starts
from mindcv_lite.doctor.trainings import Trainings

STEPS = 6  # of an epoch
LIMIT = 1500.0  # seconds for a check; MindCV measured 184 s for the compilation of one graph on an NPU


def check_device(examination: Examination, target: str, folder: Path | None, quick: bool, profile: Path | None) -> None:
    """All checks and figures of this process's device, with the other ranks if msrun started any.

    `folder`: where to write, the same for all ranks; None: one that the ranks agree on.
    """
    bench: Bench | None = None

    def begin(heard: Heard) -> Answer:
        nonlocal bench
        bench = start(examination, target, folder)
        settings = bench.world.settings
        figures = {"target": settings.target, "ranks": bench.world.size, "sinks": settings.sink}
        return f"{settings.target} x {bench.world.size}, {settings.workers} data workers each", figures

    check = partial(examination.run, limit=LIMIT)
    if not check("device", begin) or not bench:
        return
    check("integers", _quiet(integers))
    check("noise", _quiet(noise_bits))
    check("primitives", _quiet(primitives))
    check("network, float32", lambda heard: logits(bench.world, "O0", bench.folder))
    check("network, float16", lambda heard: logits(bench.world, "O3", bench.folder))
    check("sums over ranks", lambda heard: exact_sums(bench.world))
    ways = Trainings(bench)
    if not quick:
        check("order of images, sinking at O2", lambda heard: order(bench, "O2", sink=True))
        check("training, sinking at O2", lambda heard: ways.sinking("O2"))
    if not quick or bench.has_npu:
        check("order of images, sinking at O1", lambda heard: order(bench, "O1", sink=True))
        check("training, sinking at O1", lambda heard: ways.sinking("O1"))
    if not quick or not bench.has_npu:
        check("order of images, without sinking", lambda heard: order(bench, "O1", sink=False))
        check("training without sinking", lambda heard: ways.fed())
    check("validation of its checkpoint", lambda heard: ways.validated())
    if quick:
        return
    check("resumed training", lambda heard: ways.resumed())
    check("EMA, clipping, dynamic loss scale", lambda heard: trainings.ema_clipping_and_scale(bench))
    check("accumulation", lambda heard: trainings.accumulation(bench))
    check("erasing and mixing", lambda heard: trainings.erasing_and_mixing(bench))
    check("damaged image: error", lambda heard: trainings.damaged_image(bench, heard, "error"))
    check("damaged image: replace", lambda heard: trainings.damaged_image(bench, heard, "replace"))
    examination.title("speed: the small network, 224 x 224")
    note, speed = partial(check, verdict="noted"), Speed(bench)
    note("training", lambda heard: speed.trained())
    note("input alone", lambda heard: speed.input_alone())
    if profile and note("profile", lambda heard: speed.profiled(profile)):
        examination.say_all(speed.table())


def _quiet(check: Callable[[], Answer]) -> Check:
    return lambda heard: check()


def start(examination: Examination, target: str, folder: Path | None) -> Bench:
    """Take the device, join the other ranks, and write the images."""
    if folder:
        _work_in(folder, examination)
    _, reason = available_target(target)
    if reason:  # a training would take the CPU
        raise Failed(f"{reason.removesuffix(': taking the CPU')}; --device_target CPU checks the CPU")
    launched = workers_started(os.environ) > 0
    world = start_device(recipe_of(device_target=target, distribute=launched))
    examination.world, examination.rank = world, world.rank
    bench = Bench(world, folder or common_folder(world), launched)
    if not folder:
        _work_in(bench.folder, examination)
    for purpose in ("training", "error", "replace"):
        write_images(bench.images(purpose), train=STEPS * SMALL["batch_size"] * world.size, val=29, size=(80, 72))
    world.wait_for_all()
    return bench


def _work_in(folder: Path, examination: Examination) -> None:
    """MindSpore leaves files of its own in the working directory: let it be one that is removed in the end."""
    examination.clean_up = partial(shutil.rmtree, folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    os.chdir(folder)


def join_as_scheduler(target: str) -> None:
    """Return when the ranks have ended. No limit of a check holds here: this takes as long as all their checks."""
    start_device(recipe_of(device_target=target, distribute=True))


def common_folder(world: World) -> Path:
    """A new folder for temporary files, of the same name on all ranks."""
    number = world.sum(np.array([secrets.randbelow(2**24) if world.rank == 0 else 0], np.float64))[0]
    return Path(tempfile.gettempdir(), f"mindcv_lite-doctor-{int(number):06x}")


def order(bench: Bench, jit_level: str, sink: bool) -> Answer:
    if sink and not bench.has_npu:
        raise NotRun("no NPU: a CPU is fed batch by batch")
    recipe = bench.recipe("order", jit_level=jit_level, dataset_sink_mode=sink)
    return order_of_images(recipe, training_splits(recipe)[0], start_device(recipe))


# What takes programs of their own, on a device that no other process holds.
PROGRAMS = {
    "two starts with compile_cache": two_starts,
    "two ranks": two_ranks,
    "a rank that dies": dying_rank,
}


def check_programs(examination: Examination, folder: Path) -> None:
    """The programs, on the device that was checked before. `folder`: where to write."""
    target = examination.figures_of("device").get("target")
    if target:
        examination.title("programs")
        write_images(folder / "images/training", train=2 * STEPS * SMALL["batch_size"], val=29, size=(80, 72))
        for name, program in PROGRAMS.items():
            examination.run(name, _quiet(partial(program, folder, target, LIMIT)), 3 * LIMIT)


def refuse_programs(examination: Examination) -> None:
    for name in PROGRAMS:
        examination.add(Finding(name, "not run", "msrun started this doctor: start it without msrun for this check"))
