"""The shipped recipes: each loads, says what it is, and holds the published numbers."""

import re
import shlex
from pathlib import Path

import pytest

from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.training.schedules import learning_rate, misfit
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))
ASCEND = [path for path in CONFIGS if path.stem.endswith("_ascend")]

each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
each_ascend_config = pytest.mark.parametrize("path", ASCEND, ids=lambda path: path.stem)


def load(path: Path | str, *flags: str) -> Recipe:
    return load_recipe(["--config", str(path), *flags], "")


def opening(path: Path) -> str:
    """The comment that a recipe opens with."""
    return re.match("(#.*\n)*", path.read_text()).group()  # type: ignore[union-attr]  # matches nothing at all, too


def commands(path: Path) -> list[list[str]]:
    """The command lines of the opening comment."""
    return [shlex.split(line) for line in re.findall(r"^#   (.*)$", opening(path), re.M)]


def test_there_is_a_recipe_for_each_published_result_and_the_demo():
    names = {path.stem for path in CONFIGS}
    assert {"mobilenet_v3_small_ascend", "mobilenet_v3_large_ascend", "mobilenet_v3_small_digits"} <= names


@each_config
def test_a_recipe_loads_and_its_schedule_ends_with_its_epochs(path):
    recipe = load(path)
    assert misfit(recipe.schedule, recipe.optimizer.lr, steps_per_epoch=10) is None


@each_config
def test_a_recipe_is_named_after_its_network(path):
    family = re.sub("(_distill|_strong)?_(ascend|paper|finetune|digits|cifar10)$", "", path.stem)
    assert load(path).model.model == (family if re.search(r"_\d+$", family) else f"{family}_100")


@each_config
def test_a_recipe_opens_with_what_it_gives_on_what_data(path):
    first_line, rest = opening(path).split("\n", 1)
    assert re.match(r"# MobileNetV3-(Small|Large) ", first_line)
    data = ("on ImageNet-1K, 224 x 224", "on your own images", "handwritten digits", "on CIFAR-10")
    assert any(each in first_line for each in data)
    assert re.search(r"top-1 [\d.]+ %.*\(.*Ascend|[\d.]+ % top-1 .*CPU|No result", rest.replace("\n# ", " "))


