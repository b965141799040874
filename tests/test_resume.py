"""Runs that are killed, stopped or cut off from their disk, and go on: to the same bits as one that never stopped."""

import csv
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mindcv_lite.checkpoints.ckpt_file import read_entries
from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.models.build import build_network
from mindcv_lite.runs.checkpoint_saver import save_weights
from mindcv_lite.runs.results import COLUMNS
from mindcv_lite.runs.state import read_state
from tests.conftest import ROOT
from tests.programs import LAST, SMALL, msrun, printing_weights, require_same_run, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("three_rows")]

# Momentum, moving average, dropout, shuffling and all augmentation are on; the rate does not depend on epoch_size.
FLAGS = (
    *("-c", SMALL, "--image_resize", 32, "--num_classes", 2, "--batch_size", 4, "--log_interval", "None"),
    *("--scheduler", "constant", "--warmup_epochs", 0, "--lr", 0.01, "--base_batch_size", "None", "--ema"),
    *("--auto_augment", "randaug-m5-n2", "--re_prob", 0.5, "--re_value", "random", "--mixup", 0.2, "--cutmix", 1.0),
    *("--aug_repeats", 2),
)
ALONE = ("--distribute", "False")


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder({"train": {"a": 20, "b": 13}, "val": {"a": 3, "b": 2}})


@pytest.fixture
def train(images, tmp_path) -> Callable[..., str]:
    """Run train.py in a folder of its own; its output."""

    def train(folder: str, *flags: object, status: int = 0) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        command = (sys.executable, ROOT / "train.py", *FLAGS, *ALONE, "--data_dir", images, *flags)
        return run(*command, cwd=tmp_path / folder, status=status)

    return train


def require_whole_files(folder: Path) -> None:
    """Every file under a final name can be read, and matches its checksum."""
    for path in folder.glob("ckpt/[!.]*.ckpt"):
        assert read_entries(str(path))[1], path
    for path in folder.glob("ckpt/results.csv"):
        assert all(len(row) == len(COLUMNS) for row in csv.reader(path.read_text().splitlines()))


def test_two_and_two_epochs_equal_four_bit_for_bit_from_the_folder_or_from_packed_images(train, images, tmp_path):
    run(sys.executable, "-m", "mindcv_lite", "pack", images, tmp_path / "packed", cwd=ROOT)
    train("whole", "--epoch_size", 4)
    assert "a fresh start" in train("parts", "--epoch_size", 3, "--resume", "--tensorboard")
    (tmp_path / "parts/ckpt/last.state.ckpt").unlink()  # so that the third epoch is made again
    log = train("parts", "--epoch_size", 4, "--resume", "--tensorboard", "--data_dir", tmp_path / "packed")
    assert "going on with ckpt/previous.state.ckpt, after step 16" in log
    require_same_run(tmp_path / "whole", tmp_path / "parts")
    events = EventAccumulator(str(tmp_path / "parts/ckpt/tensorboard/ckpt")).Reload()
    assert [event.step for event in events.Scalars("loss/train")] == [8, 16, 24, 32]
    before = (tmp_path / "parts" / LAST).read_bytes()
    assert "nothing is left to do" in train("parts", "--epoch_size", 4, "--resume")
    assert (tmp_path / "parts" / LAST).read_bytes() == before
    refusal = train("parts", "--epoch_size", 3, "--resume", status=2)
    assert "epoch_size is 3, but ckpt/last.state.ckpt is of epoch 4; use --epoch_size 4 or more" in refusal
    assert "epoch_size: 4" in (tmp_path / "parts/ckpt/recipe.yaml").read_text()
    refusal = train("parts", "--epoch_size", 6, "--resume", "--lr", 0.02, "--label_smoothing", 0, status=2)
    assert "lr was 0.01, is 0.02; label_smoothing was 0.1, is 0.0" in refusal


def test_a_taught_run_on_two_ranks_goes_on_to_the_same_bits_and_both_have_the_same_weights(
    images, recipe, graph_mode, tmp_path
):
    given = recipe(model="mobilenet_v3_small_075", num_classes=2, mean="[127.5, 127.5, 127.5]", image_resize=40)
    weights = {each.name: each.asnumpy() for each in build_network(given.model, "O0").get_parameters()}
    weights["classifier.3.bias"] += np.array([0.5, -0.5], np.float32)
    teacher, script = tmp_path / "teacher.ckpt", printing_weights(tmp_path)
    save_weights(teacher, weights, model_card(given, ("b", "a")))
    flags = (*FLAGS, "--data_dir", images, "--val_while_train", "False", "--teacher", teacher)
    flags += ("--gradient_accumulation_steps", 3, "--sampling", "balanced")
    for folder, *parts in (("whole", (2,)), ("parts", (1,), (2, "--resume"))):
        (tmp_path / folder).mkdir()
        for epochs in parts:
            logs = msrun(2, script, *flags, "--epoch_size", *epochs, cwd=tmp_path / folder)
            sums = [re.findall(r"^sum (\S+)", log, re.M) for log in logs]
            assert sums[0] == sums[1] != []
            assert "teacher.ckpt: mobilenet_v3_small_075 at 40 x 40 pixels, " in logs[0]
    require_same_run(tmp_path / "whole", tmp_path / "parts")
    assert not [name for name in read_state(tmp_path / "whole" / LAST).numbers if "teacher" in name]


