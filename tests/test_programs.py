"""Whole programs, as a user starts them: train.py and validate.py, alone and under msrun."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mindspore
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.checkpoints.weights import read_weights
from mindcv_lite.data.datasets.cifar_mnist import STANDARD
from mindcv_lite.models.build import build_network
from mindcv_lite.runs.checkpoint_saver import save_weights
from tests.conftest import ROOT
from tests.data.datasets.standard_files import write_all
from tests.programs import SMALL, TINY, msrun, printing_weights, run, scores
from tests.training.networks import WEIGHT

pytestmark = pytest.mark.slow
of_three_rows = pytest.mark.usefixtures("three_rows")


def test_one_device_trains_writes_its_files_and_is_validated_to_the_same_score(image_folder, tmp_path):
    images = image_folder({"train": {"a": 20, "b": 12}, "val": {"a": 5, "b": 4}})
    (images / "train/a/7.jpg").write_bytes(b"no image")
    common = ("--data_dir", images, *TINY, "--on_corrupt", "replace", "--tensorboard")
    log = run(sys.executable, ROOT / "train.py", "-c", SMALL, *common, "--distribute", "False", cwd=tmp_path)
    assert "Traceback" not in log
    assert log.count("7.jpg cannot be decoded: another image takes its place") == 1
    assert log.count(", 1 image replaced") == 2
    assert re.findall(r"epoch (\d)/2: ", log) == ["1", "2"]

    files = sorted(path.name for path in (tmp_path / "ckpt").iterdir())
    name = "mobilenet_v3_small_100"
    states = ["last.state.ckpt", "previous.state.ckpt"]
    weights = [f"{name}-1_8.ckpt", f"{name}-2_16.ckpt", f"{name}_best.ckpt"]
    assert files == sorted([*states, *weights, "recipe.yaml", "results.csv", "curves.png", "tensorboard"])

    rows = list(csv.DictReader((tmp_path / "ckpt/results.csv").read_text().splitlines()))
    assert [(row["devices"], row["device"], row["jit_level"]) for row in rows] == 2 * [("1", "CPU", "O1")]
    assert [bool(row["graph_compile"]) for row in rows] == [True, False]
    assert log.count("graph compile ") == 1
    for row in rows:  # 8 steps of 4 images
        assert float(row["images_per_second"]) * float(row["ms_per_step"]) == pytest.approx(4000, rel=1e-4)
    events = EventAccumulator(str(tmp_path / "ckpt/tensorboard/ckpt")).Reload()
    top1 = [(event.step, event.value) for event in events.Scalars("accuracy/top1")]
    assert top1 == [(int(row["step"]), pytest.approx(float(row["top1"]), 1e-5)) for row in rows]
    assert (events.Images("first batch")[0].width, len(events.Tensors("recipe"))) == (2 * 116, 1)
    best = max(rows, key=lambda row: float(row["top1"]))
    end = rf"the best network: epoch {best['epoch']}, top-1 {float(best['top1']):.2%}: ckpt/{name}_best.ckpt\n"
    assert re.search(end, log)
    # The saved recipe stands for all flags, and validation needs no launcher although the recipe says distribute.
    (validation,) = re.findall(r"validate it: python -m mindcv_lite (.*)", log)
    log = run(sys.executable, "-m", "mindcv_lite", *validation.split(), cwd=tmp_path)
    assert scores(log)[1] == "9"
    assert scores(log)[0] == f"{float(best['top1']):.2%}"
    assert best["val_images"] == "9"
    low, high = (float(end) for end in re.findall(r"95 % interval of top-1: (\S+)% to (\S+)%", log)[0])
    assert 0 <= low <= 100 * float(best["top1"]) <= high <= 100
    assert (tmp_path / "report/report.html").exists()


@of_three_rows
def test_a_checkpoint_of_imagenet_is_checked_on_some_of_its_classes_by_wnid_or_by_index(
    image_folder, tmp_path, recipe, graph_mode
):
    network = build_network(recipe(num_classes=1000).model, "O0")
    bias = np.zeros(1000, np.float32)
    bias[[134, 1, 0, 2, 5, 3]] = 600, 500, 400, 300, 200, 100  # the predictions for any image, best first
    network.parameters_dict()["classifier.3.bias"].set_data(mindspore.Tensor(bias))
    mindspore.save_checkpoint(network, str(tmp_path / "nameless.ckpt"))
    images = image_folder({"val": {"n01440764": 2, "n02012849": 3, "n01491361": 1}})  # outputs 0, 134 and 3
    flags = ("-c", SMALL, "--image_resize", 32, "--data_dir", images, "--ckpt_path", "nameless.ckpt")
    by_wnid = scores(run(sys.executable, ROOT / "validate.py", *flags, cwd=tmp_path))
    assert by_wnid == ("50.00%", "83.33%", "6")
    for wnid, index in (("n01440764", "0"), ("n02012849", "134"), ("n01491361", "3")):
        (images / "val" / wnid).rename(images / "val" / index)
    assert scores(run(sys.executable, ROOT / "validate.py", *flags, cwd=tmp_path)) == by_wnid


@pytest.fixture
def weights_for(recipe, graph_mode, tmp_path) -> Callable[..., Path]:
    """Makes a checkpoint of a network for such classes."""

    def make(*class_names: str) -> Path:
        given = recipe(num_classes=len(class_names))
        network = build_network(given.model, "O0")
        weights = {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}
        save_weights(tmp_path / "made.ckpt", weights, model_card(given, class_names, epoch=1, top1=None))
        return tmp_path / "made.ckpt"

    return make


@pytest.fixture
def other_weights(weights_for) -> Path:
    return weights_for(*"1234567")


@of_three_rows
def test_fine_tuning_begins_with_a_fitted_last_layer_which_is_epoch_0_and_may_stay_the_best(
    image_folder, other_weights, tmp_path
):
    images = image_folder({"train": {"a": 10, "b": 9}, "val": {"a": 5, "b": 4}})
    flags = ("-c", SMALL, *TINY, "--epoch_size", 1, "--warmup_epochs", 0)
    flags += ("--data_dir", images, "--ckpt_path", other_weights, "--distribute", "False")
    hasty = ("--lr", 100, "--freeze", "backbone", "--epoch_size", 3, "--patience", 1)
    log = run(sys.executable, ROOT / "train.py", *flags, *hasty, cwd=tmp_path)
    assert "patience: no better top-1 since epoch 0: the training ends after epoch 1 of 3, at lr " in log
    assert re.search(r"last layer fitted to 1024 features of 19 images in .* right on images held out", log)
    fitted, trained = csv.DictReader((tmp_path / "ckpt/results.csv").read_text().splitlines())
    assert (fitted["epoch"], fitted["step"], fitted["train_loss"], fitted["top1"]) == ("0", "0", "", "1")
    assert (trained["epoch"], trained["step"]) == ("1", "4")
    assert re.search(r"epoch 0/3: top-1 100\.00%, .*, the best so far, only the last layer is fitted", log)
    assert float(trained["top1"]) < 1  # at such a rate
    check = ("-c", "ckpt/recipe.yaml", "--ckpt_path", "ckpt/mobilenet_v3_small_100_best.ckpt")
    assert scores(run(sys.executable, ROOT / "validate.py", *check, cwd=tmp_path))[0] == "100.00%"

    log = run(sys.executable, ROOT / "train.py", *flags, "--probe_only", cwd=tmp_path)
    assert "compiling the graph" not in log
    assert "learning rate" not in log
    names = {path.name for path in (tmp_path / "ckpt").glob("*.ckpt")}
    assert names == {"mobilenet_v3_small_100-0_0.ckpt", "mobilenet_v3_small_100_best.ckpt"}
    log = run(sys.executable, ROOT / "train.py", *flags, "--new_head", "random", cwd=tmp_path)
    assert "last layer fitted" not in log
    assert "epoch 0" not in log


@of_three_rows
def test_a_search_leaves_a_recipe_to_train_by(image_folder, other_weights, tmp_path):
    images = image_folder({"train": {"a": 14, "b": 13}})
    flags = ("-c", SMALL, *TINY, "--epoch_size", 5, "--warmup_epochs", 0)
    flags += ("--data_dir", images, "--ckpt_path", other_weights, "--distribute", "False", "--freeze", "backbone")
    search = (sys.executable, "-m", "mindcv_lite", "tune", *flags)
    log = run(*search, "--minutes", 0.2, cwd=tmp_path)
    assert re.search(r"the recipe, epochs: 1, fold 0: \d+ of \d+ right \(\d+ by the last layer alone\)", log)
    assert "chosen: " in log
    log = run(sys.executable, ROOT / "train.py", "--config", "tune/recipe.yaml", "--dry_run", cwd=tmp_path)
    assert re.search(r"train: \d+ of them are held out for validation \(val_share\)", log)


@of_three_rows
def test_two_ranks_begin_with_the_same_fitted_layer_and_end_with_the_same_weights_and_the_score_of_one_process(
    image_folder, other_weights, tmp_path
):
    images = image_folder({"train": {"a": 12, "b": 11}, "val": {"a": 6, "b": 5}})
    common = ("-c", SMALL, "--data_dir", images, *TINY)
    start = ("--ckpt_path", other_weights, "--lr", 1e-6)  # a larger rate breaks a network that was never trained
    logs = msrun(2, printing_weights(tmp_path), *common, *start, cwd=tmp_path)
    assert "last layer fitted to 1024 features of 23 images" in logs[0]
    assert re.search(r"epoch 0/2: top-1 100\.00%", logs[0])
    sums = [re.findall(r"^sum (\S+)", log, re.M) for log in logs]
    assert len(sums[0]) == 2
    assert sums[0] == sums[1]
    assert "epoch 2/2" in logs[0]
    assert "epoch" not in logs[1]  # rank 0 alone prints

    (checkpoint,) = tmp_path.glob("ckpt/mobilenet_v3_small_100-2_*.ckpt")
    of_both = list(csv.DictReader((tmp_path / "ckpt/results.csv").read_text().splitlines()))[-1]
    log = run(sys.executable, ROOT / "validate.py", *common, "--ckpt_path", checkpoint, cwd=tmp_path)
    assert scores(log) == (f"{float(of_both['top1']):.2%}", "11")


def test_two_ranks_clip_their_mean_gradient_as_one_rank_clips_that_of_all_images(tmp_path):
    script = tmp_path / "clip.py"
    script.write_text(f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from mindspore import Tensor
from mindcv_lite.device.context import start_device
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.train_step import TrainStep
from tests.conftest import SMALLEST
from tests.training.networks import IMAGES, LABELS, WEIGHTS, Dense

keys = SMALLEST | dict(clip_grad=True, clip_value=0.1, num_classes=5)
recipe = load_recipe([f"--{{name}}={{value}}" for name, value in keys.items()], "")
world, network = start_device(recipe), Dense()
optimizer = build_optimizer(network.trainable_params(), recipe, RateTable(lambda step: 1.0, 1), "CPU")
step = TrainStep(network, optimizer, recipe, world, 1)
step.set_train()
mine = slice(world.rank, None, world.size)
step(Tensor(IMAGES[mine]), Tensor(LABELS[mine]), Tensor(WEIGHTS[mine]))
print("weights", *network.dense.weight.asnumpy().ravel().tolist())
""")

    def weights_of(log: str) -> np.ndarray:
        return np.array(re.findall(r"^weights (.*)", log, re.M)[0].split(), np.float64)

    alone = weights_of(msrun(1, script, cwd=tmp_path)[0])  # where the CPU's collectives know of no local rank
    first, second = map(weights_of, msrun(2, script, cwd=tmp_path))
    assert np.array_equal(first, second)
    # The norm is clipped to 0.1, so that the whole move is 0.1: clipping before the mean would move less.
    assert np.abs(alone - WEIGHT.ravel()).max() > 0.01
    np.testing.assert_allclose(first, alone, rtol=0, atol=1e-6)


