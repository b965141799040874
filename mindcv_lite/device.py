"""The device and the other processes: the only module that touches MindSpore's context and communication."""

import errno
import logging
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from glob import glob
from pathlib import Path
from typing import TypeVar

import mindspore
import numpy as np
from mindspore import Tensor, communication, nn, ops

# pyrefly: ignore [missing-module-attribute]  (made when it is imported)
from mindspore.train.mind_ir_pb2 import ModelProto
from tqdm import tqdm

from mindcv_lite.compile_cache import KeptGraphs, key_of
from mindcv_lite.cpu_kernels.library import compiled_operators
from mindcv_lite.errors import TrainingError, UserError, first_line
from mindcv_lite.recipe.keys import Recipe

log = logging.getLogger(__name__)

T = TypeVar("T")

SHORTEST = 64  # numbers that `World.sum` adds up at once: all sums of a step or an epoch, of up to 32 ranks


@dataclass(frozen=True)
class Settings:
    """What a run sets on its device. `notes`: a sentence for each wish of the recipe that the device cannot meet."""

    target: str
    jit_level: str
    sink: bool
    amp_level: str
    val_amp_level: str
    teacher_amp_level: str
    workers: int
    cpu_kernels: bool
    parallel: dict[str, object]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """The processes of a run, one per device, and this one's place among them."""

    rank: int
    size: int
    settings: Settings
    all_reduce: nn.Cell | None = None
    cpu_operators: Path | None = None  # the library of `cpu.operators`
    graphs: KeptGraphs | None = None

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        """`numbers` added up over all ranks, in float32 (counts are exact up to 2**24); every rank must call it."""
        if self.all_reduce is None:
            return numbers
        # Each length is a graph of its own, which Ascend's O2 compiles: few numbers all have the same length.
        padded = np.zeros(-(-numbers.size // SHORTEST) * SHORTEST, np.float32)
        padded[: numbers.size] = numbers.ravel()
        total = self.all_reduce(Tensor(padded)).asnumpy()[: numbers.size]
        return total.reshape(numbers.shape).astype(np.float64)

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        """`numbers` (n,) of all ranks, float32 (size, n); every rank must call it."""
        rows = np.zeros((self.size, len(numbers)), np.float32)
        rows[self.rank] = numbers
        return self.sum(rows).astype(np.float32)

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""
        self.sum(np.zeros(1))

    def all_or_none(self, task: Callable[[], T]) -> T:
        """What `task` gives this rank. If it raises `UserError` or `TrainingError` on one rank, all ranks raise, so
        that none waits: the others a `TrainingError`. Every rank must call it."""
        try:
            result = task()
        except (UserError, TrainingError):
            self.sum(np.ones(1))
            raise
        if self.sum(np.zeros(1))[0]:
            raise TrainingError("another rank cannot go on, see its log")
        return result

    @contextmanager
    def compiling(self, cell: nn.Cell) -> Iterator[None]:
        """Where `cell` is called, the first time too: its graph is one that was kept, or is kept from now on."""
        name = type(cell).__name__
        if self.graphs is None or not self.graphs.takes(name):
            yield
            return
        os.environ["MS_COMPILER_CACHE_ENABLE"] = "1"
        try:
            yield
        finally:
            os.environ["MS_COMPILER_CACHE_ENABLE"] = "0"
        if fault := next(filter(None, (fault_of(path, cell) for path in self.graphs.new_graphs())), None):
            log.info("compile_cache: the graph of %s is not kept: %s", name, fault)
            self.graphs.closed = True
        else:
            self.graphs.add(name)


def start(recipe: Recipe) -> World:
    """Choose the device, join the other ranks if msrun started any, set MindSpore's context and the seed.

    A process may start again with another recipe, on the same device. Raises `UserError` if the device is not there or
    cannot be used, or the other ranks cannot be joined.
    """
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
    _start_log(chief=rank == 0)
    if recipe.system.compile_cache:  # only for the graphs that are kept, or their numbers would not be the same
        os.environ["MS_COMPILER_CACHE_ENABLE"] = "0"
    settings = settings_for(recipe, target, size, local_size, os.cpu_count() or 1, len(os.sched_getaffinity(0)))
    if settings.parallel:
        mindspore.set_auto_parallel_context(**settings.parallel)
    mindspore.set_seed(recipe.system.seed)  # the same on every rank: all draw the same weights
    log.info("%s x %d, MindSpore %s, %d data workers each", target, size, mindspore.__version__, settings.workers)
    if target == "CPU":
        log.info("oneDNN may use instructions up to %s (ONEDNN_MAX_CPU_ISA)", os.environ["ONEDNN_MAX_CPU_ISA"])
    for note in (*filter(None, [reason]), *settings.notes):
        log.info(note)
    cpu_operators = compiled_operators() if settings.cpu_kernels else None
    return World(rank, size, settings, _AllReduce() if size > 1 else None, cpu_operators)


def for_evaluation(world: World, recipe: Recipe, photos: int) -> World:
    """The world in which `photos` are evaluated and nothing is trained: at the graph level that pays for so few."""
    level, reason = evaluation_level(recipe, world.settings, photos // world.size)
    if reason:
        log.info(reason)
        mindspore.set_context(jit_config={"jit_level": level})
    return replace(world, settings=replace(world.settings, jit_level=level, sink=False))


@contextmanager
def evaluating(world: World, recipe: Recipe, photos: int) -> Iterator[None]:
    """Compile graphs as `for_evaluation` does, for a while; afterwards at the level of the training again."""
    try:
        for_evaluation(world, recipe, photos)
        yield
    finally:
        mindspore.set_context(jit_config={"jit_level": world.settings.jit_level})


def evaluation_level(recipe: Recipe, settings: Settings, photos: int) -> tuple[str, str]:
    """The graph level at which a rank evaluates `photos`, and why if it is not that of the recipe.

    A recipe's O2 is meant for training. On the command line it is meant for this program, and taken.
    """
    level = settings.jit_level
    if level != "O2" or recipe.origin.get("jit_level") == "command line" or photos >= WORTH_A_WHOLE_GRAPH:
        return level, ""
    return "O1", (
        f"jit_level: O1, for {photos} photos a device: compiling the whole graph (O2) would take longer than they do "
        "(MindCV measured 184 s or more for a training graph; nothing was measured here); --jit_level O2 compiles it"
    )


# What MindCV's training computes on an NPU (75 photos in 54.21 ms) while its small graph compiles (184 s): for fewer,
# O2 could not pay even if it took no time at all. Both figures are MindCV's; no level was measured on an NPU here.
WORTH_A_WHOLE_GRAPH = 250_000


def keep_graphs(world: World, recipe: Recipe, **facts: object) -> World:
    """The world in which graphs are kept, if the recipe that they are built of asks for it; every rank must call it.

    `facts`: what else they are built of.
    """
    wish = recipe.system.compile_cache
    if not wish:
        return world
    if world.settings.sink:  # MindSpore names the data's queue before the graph, which was compiled with another name
        log.info(
            "compile_cache: graphs are not kept where a whole epoch is sent to the device at a time, because no NPU "
            "has tried it; --dataset_sink_mode False keeps them"
        )
        return world
    folder = Path(recipe.output.ckpt_save_dir, "graphs") if wish is True else Path(wish)
    graphs, known = None, 0
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
        log.info("compile_cache: %d graphs of an earlier start in %s", len(graphs.known), graphs.file)
    return replace(world, graphs=graphs)


def facts_of(world: World) -> dict[str, str | int]:
    """What graphs depend on beside the recipe."""
    settings = replace(world.settings, workers=0, notes=())
    versions = {"mindspore": mindspore.__version__, "numpy": np.__version__, "python": sys.version}
    return versions | {
        "rank": world.rank,
        "size": world.size,
        "settings": str(settings),
        "operators": str(world.cpu_operators),
    }


def fault_of(graph: Path, cell: nn.Cell) -> str | None:
    """What makes the file of a graph of `cell`, which MindSpore has written, unfit to be taken by the next start."""
    model = ModelProto()
    try:
        model.ParseFromString(graph.read_bytes())
    except Exception:  # protobuf's own; MindSpore does not tell of a full disk
        return "its file is cut short"
    # Of parameters the file holds the names alone. One that the cell does not list MindSpore leaves as the memory
    # is, without a word (measured, 2.7 and 2.10: losses that are off in the last bits, or no number).
    used = {parameter.name.rsplit(":", 1)[-1] for parameter in model.graph.parameter}
    foreign = used - {parameter.name for parameter in cell.get_parameters()}
    return f"it computes with '{min(foreign)}', which is no parameter of the cell" if foreign else None


def settings_for(
    recipe: Recipe, target: str, size: int = 1, local_size: int = 1, processors: int = 1, bound: int | None = None
) -> Settings:
    """What to set for `recipe` on `target`, as data.

    `size`, `local_size`: ranks in all and on this machine; `processors`, `bound`: those of the machine and those that
    this process may use.
    """
    system, precision = recipe.system, recipe.precision
    share = max(1, min(processors // local_size, bound or processors))
    workers = share if system.num_parallel_workers == "auto" else system.num_parallel_workers
    notes = []
    if workers > processors:  # MindSpore refuses more
        notes.append(f"num_parallel_workers is {workers}, this machine has {processors} processors: {processors} used")
        workers = processors
    settings = Settings(
        target=target,
        jit_level=system.jit_level,
        sink=system.dataset_sink_mode,
        amp_level=precision.amp_level,
        val_amp_level=precision.val_amp_level,
        teacher_amp_level=precision.teacher_amp_level,
        workers=workers,
        cpu_kernels=target == "CPU" and system.cpu_kernels == "auto",
        parallel={
            "parallel_mode": "data_parallel",
            "gradients_mean": True,
            "parameter_broadcast": False,  # a resumed rank has statistics of its own
            "device_num": size,
        }
        if size > 1
        else {},
    )
    if target == "CPU":
        for name in ("amp_level", "val_amp_level", "teacher_amp_level"):
            if (level := getattr(precision, name)) != "O0":
                notes.append(f"{name} {level} needs an accelerator: computing in float32 on the CPU")
        if system.dataset_sink_mode:
            notes.append("dataset_sink_mode needs an accelerator: feeding the CPU batch by batch")
        settings = replace(settings, sink=False, amp_level="O0", val_amp_level="O0", teacher_amp_level="O0")
    if target != "Ascend" and system.jit_level == "O2":
        if "jit_level" in recipe.origin:
            notes.append(f"jit_level O2 is Ascend's graph engine: O1 on the {target}")
        settings = replace(settings, jit_level="O1")
    return replace(settings, notes=tuple(notes))


def require_launcher(distribute: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `UserError` unless `distribute` fits how the program was started."""
    workers, command = workers_started(environment), f"python {shlex.join(sys.argv)}"
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


def workers_started(environment: Mapping[str, str]) -> int:
    """The number of workers of this run that msrun started; 0 if it did not start this process."""
    return int(environment.get("MS_WORKER_NUM", "0")) if "MS_ROLE" in environment else 0


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


def available_target(wish: str) -> tuple[str, str]:
    """The device to use, and a sentence if it takes one: `wish`, or with `auto` Ascend where there is an NPU that
    computes, else the CPU. Raises `UserError`."""
    if wish not in ("auto", "Ascend"):
        if not mindspore.hal.is_available(wish):
            raise UserError(f"device_target is {wish}, which MindSpore does not find here; {OTHER_TARGETS}")
        return wish, ""
    found = npus()
    if found:
        # Under msrun all ranks must decide alike.
        surely = wish == "Ascend" or workers_started(os.environ)
        usable = surely or can_compute("Ascend", chosen_npu("Ascend", os.environ))
        return ("Ascend", "") if usable else ("CPU", f"{BUSY_NPU}: taking the CPU")
    if wish == "Ascend":
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


class _AllReduce(nn.Cell):
    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)


class _LogHandler(logging.Handler):
    """Lines on stdout that leave a progress bar whole."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def _start_log(chief: bool) -> None:
    handler = _LogHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    package = logging.getLogger("mindcv_lite")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO if chief else logging.ERROR)