def start(train_flags: tuple, cwd: Path) -> subprocess.Popen:
    command = [str(word) for word in (sys.executable, ROOT / "train.py", *FLAGS, *ALONE, *train_flags)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_run_killed_at_four_random_moments_ends_with_the_same_bits(train, images, tmp_path):
    flags = ("--epoch_size", 12, "--keep_checkpoint_max", 3)
    began = time.monotonic()
    train("whole", *flags, "--compile_cache", "False")
    whole = time.monotonic() - began
    flags += ("--compile_cache", "../graphs")  # with the same bits, whenever a process that kept graphs was killed
    moments = random.Random(1)
    folder = tmp_path / "killed"
    folder.mkdir()
    for number in range(4):
        running = start((*flags, "--data_dir", images, "--resume"), folder)
        while not number and running.poll() is None and not (folder / LAST).exists():
            time.sleep(0.01)  # the first is killed once there is something to go on from, however busy the machine is
        with suppress(subprocess.TimeoutExpired):
            running.communicate(timeout=moments.uniform(0.2, 1.0) * whole if number else 0)
        running.kill()
        running.communicate()
        require_whole_files(folder)
    train("killed", *flags, "--resume")
    require_same_run(tmp_path / "whole", folder)
    assert {path.name for path in (folder / "ckpt").iterdir() if path.suffix == ".ckpt"} == {
        path.name for path in (tmp_path / "whole/ckpt").iterdir() if path.suffix == ".ckpt"
    }


def test_sigterm_and_a_full_disk_cost_no_step_and_a_log_without_room_costs_no_run(train, images, tmp_path):
    train("whole", "--epoch_size", 3, "--val_while_train", "False")
    folder = tmp_path / "stopped"
    folder.mkdir()
    flags = ("--epoch_size", 3, "--val_while_train", "False", "--data_dir", images, "--resume")
    running = start(flags, folder)
    assert running.stdout
    for line in running.stdout:
        if "compiling the graph" in line:  # which ends before the signal is heard, after the first step
            running.send_signal(signal.SIGTERM)
            break
    rest = running.communicate(timeout=60)[0]
    assert running.returncode == 128 + signal.SIGTERM, rest
    assert "by SIGTERM; --resume goes on from there" in rest
    assert "Traceback" not in rest
    assert read_state(folder / LAST).facts["step"] % 8 > 0

    before = (folder / LAST).read_bytes()
    command = [str(word) for word in (sys.executable, ROOT / "train.py", *FLAGS, *ALONE, *flags)]
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))  # noqa: E731
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, preexec_fn=small)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / LAST).read_bytes() == before
    require_whole_files(folder)
    assert not [path for path in (folder / "ckpt").iterdir() if path.suffix == ".part"]

    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "standard output: No space left on device: going on without the log\n")
    require_same_run(tmp_path / "whole", folder)


@pytest.fixture
def stopping_script(tmp_path) -> Path:
    """train.py with a slow disk, which sends itself SIGTERM after its third step."""
    script = tmp_path / "stopping.py"
    script.write_text(f"""
import os, signal, sys, time; sys.path.insert(0, {str(ROOT)!r})
import train
from mindcv_lite.program import run_script
from mindcv_lite.training import recorder
save, end = recorder.save_state, recorder.RunRecorder.on_train_step_end
def save_slowly(*arguments):
    time.sleep(3)
    save(*arguments)
def signal_and_end(self, run_context):
    if self.watch.done == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    end(self, run_context)
recorder.save_state, recorder.RunRecorder.on_train_step_end = save_slowly, signal_and_end
run_script(train.main)
""")
    return script


def test_no_rank_ends_before_the_state_of_all_is_saved(images, stopping_script, tmp_path):
    flags = (*FLAGS, "--data_dir", images, "--val_while_train", "False", "--epoch_size", 2)
    msrun(2, stopping_script, *flags, cwd=tmp_path, status=1)
    assert read_state(tmp_path / LAST).facts["step"] == 3


def test_a_broken_run_that_is_stopped_saves_no_state(images, stopping_script, tmp_path):
    flags = (*FLAGS, *ALONE, "--data_dir", images, "--epoch_size", 2, "--lr", 1e30)
    log = run(sys.executable, stopping_script, *flags, cwd=tmp_path, status=1)
    assert "is not finite at learning rate" in log
    assert not list(tmp_path.glob("ckpt/*.ckpt"))
