"""The best classes of any images, and why some images have none; whatever computes the logits."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mindcv_lite.data.images.inspection import inspect
from mindcv_lite.errors import UserError
from mindcv_lite.evaluation.predictions import top_predictions
from mindcv_lite.recipe.keys import Recipe

LONGEST = 1000  # longer side / shorter side: resized for 224 x 224, such an image takes 200 MB


@dataclass(frozen=True)
class Classification:
    """What is known of images, by path in the order they were given."""

    best: dict[str, list[tuple[int, float]]]  # outputs and their probabilities, the best first
    flaws: dict[str, str]  # why an image has none
    logits: dict[str, np.ndarray] = field(default_factory=dict)  # those of the first batch alone, each (classes,)


class Predictor(ABC):
    """A network that is ready to predict. `path`: of its checkpoint."""

    path: str
    recipe: Recipe
    class_names: tuple[str, ...]

    @abstractmethod
    def logits_of(self, paths: Sequence[str], flaws: dict[int, str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches: indices of `paths` (batch,), and logits float32 (batch, classes) of these images, prepared as in
        validation. What an index beyond the last path gives is passed over. `flaws`: why images cannot be read, by
        index, complete in the end."""

    def predict(self, paths: Sequence[str], top: int) -> Classification:
        """The `top` best classes of each image; what cannot be read does not stop it.

        Raises `UserError` if an output of the network is no number.
        """
        best: dict[int, list[tuple[int, float]]] = {}
        first: dict[int, np.ndarray] = {}
        flaws: dict[int, str] = {}
        for indices, logits in self.logits_of(paths, flaws):
            if not np.isfinite(logits).all():
                raise UserError(f"{self.path}: the network's outputs are no numbers; its weights are damaged")
            first = first or dict(zip(indices.tolist(), logits, strict=True))
            best |= zip(indices.tolist(), best_classes(logits, top), strict=True)
        read = {index: path for index, path in enumerate(paths) if index in best and index not in flaws}
        unread = {index: path for index, path in enumerate(paths) if index not in read}
        return Classification(
            {path: best[index] for index, path in read.items()},
            {path: flaws.get(index) or flaw_of(path) for index, path in unread.items()},
            {path: first[index] for index, path in read.items() if index in first},
        )


def best_classes(logits: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
    """The `top` outputs of each row of logits (batch, classes), with their probabilities."""
    outputs, probabilities = (array.tolist() for array in top_predictions(logits, top))
    return [list(zip(*row, strict=True)) for row in zip(outputs, probabilities, strict=True)]


def flaw_of(path: str) -> str:
    """Why an image that came to nothing could not be read."""
    return inspect(path).flaw or "MindSpore cannot decode it"


def shape_flaw(width: int, height: int) -> str:
    """Why an image of this size is not resized; nothing if it is."""
    is_narrow = max(width, height) > LONGEST * min(width, height)
    return f"{width} x {height} pixels: too narrow to be resized" if is_narrow else ""
