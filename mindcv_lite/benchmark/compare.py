"""Ours beside other projects' in turn: the training step, inference, and a whole training from start to end."""

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindcv_lite.benchmark.rounds import OF_A_BATCH, OF_ONE, STEP, NoNetwork, Plan, Round, Work, timed
from mindcv_lite.data.datasets.splits import training_splits, with_num_classes
from mindcv_lite.errors import TrainingError
from mindcv_lite.processes import in_processes
from mindcv_lite.program import is_installed
from mindcv_lite.recipe.keys import Recipe

log = logging.getLogger(__name__)

WHOLE = "training from start to end"
Results = dict[str, dict[str, list[Round]]]  # of each subject, by the names of the contestants


class Contestant(NamedTuple):
    """`works`: endless work on each subject, for a recipe, normalised images and labels."""

    name: str
    packages: Sequence[str]  # that it needs beside ours
    works: Callable[[Recipe, np.ndarray, np.ndarray], dict[str, Work]]

    @property
    def missing(self) -> list[str]:
        return [name for name in self.packages if not is_installed(name)]


def _ours(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> dict[str, Work]:
    """By what train.py and predict compute with. They take uint8 images, which they normalise, so these do, too."""
    from mindspore import Tensor

    from mindcv_lite.benchmark.subjects import build_step, random_batch, steps_on
    from mindcv_lite.device.context import start_device
    from mindcv_lite.evaluation.score import Inference
    from mindcv_lite.models.build import evaluation_network

    world, batch = start_device(recipe), random_batch(recipe)
    step = build_step(recipe, world, recipe.optimizer.gradient_accumulation_steps)
    network = evaluation_network(recipe.model, world)

    def inference(images: Tensor) -> Work:
        cell = Inference(network, recipe.augmentation, world.cpu_kernels).set_train(False)
        while True:
            cell(images).asnumpy()
            yield len(images)

    return {STEP: steps_on([batch], step), OF_A_BATCH: inference(batch[0]), OF_ONE: inference(batch[0][:1])}


def _mindcv(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> dict[str, Work]:
    from mindcv_lite.benchmark.mindcv import works
    from mindcv_lite.device.context import start_device

    start_device(recipe)
    return works(recipe, images, labels)


def _pytorch(channels_last: bool, recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> dict[str, Work]:
    from mindcv_lite.benchmark.pytorch import works

    return works(recipe, images, labels, channels_last)


def _onnxruntime(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> dict[str, Work]:
    """On the file that `export` writes of our network."""
    from mindcv_lite.checkpoints.trained import Trained
    from mindcv_lite.checkpoints.weights import Weights
    from mindcv_lite.export.exporter import metadata_of
    from mindcv_lite.export.onnx_files import onnx_file, open_onnxruntime
    from mindcv_lite.models.build import build_network
    from mindcv_lite.models.onnx_graph import network_graph

    parameters = build_network(recipe.model, "O0").parameters_dict()
    weights = {name: parameter.asnumpy() for name, parameter in parameters.items()}
    class_names = tuple(map(str, range(recipe.model.num_classes or 0)))
    metadata = metadata_of(Trained(Weights("random weights", parameters, None), recipe, class_names))
    predict = open_onnxruntime(onnx_file(network_graph(recipe, weights, False, False), images, metadata))

    def inference(images: np.ndarray) -> Work:
        while True:
            predict(images)
            yield len(images)

    return {OF_A_BATCH: inference(images), OF_ONE: inference(images[:1])}


OURS, LAST = "mindcv_lite", "PyTorch channels_last"
CONTESTANTS = (
    Contestant(OURS, (), _ours),
    Contestant("PyTorch", ("torch", "timm"), partial(_pytorch, False)),
    Contestant(LAST, ("torch", "timm"), partial(_pytorch, True)),
    Contestant("onnxruntime", ("onnx", "onnxruntime"), _onnxruntime),
    Contestant("MindCV", ("mindcv",), _mindcv),
)


def compare(recipe: Recipe, plan: Plan) -> Results:
    """Rounds of all contestants that are installed, in turn; with images also of a whole training.

    A round of a contestant is a process of its own, so that none has the threads or the memory of another.
    """
    contestants = []
    for each in CONTESTANTS:
        if each.missing:
            log.info("%s is left out, because %s is not installed", each.name, " and ".join(each.missing))
        else:
            contestants.append(each)
    if recipe.data.has_images:
        recipe = with_num_classes(recipe, training_splits(recipe)[0].class_names)
    results: Results = {subject: {} for subject in (STEP, OF_A_BATCH, OF_ONE, WHOLE)}
    for number in range(plan.rounds):
        for each in contestants[:: -1 if number % 2 else 1]:
            log.info("round %d of %d: %s", number + 1, plan.rounds, each.name)
            try:
                with in_processes(rounds_here, [(each.name, recipe, plan)], "measures", or_threads=False) as tasks:
                    measured = tasks[0].result()
            except NoNetwork as error:
                log.info("%s is left out: %s", each.name, error)
                contestants.remove(each)
                continue
            for subject, of_subject in measured.items():
                results[subject].setdefault(each.name, []).append(of_subject)
        if recipe.data.has_images:
            log.info("round %d of %d: whole trainings", number + 1, plan.rounds)
            for name, measured in _whole_trainings(recipe, LAST in [each.name for each in contestants]):
                results[WHOLE].setdefault(name, []).append(measured)
    return {subject: _beside_ours(rounds) for subject, rounds in results.items() if rounds}


def rounds_here(task: tuple[str, Recipe, Plan]) -> dict[str, Round]:
    """A round of each subject, after one that does not count."""
    name, recipe, plan = task
    logging.disable(logging.INFO)  # the same lines in every round
    random, batch = np.random.default_rng(recipe.system.seed), recipe.data.batch_size
    shape = batch, recipe.model.in_channels, *recipe.augmentation.input_size
    labels = random.integers(0, recipe.model.num_classes or 1, batch, np.int32)
    (works,) = (each.works for each in CONTESTANTS if each.name == name)
    measured = {}
    for subject, work in works(recipe, random.standard_normal(shape, np.float32), labels).items():
        _, measured[subject] = timed(work, plan), timed(work, plan)
        work.close()
    return measured


def _beside_ours(rounds: dict[str, list[Round]]) -> dict[str, list[Round]]:
    """With the time of each contestant beside that of ours in the same turn."""
    ours, *others = rounds.values()
    for each in others:
        for our_round, their_round in zip(ours, each, strict=True):
            their_round["times_ours"] = _seconds_each(their_round) / _seconds_each(our_round)
    return rounds


def _seconds_each(measured: Round) -> float:
    return measured["seconds"] / measured.get("images", 1)


def _whole_trainings(recipe: Recipe, with_pytorch: bool) -> Iterator[tuple[str, Round]]:
    """Ours with an empty compile cache and with the graphs of that, and timm's network by timm's loader."""
    with tempfile.TemporaryDirectory() as folder:
        keys = {"ckpt_save_dir": folder, "compile_cache": f"{folder}/graphs", "distribute": False}
        recipe.with_keys(**keys).save(Path(folder, "recipe.yaml"))
        words = ["train", "--config", f"{folder}/recipe.yaml"]
        for start in ("first start", "next start"):
            yield f"{OURS}, {start}", timed_program("mindcv_lite", *words)
        if with_pytorch:
            yield LAST, timed_program("mindcv_lite.benchmark.pytorch", f"{folder}/recipe.yaml")


def timed_program(*words: str) -> Round:
    """How long `python -m` these words takes, and the peak memory of that process, without those it starts."""
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        command = [sys.executable, "-m", *words]
        # `env`: without what MindSpore has set for itself.
        program = subprocess.Popen(command, env=os.environ, stdout=output, stderr=subprocess.STDOUT)
        try:
            while program.poll() is None:
                peak = max(peak, _peak_memory(program.pid))
                time.sleep(0.02)
        finally:
            program.kill()
        seconds = time.perf_counter() - began
        if program.returncode:
            output.seek(0)
            last = (output.read().splitlines() or ["nothing was said"])[-1]
            raise TrainingError(f"{' '.join(words)}: {last}")
    return {"seconds": seconds, "program_seconds": seconds, "peak_memory_mb": peak / 1024}


def _peak_memory(process: int) -> int:
    """In KiB, so far; 0 where the process has ended, or the system does not say. (What the system says when a process
    has ended is no less than the memory of the process that started it.)"""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