@of_three_rows
def test_three_ranks_count_ten_images_once_each(image_folder, weights_for, tmp_path):
    images = image_folder({"val": {"a": 5, "b": 5}})
    flags = ("-c", SMALL, "--data_dir", images, *TINY, "--batch_size", 2)
    check = (ROOT / "validate.py", *flags, "--ckpt_path", weights_for("a", "b"))
    several = scores(msrun(3, *check, "--report", "several", cwd=tmp_path)[0])
    assert several[1] == "10"
    alone = (*check, "--batch_size", 100, "--report", "alone")
    assert several == scores(run(sys.executable, *alone, cwd=tmp_path))

    tables = [csv.DictReader((tmp_path / name / "predictions.csv").open()) for name in ("several", "alone")]
    rows, rows_alone = map(list, tables)
    assert [row["path"] for row in rows] == sorted(map(str, (images / "val").rglob("*.jpg")))
    assert several[0] == f"{sum(row['top1'] == '1' for row in rows) / 10:.2%}"
    for row, other in zip(rows, rows_alone, strict=True):
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=1e-4)
    page = (tmp_path / "several" / "report.html").read_text(encoding="utf-8")
    assert f"Top-1 <b>{several[0]}</b>" in page


@of_three_rows
def test_a_broken_image_on_one_rank_ends_all_ranks_and_is_named(image_folder, tmp_path):
    images = image_folder({"train": {"a": 8, "b": 8}, "val": {"a": 2, "b": 2}})
    broken = images / "train/b/5.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    logs = msrun(2, ROOT / "train.py", "-c", SMALL, "--data_dir", images, *TINY, cwd=tmp_path, status=1)
    assert sum(f"{broken}: this image cannot be decoded" in log for log in logs) == 1


