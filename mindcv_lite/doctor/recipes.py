"""The recipes of the checks: the small network on small images, else as the recipes for Ascend have it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindcv_lite.device.ranks import World
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe
from mindcv_lite.recipe.yaml_io import plain

# fmt: off
SMALL = {
    "model": "mobilenet_v3_small_100", "batch_size": 8, "epoch_size": 3, "image_resize": 64, "lr": 0.02,
    "opt": "momentum", "momentum": 0.9, "scheduler": "constant", "warmup_epochs": 0, "weight_decay": 0.00002,
    "weight_decay_filter": "auto", "label_smoothing": 0.1, "amp_level": "O3", "loss_scale": 1024, "jit_level": "O2",
    "dataset_sink_mode": True, "log_interval": 1000, "num_classes": 3,
    "compile_cache": False,
}
# fmt: on


def recipe_of(**keys: Any) -> Recipe:
    """`SMALL` with other values of some keys."""
    return load_recipe([f"--{name}={plain(value)}" for name, value in (SMALL | keys).items()], "")


@dataclass(frozen=True)
class Bench:
    """Where the checks work: the ranks of this run, and a folder that all ranks of a machine have in common."""

    world: World
    folder: Path
    distribute: bool  # whether msrun started this process

    @property
    def has_npu(self) -> bool:
        return self.world.settings.target != "CPU"

    @property
    def sinks(self) -> bool:
        return self.world.settings.sink

    def images(self, purpose: str = "training") -> Path:
        return self.folder / "images" / purpose

    def recipe(self, name: str, **keys: Any) -> Recipe:
        """The recipe of a run whose files go to the folder `name`."""
        settings = {"device_target": self.world.settings.target, "distribute": self.distribute}
        paths = {"data_dir": self.images(), "ckpt_save_dir": self.folder / name}
        return recipe_of(**settings | paths | keys)
