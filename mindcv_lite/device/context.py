"""Start a program on its device: MindSpore's context, the other ranks, the log, kept graphs."""

import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import mindspore
import mindspore.dataset
import numpy as np
from mindspore import Tensor, communication

from mindcv_lite.cpu_kernels.compilation import compiled_library, instruction_set, use_processors
from mindcv_lite.device.compile_cache import KeptGraphs, key_of
from mindcv_lite.device.launcher import workers_started
from mindcv_lite.device.log import start_log
from mindcv_lite.device.memory import give_back_large_pieces
from mindcv_lite.device.ranks import AllReduce, World
from mindcv_lite.device.settings import Settings, evaluation_level, settings_for
from mindcv_lite.device.targets import available_target, chosen_npu
from mindcv_lite.device.versions import numpy_fault, tested_range, was_run_on
from mindcv_lite.errors import UserError, first_line
from mindcv_lite.files import cache_folder
from mindcv_lite.processors import processors_here
from mindcv_lite.program import owns_process
from mindcv_lite.recipe.keys import Recipe

log = logging.getLogger(__name__)


def start_device(recipe: Recipe, seeds: bool = True) -> World:
    """Choose the device, join the other ranks if msrun started any, set MindSpore's context and, if this `seeds`, the
    seeds of MindSpore and NumPy.

    A process may start again with another recipe, on the same device. Raises `UserError` if the device is not there or
    cannot be used, or the other ranks cannot be joined.
    """
    if fault := numpy_fault(np.__version__):
        raise UserError(f"NumPy {fault}")
    target, reason = available_target(recipe.system.device_target)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    _choose_device(target, chosen_npu(target, os.environ))
    # Joining the ranks makes the device. MindSpore 2.5 may then decide by this level how the device's memory is used.
    mindspore.set_context(jit_config={"jit_level": settings_for(recipe, target).jit_level})
    rank, size, local_size = 0, 1, 1
    if workers_started(os.environ):
        _join_ranks()
        rank, size, local_size = communication.get_rank(), communication.get_group_size(), _local_size()
    elif target != "CPU":
        _try_device(target)
    if owns_process():
        start_log(rank)
        if target == "CPU":
            give_back_large_pieces()
    processors = os.cpu_count() or 1
    usable, why = processors_here(local_size)
    settings = settings_for(recipe, target, size, local_size, processors, usable)
    if _folder_for_graphs(recipe, settings):  # only for those that are kept, or their numbers would not be the same
        os.environ["MS_COMPILER_CACHE_ENABLE"] = "0"
    mindspore.dataset.config.set_prefetch_size(settings.prefetch)
    if settings.parallel:
        mindspore.set_auto_parallel_context(**settings.parallel)
    if seeds:
        mindspore.set_seed(recipe.system.seed)  # the same on every rank: all draw the same weights
    log.info("%s x %d, MindSpore %s, %d data workers each", target, size, mindspore.__version__, settings.workers)
    if not was_run_on(mindspore.__version__):
        version = mindspore.__version__
        log.warning("warning: this project was run on MindSpore %s, not on %s", tested_range(), version)
    if target == "CPU":
        log.info("oneDNN may use instructions up to %s (ONEDNN_MAX_CPU_ISA)", os.environ["ONEDNN_MAX_CPU_ISA"])
    if usable < processors:
        log.info("this process uses %d of %d processors: %s", usable, processors, why)
    for note in (*filter(None, [reason]), *settings.notes):
        log.info(note)
    cpu_kernels = compiled_library() if settings.cpu_kernels else None
    if cpu_kernels:
        use_processors(cpu_kernels, usable)
    return World(rank, size, settings, AllReduce() if size > 1 else None, cpu_kernels)


def for_evaluation(world: World, recipe: Recipe, images: int) -> World:
    """The world in which `images` are evaluated and nothing is trained: at the graph level that pays for so few."""
    level, reason = evaluation_level(recipe, world.settings, images // world.size)
    if reason:
        log.info(reason)
        mindspore.set_context(jit_config={"jit_level": level})
    return replace(world, settings=replace(world.settings, jit_level=level, sink=False))


@contextmanager
def evaluating(world: World, recipe: Recipe, images: int) -> Iterator[None]:
    """Compile graphs as `for_evaluation` does, for a while; afterwards at the level of the training again."""
    try:
        for_evaluation(world, recipe, images)
        yield
    finally:
        mindspore.set_context(jit_config={"jit_level": world.settings.jit_level})


def compute_at_once() -> None:
    """Compute operator by operator from now on: a graph that runs once takes longer to compile."""
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)