@each_config
def test_its_command_lines_are_commands_for_this_recipe(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert commands(path)
    for command in commands(path):
        launcher, arguments = command[: command.index("python")], command[command.index("python") + 1 :]
        script, *flags = arguments
        assert script == "train.py"
        assert Path(flags[flags.index("--config") + 1]) == path.relative_to(ROOT)
        recipe = load_recipe(flags, "")
        assert recipe.system.distribute == bool(launcher)
        assert launcher in ([], ["msrun", "--bind_core=True", "--worker_num", "8"])
        assert recipe.data.dataset == "digits" or recipe.data.data_dir


@each_ascend_config
def test_an_ascend_recipe_shows_a_command_for_eight_devices_and_one_for_one(path):
    assert [command[0] for command in commands(path)] == ["msrun", "python"]


@each_config
def test_a_recipe_fits_the_page(path):
    """Command lines apart, which can be copied only as one line."""
    for line in path.read_text().splitlines():
        assert len(line) <= 128 or line.startswith("#   "), line
        assert line == line.rstrip()


def test_the_demo_asks_for_nothing_but_a_processor():
    recipe = load(ROOT / "configs/mobilenetv3/mobilenet_v3_small_digits.yaml")
    assert (recipe.data.dataset, recipe.data.data_dir) == ("digits", "")
    assert not recipe.system.distribute
    assert recipe.system.device_target == "auto"
    assert recipe.precision.amp_level == "O0"
    assert recipe.augmentation.hflip == 0  # a mirrored digit is another sign


# ------------------------------------------------------------------------------------------ MindCV's published recipes

# The two files as MindCV writes them, key by key; MindCV leaves color_jitter of the large one to its default.
PUBLISHED = """
# system
mode: 0
distribute: True
num_parallel_workers: 8
val_while_train: True

# dataset
dataset: 'imagenet'
data_dir: '/path/to/imagenet'
shuffle: True
dataset_download: False
batch_size: 75
drop_remainder: True
train_split: train

# augmentation
image_resize: 224
scale: [0.08, 1.0]
ratio: [0.75, 1.333]
hflip: 0.5
interpolation: 'bilinear'
crop_pct: 0.875
{augmentation}
# model
model: '{model}'
num_classes: 1000
pretrained: False
ckpt_path: ''
keep_checkpoint_max: 30
ckpt_save_dir: './ckpt'
epoch_size: {epoch_size}
dataset_sink_mode: True
amp_level: 'O3'

# loss
loss: 'CE'
label_smoothing: 0.1

# lr scheduler
scheduler: 'cosine_decay'
min_lr: 0.0
lr: {lr}
warmup_epochs: 4
decay_epochs: {decay_epochs}

# optimizer
opt: 'momentum'
weight_decay_filter: 'auto'
momentum: 0.9
weight_decay: 0.00002
loss_scale: 1024
use_nesterov: False
"""
SMALL = {
    "augmentation": "color_jitter: 0.4\n",
    "model": "mobilenet_v3_small_100",
    "epoch_size": 470,
    "lr": 0.77,
    "decay_epochs": 466,
}
LARGE = {
    "augmentation": "",
    "model": "mobilenet_v3_large_100",
    "epoch_size": 420,
    "lr": 1.08,
    "decay_epochs": 416,
}


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
def published(request, tmp_path) -> Recipe:
    """A recipe file of MindCV, loaded as it is."""
    path = tmp_path / "mindcv.yaml"
    path.write_text(PUBLISHED.format(**request.param))
    return load(path)


def ours(published: Recipe) -> Recipe:
    """Our recipe for the same network."""
    return load(ROOT / f"configs/mobilenetv3/{published.model.model.removesuffix('_100')}_ascend.yaml")


def test_a_published_recipe_means_here_what_it_says(published):
    small = published.model.model == "mobilenet_v3_small_100"
    expected = {
        "epoch_size": 470 if small else 420,
        "lr": 0.77 if small else 1.08,
        "decay_epochs": 466 if small else 416,
        "batch_size": 75,
        "warmup_epochs": 4,
        "min_lr": 0.0,
        "scheduler": "cosine_decay",
        "opt": "momentum",
        "momentum": 0.9,
        "weight_decay": 2e-5,
        "weight_decay_filter": "auto",
        "use_nesterov": False,
        "loss": "CE",
        "label_smoothing": 0.1,
        "amp_level": "O3",
        "loss_scale": 1024.0,
        "num_classes": 1000,
        "scale": (0.08, 1.0),
        "ratio": (0.75, 1.333),
        "hflip": 0.5,
        "color_jitter": 0.4,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "image_resize": 224,
        "num_parallel_workers": 8,
        "distribute": True,
        "dataset_sink_mode": True,
        "val_while_train": True,
        "keep_checkpoint_max": 30,
        "ckpt_save_dir": "./ckpt",
        "mode": 0,
        "ckpt_path": "",
    }
    flat = published.flat()
    assert {name: flat[name] for name in expected} == expected


def test_what_a_published_recipe_leaves_out_is_mindcvs_default(published):
    expected = {
        "seed": 42,
        "val_split": "val",
        "vflip": 0.0,
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
        "warmup_factor": 0.0,
        "drop_rate": 0.2,
        "log_interval": 100,
        "val_interval": 1,
        "ckpt_save_policy": "latest_k",
        "ckpt_save_interval": 1,
        "loss_scale_type": "fixed",
        "drop_overflow_update": False,
        "lr_epoch_stair": False,
        "num_cycles": 1,
        "cycle_decay": 1.0,
        "decay_rate": 0.9,
        "multi_step_decay_milestones": (30, 60, 90),
        "eps": 1e-10,
        "jit_level": "O2",
    }
    flat = published.flat()
    assert {name: flat[name] for name in expected} == expected


def test_our_recipe_differs_from_the_published_one_in_what_follows_the_run_alone(published):
    theirs, flat = published.flat(), ours(published).flat()
    differing = {name for name in flat if flat[name] != theirs[name]}
    assert differing == {"decay_epochs", "base_batch_size", "data_dir"}
    assert flat["decay_epochs"] is None
    assert flat["base_batch_size"] == 8 * theirs["batch_size"]


def test_and_has_the_same_learning_rate_at_every_step(published):
    rates = [learning_rate(recipe.schedule, 1.0, steps_per_epoch=3) for recipe in (published, ours(published))]
    for step in range(3 * published.schedule.epoch_size):
        assert rates[0](step) == rates[1](step)


@each_ascend_config
def test_at_three_quarters_of_the_width_all_else_stays(path):
    narrow, full = load(path).flat(), load(str(path).replace("_075", "")).flat()
    assert {name for name in full if full[name] != narrow[name]} <= {"model"}
