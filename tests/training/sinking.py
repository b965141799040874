"""A device that sinks, played on the CPU: MindSpore's own sink loop drives a run as it does on an NPU."""

import atexit
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from mindspore import Tensor, context, nn
from mindspore.dataset.engine import datasets
from mindspore.train import _utils, dataset_helper, model

from mindcv_lite.device import context as start

AHEAD = 100  # batches; MindSpore's queue to the device holds as many, or 2 GB


class DeviceQueue(datasets.TransferDataset):
    """The queue to the device. It is filled as far ahead as on an NPU; `rows` takes from it."""

    def send(self, num_epochs: int = -1) -> None:
        self.ahead: queue.Queue = queue.Queue(AHEAD)
        self.stopped = threading.Event()
        self.given = self.children[0].create_tuple_iterator(num_epochs=num_epochs, output_numpy=True)
        filling = threading.Thread(target=self._fill, args=(num_epochs,), daemon=True)
        filling.start()
        atexit.register(lambda: (self.stopped.set(), filling.join()))  # before MindSpore deletes what it iterates over

    def _fill(self, num_epochs: int) -> None:
        try:
            for _ in range(num_epochs):
                for row in self.given:
                    while not self.stopped.is_set():
                        try:
                            self.ahead.put(row, timeout=0.05)
                            break
                        except queue.Full:
                            continue
                    else:
                        return
        except RuntimeError:  # as on an NPU: nobody is told, and nothing comes any more
            return

    def rows(self, count: int) -> Iterator[tuple]:
        """The next `count` batches. The device would wait for them for 900 s."""
        for _ in range(count):
            yield self.ahead.get(timeout=60)

    def stop_send(self) -> None:
        self.stopped.set()

    def release(self) -> None:
        self.stopped.set()

    def continue_send(self) -> None:
        pass


class SinkingNetwork:
    """What Model calls once an epoch: the step, for all batches of the epoch."""

    def __init__(self, step: nn.Cell, helper: dataset_helper.DatasetHelper):
        self.step, self.helper, self.training, self.phase = step, helper, True, "train"

    def set_train(self, mode: bool = True) -> None:
        self.training = mode

    def compile(self) -> None:
        types, shapes = self.helper.types_shapes()
        self.step.compile(*(Tensor(np.zeros(shape), kind) for kind, shape in zip(types, shapes, strict=True)))

    def __call__(self) -> Any:
        queue = self.helper.iter.dataset.__transfer_dataset__
        return [self.step(*map(Tensor, row)) for row in queue.rows(self.helper.sink_size())][-1]


def play_sinking(setattr: Callable[[object, str, object], None]) -> None:
    """From here on Model.train sinks, as on an Ascend."""

    def get_context(name: str) -> Any:
        return "Ascend" if name == "device_target" else context.get_context(name)

    for module in (model, dataset_helper):
        setattr(module, "context", SimpleNamespace(**{**vars(context), "get_context": get_context}))
    executor = SimpleNamespace(get_queue_name=lambda phase: "", init_dataset=lambda *args, **keys: True)
    setattr(_utils, "_cell_graph_executor", executor)
    setattr(datasets, "TransferDataset", DeviceQueue)
    setattr(model, "connect_network_with_dataset", SinkingNetwork)
    settings_for = start.settings_for
    setattr(start, "settings_for", lambda *args: replace(settings_for(*args), sink=True))
