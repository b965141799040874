"""train.py and validate.py, called as a user calls them."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindcv_lite.doctor.findings import NotRun
from mindcv_lite.doctor.programs import ROOT
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.results import RESULTS, EpochResult, read_results

if TYPE_CHECKING:
    from types import ModuleType

    from mindcv_lite.evaluation.score import Score
    from mindcv_lite.training.recorder import RunRecorder


def script(name: str) -> Path:
    """The path of train.py or validate.py. Raises `NotRun` where the package alone is installed."""
    path = ROOT / f"{name}.py"
    if not path.is_file():
        raise NotRun(f"{name}.py is not beside the package: run doctor in a clone of the project")
    return path


def loaded(name: str) -> "ModuleType":
    spec = importlib.util.spec_from_file_location(name, script(name))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Run:
    """A training that has ended. `results`: a line for each epoch; on rank 0 alone."""

    folder: Path
    record: "RunRecorder"
    results: list[EpochResult]

    @property
    def losses(self) -> list[float]:
        return [result.train_loss for result in self.results if result.train_loss is not None]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return {name: each.asnumpy() for name, each in self.record.step.network.parameters_dict().items()}


def train(recipe: Recipe) -> Run:
    """What train.py makes of a recipe."""
    record = loaded("train").train(recipe)
    folder, world = Path(recipe.output.ckpt_save_dir), record.world
    return Run(folder, record, world.all_or_none(lambda: read_results(folder / RESULTS) if world.rank == 0 else []))


def validate(recipe: Recipe) -> "Score":
    """The score that validate.py gives the recipe's checkpoint."""
    return loaded("validate").validate(recipe)
