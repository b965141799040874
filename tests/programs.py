"""Whole programs as a user starts them, and what several tests ask of what they leave."""

import csv
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from mindcv_lite.runs.state import read_state
from tests.conftest import ROOT

SMALL = ROOT / "configs/mobilenetv3/mobilenet_v3_small_ascend.yaml"
# Programs of the same network, batch and image size find the graphs that an earlier one kept.
TINY = ("--image_resize", "32", "--num_classes", "2", "--batch_size", "4", "--epoch_size", "2")


def run(*command: object, cwd: Path, status: int = 0) -> str:
    """Run a command to its end; its output, errors included."""
    # msrun starts the python it finds there. Its scheduler waits so many seconds for a rank that has ended.
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MS_NODE_TIMEOUT": "10"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=os.environ | here, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def msrun(workers: int, *command: object, cwd: Path, status: int = 0) -> list[str]:
    """Run a script under msrun; the log of each worker."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    logs = cwd / f"log_{port}"
    size = ("--worker_num", workers, "--local_worker_num", workers)
    bind = f"--bind_core={workers <= (os.cpu_count() or 1)}"  # msrun of MindSpore 2.6 cannot bind more than that
    options = (*size, bind, "--master_port", port, "--join", "True", "--log_dir", logs)
    run("msrun", *options, "python", *command, cwd=cwd, status=status)
    return [(logs / f"worker_{rank}.log").read_text() for rank in range(workers)]


def scores(log: str) -> tuple[str, ...]:
    """top-1, of more than five classes top-5, and number of images of a validation."""
    found = re.search(r"top-1 (\S+%)(?:, top-5 (\S+%))?, loss \S+?(?:, balanced \S+ \S+)?, (\d+) images", log)
    assert found, log
    return tuple(filter(None, found.groups()))


def printing_weights(folder: Path) -> Path:
    """A script: train.py, of which each rank prints the sum of its weights after each epoch."""
    script = folder / "train_and_print_weights.py"
    script.write_text(f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import train
from mindcv_lite.program import run_script
from mindcv_lite.training import recorder
end = recorder.RunRecorder.on_train_epoch_end
def end_and_print(self, run_context):
    end(self, run_context)
    parameters = self.watch.step.network.get_parameters()
    print("sum", sum(abs(parameter.asnumpy().astype("float64")).sum() for parameter in parameters).hex())
recorder.RunRecorder.on_train_epoch_end = end_and_print
run_script(train.main)
""")
    return script


LAST = "ckpt/last.state.ckpt"


def require_same_run(one: Path, other: Path) -> None:
    """All numbers of two states, and the weights of their checkpoints, are the same bits."""
    numbers, others = read_state(one / LAST).numbers, read_state(other / LAST).numbers
    assert numbers.keys() == others.keys()
    assert any(name.startswith("ema.") for name in numbers)
    assert any(name.startswith("moments.") for name in numbers)
    for name, value in numbers.items():
        assert np.array_equal(value, others[name]), name
    newest = max((one / "ckpt").glob("*-*_*.ckpt"), key=lambda path: int(path.stem.split("_")[-1]))
    assert newest.read_bytes() == (other / "ckpt" / newest.name).read_bytes()
    assert training_of(one) == training_of(other)


def training_of(folder: Path) -> list[tuple[str, ...]]:
    """The rows of results.csv without speeds and times."""
    with open(folder / "ckpt/results.csv", newline="") as file:
        return [tuple(row[:7]) for row in csv.reader(file)]
