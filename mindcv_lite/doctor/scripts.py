"""train.py and validate.py, called as a user calls them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindcv_lite import scripts
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.results import RESULTS, EpochResult, read_results

if TYPE_CHECKING:
    from mindcv_lite.evaluation.score import Score
    from mindcv_lite.training.recorder import RunRecorder


def script(name: str) -> Path:
    """The path of train.py or validate.py."""
    return Path(scripts.__file__).with_name(f"{name}.py")


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
    from mindcv_lite.scripts.train import train

    record = train(recipe)
    assert record, "no check is a dry run"
    folder, world = Path(recipe.output.ckpt_save_dir), record.world
    return Run(folder, record, world.all_or_none(lambda: read_results(folder / RESULTS) if world.rank == 0 else []))


def validate(recipe: Recipe) -> "Score":
    """The score that validate.py gives the recipe's checkpoint."""
    from mindcv_lite.scripts.validate import validate

    return validate(recipe)