def keep_graphs(world: World, recipe: Recipe, **facts: object) -> World:
    """The world in which graphs are kept, if the recipe that they are built of asks for it; every rank must call it.

    `facts`: what else they are built of.
    """
    if not (folder := _folder_for_graphs(recipe, world.settings)):
        return world
    is_asked_for = recipe.system.compile_cache is not None
    if world.settings.sink:  # MindSpore names the data's queue before the graph, which was compiled with another name
        log.info(
            "compile_cache: graphs are not kept where a whole epoch is sent to the device at a time, because no NPU "
            "has tried it; --dataset_sink_mode False keeps them"
        )
        return world
    if _kept:  # MindSpore numbers the graphs of a process, and takes a kept one by its number
        if is_asked_for:
            log.info("compile_cache: graphs are kept of the first training of a process only")
        return world
    if not Path(sys.argv[0]).is_file():  # MindSpore wants to see whether it has changed
        log.info("compile_cache: graphs are not kept of what is typed in: MindSpore keeps those of programs in files")
        return world
    graphs, known = None, 0
    _kept.append(folder)
    try:
        graphs = KeptGraphs(folder, world.rank, key_of(recipe, facts_of(world) | facts))
        known = len(graphs.known)
        os.environ["MS_COMPILER_CACHE_PATH"] = str(graphs.working.resolve())
    except OSError as error:
        log.info("compile_cache: %s: cannot be used: %s; graphs are not kept", folder, error.strerror)
    # One rank that compiles would keep the others waiting, on Ascend for longer than its collectives do.
    all_know_them = (world.gather(np.array([known])) == known).all()
    if graphs:
        if not all_know_them:
            graphs.forget()
        if graphs.known or is_asked_for:
            log.info("compile_cache: %d graphs of an earlier start in %s", len(graphs.known), graphs.file)
    return replace(world, graphs=graphs)


def _folder_for_graphs(recipe: Recipe, settings: Settings) -> Path | None:
    """Where compiled graphs are kept; None: nowhere."""
    cache = recipe.system.compile_cache
    if cache is None:  # by itself only where it was tried
        with suppress(RuntimeError):  # a user without a home
            return cache_folder("graphs") if settings.target == "CPU" and owns_process() else None
    if not cache:
        return None
    return Path(recipe.output.ckpt_save_dir, "graphs") if cache is True else Path(cache)


_kept: list[Path] = []  # where this process keeps its graphs


def facts_of(world: World) -> dict[str, str | int]:
    """What graphs depend on beside the recipe."""
    settings = replace(world.settings, workers=0, notes=())
    versions = {"mindspore": mindspore.__version__, "numpy": np.__version__, "python": sys.version}
    return versions | {
        "rank": world.rank,
        "size": world.size,
        "settings": str(settings),
        "operators": str(world.cpu_kernels),
        "processor": instruction_set(),
    }


@cache  # MindSpore lets no process change its device, nor join twice
def _choose_device(target: str, number: int | None) -> None:
    mindspore.set_device(target) if number is None else mindspore.set_device(target, number)


@cache
def _join_ranks() -> None:
    if os.environ["MS_ROLE"] == "MS_SCHED":
        _require_free_port(os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"]))
    try:
        communication.init()
    except RuntimeError as error:
        said = first_line(error).removesuffix(" It may be one of the following reasons:")  # a list of guesses
        raise UserError(
            f"cannot join the other ranks that msrun started: {said}; scheduler.log in msrun's log_dir may say more"
        ) from None


def _require_free_port(host: str, port: int) -> None:
    """Raise `UserError` if another program has the port at which msrun's scheduler is to wait for the ranks: MindSpore
    does not say so."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"another program has port {port} of {host}; give msrun another --master_port") from None


def _local_size() -> int:
    try:
        local_size = communication.get_local_rank_size()
    except RuntimeError:  # the CPU's collectives of some versions do not know
        local_size = 0
    return local_size or communication.get_group_size()  # a rank alone has none beside it, says the CPU's


def _try_device(target: str) -> None:
    """Raise `UserError` unless the device computes: MindSpore takes it with the first operator."""
    try:
        (Tensor(np.ones(1, np.float32)) + 1).asnumpy()
    except RuntimeError as error:
        raise UserError(
            f"the {target} device cannot be used: {first_line(error)}; another program may hold it (npu-smi info); "
            "the variable DEVICE_ID names another NPU, --device_target CPU takes none"
        ) from None