@of_three_rows
def test_a_broken_image_in_validation_costs_no_weights_whichever_rank_meets_it(image_folder, tmp_path):
    images = image_folder({"train": {"a": 4, "b": 4}, "val": {"a": 2, "b": 2}})
    broken = images / "val/b/1.jpg"  # the last of four: rank 1 reads it
    broken.write_bytes(broken.read_bytes()[:100])
    flags = ("-c", SMALL, "--data_dir", images, *TINY)
    logs = msrun(2, ROOT / "train.py", *flags, cwd=tmp_path, status=1)
    assert f"{broken}: this image cannot be decoded" in logs[1]
    assert "evaluation counted" in logs[0]
    assert "another rank met an image" in logs[0]
    assert (tmp_path / "ckpt/mobilenet_v3_small_100-1_1.ckpt").exists()


def test_what_fails_on_one_rank_ends_the_others_too(tmp_path):
    script = tmp_path / "fail_on_rank_1.py"
    script.write_text(f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from mindcv_lite.errors import UserError
from mindcv_lite.program import run_script
from mindcv_lite.recipe.load import load_recipe
def fail(): raise UserError("rank 1 has no network")
def main():
    from mindcv_lite.device.context import start_device
    world = start_device(load_recipe(sys.argv[1:], ""))
    print("both have", world.all_or_none(lambda: world.rank))
    world.all_or_none(fail if world.rank else lambda: None)
    print("not reached")
run_script(main)
""")
    logs = msrun(2, script, "-c", SMALL, cwd=tmp_path, status=1)
    assert all(f"both have {rank}" in log for rank, log in enumerate(logs))
    assert "error: another rank cannot go on, see its log" in logs[0]
    assert "error: rank 1 has no network" in logs[1]
    assert "not reached" not in "".join(logs)


def test_the_demo_learns_handwritten_digits(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    demo = ROOT / "configs/mobilenetv3/mobilenet_v3_small_digits.yaml"
    command = [sys.executable, ROOT / "train.py", "--config", demo, "--epoch_size", "4"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    top1 = [float(row["top1"]) for row in csv.DictReader((tmp_path / "ckpt/results.csv").read_text().splitlines())]
    assert max(top1) > 0.9  # chance is 0.1; the 12 epochs of the recipe reach 0.99


@of_three_rows
def test_standard_files_are_trained_on_by_their_recipe(tmp_path):
    write_all(tmp_path / "files", "cifar10")
    recipe = ROOT / "configs/mobilenetv3/mobilenet_v3_small_cifar10.yaml"
    flags = ("--data_dir", "files", "--batch_size", 7, "--image_resize", 32, "--epoch_size", 1, "--warmup_epochs", 0)
    log = run(sys.executable, ROOT / "train.py", "--config", recipe, *flags, cwd=tmp_path)
    assert "files: 15 images of 'train' in 10 classes" in log
    assert "files: 7 images of 'val' in 10 classes" in log
    assert "epoch 1/1: top-1 " in log
    weights = read_weights(str(tmp_path / "ckpt/mobilenet_v3_small_100_best.ckpt"))
    assert weights.class_names == STANDARD["cifar10"].class_names


@of_three_rows
def test_ctrl_c_ends_training_with_a_word(image_folder, tmp_path):
    images = image_folder({"train": {"a": 20, "b": 13}, "val": {"a": 5, "b": 4}})
    flags = (*TINY, "--data_dir", images, "--distribute", "False", "--epoch_size", "10000")
    command = [str(word) for word in (sys.executable, ROOT / "train.py", "-c", SMALL, *flags)]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    results, waited = tmp_path / "ckpt/results.csv", 0
    while not results.exists() and waited < 120:
        time.sleep(0.5)
        waited += 0.5
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGINT, errors
    assert re.fullmatch(r"train.py: stopped after step \d+ .* by Ctrl-C; --resume goes on from there", errors.strip())


def test_a_run_whose_statistics_break_saves_nothing_of_them(image_folder, tmp_path):
    # The variance of a single value has no unbiased estimate: one image a step, and one pixel in the last rows.
    images = image_folder({"train": {"a": 3, "b": 3}, "val": {"a": 1, "b": 1}})
    flags = (*TINY, "--data_dir", images, "--distribute", "False", "--batch_size", 1)
    errors = run(sys.executable, ROOT / "train.py", "-c", SMALL, *flags, cwd=tmp_path, status=1)
    assert "is not finite after this epoch" in errors
    assert not list((tmp_path / "ckpt").glob("*.ckpt"))
