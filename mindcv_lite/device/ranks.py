"""The processes of a run, one per device, and what they tell each other."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from mindspore import Tensor, nn, ops

# pyrefly: ignore [missing-module-attribute]  (made when it is imported)
from mindspore.train.mind_ir_pb2 import ModelProto

from mindcv_lite.device.compile_cache import KeptGraphs
from mindcv_lite.device.settings import Settings
from mindcv_lite.errors import TrainingError, UserError

log = logging.getLogger(__name__)


T = TypeVar("T")

SHORTEST = 64  # numbers that `World.sum` adds up at once: all sums of a step or an epoch, of up to 32 ranks


@dataclass(frozen=True)
class World:
    """The processes of a run, one per device, and the rank of this one."""

    rank: int
    size: int
    settings: Settings
    all_reduce: nn.Cell | None = None
    cpu_kernels: Path | None = None  # their compiled library
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


class AllReduce(nn.Cell):
    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)
