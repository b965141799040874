"""The best classes of any images, and why some images have none."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from mindspore import Tensor

from mindcv_lite.checkpoints.trained import Trained
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.images.decoding import NOT_DECODED, as_bmp, opened
from mindcv_lite.data.images.inspection import inspect
from mindcv_lite.data.pipeline import evaluation_batches
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.evaluation.predictions import top_predictions
from mindcv_lite.evaluation.score import Inference
from mindcv_lite.program import progress_bar

BLACK = as_bmp(np.zeros((1, 4, 4, 3), np.uint8))[0]
LONGEST = 1000  # longer side / shorter side: resized for 224 x 224, such an image takes 200 MB
NOWHERE = ""  # the path of no file


@dataclass(frozen=True)
class Classification:
    """What is known of images, by path in the order they were given."""

    best: dict[str, list[tuple[int, float]]]  # outputs and their probabilities, the best first
    flaws: dict[str, str]  # why an image has none


class Predictor:
    """A checkpoint's network, ready to predict: its graph is compiled once."""

    def __init__(self, trained: Trained, world: World):
        self.trained, self.world = trained, world
        self.inference = Inference(trained.network(world), trained.recipe.augmentation, world.cpu_kernels)

    def predict(self, paths: Sequence[str], top: int) -> Classification:
        """The `top` best classes of each image, prepared as in validation; what cannot be read does not stop it.

        Raises `UserError` if an output of the network is no number.
        """
        # MindSpore puts a sound image in the place of one that it cannot decode. So there must be one: the last is
        # black.
        numbers = np.arange(len(paths) + 1, dtype=np.int32)
        split = ImagesOrBlack([*paths, NOWHERE], numbers, self.trained.class_names)
        batches = evaluation_batches(split, self.trained.recipe, self.world)
        best: dict[int, list[tuple[int, float]]] = {}
        for images, numbers, _ in progress_bar(batches, "predict", unit="batch", shown=len(batches) > 1):
            logits = self.inference(Tensor(images)).asnumpy()
            if not np.isfinite(logits).all():
                path = self.trained.weights.path
                raise UserError(f"{path}: the network's outputs are no numbers; its weights are damaged")
            best |= zip(numbers.tolist(), best_classes(logits, top), strict=True)
        read = {number: path for number, path in enumerate(paths) if number in best and number not in split.flaws}
        unread = {number: path for number, path in enumerate(paths) if number not in read}
        return Classification(
            {path: best[number] for number, path in read.items()},
            {path: split.flaws.get(number) or _flaw_of(path) for number, path in unread.items()},
        )


def best_classes(logits: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
    """The `top` outputs of each row of logits (batch, classes), with their probabilities."""
    outputs, probabilities = (array.tolist() for array in top_predictions(logits, top))
    return [list(zip(*row, strict=True)) for row in zip(outputs, probabilities, strict=True)]


def _flaw_of(path: str) -> str:
    """Why an image that came to nothing could not be read."""
    return inspect(path).flaw or "MindSpore cannot decode it"


@dataclass(frozen=True)
class ImagesOrBlack(Split):
    """Images. A black one replaces each whose header cannot be read, or that is so long that resized it would take all
    memory. `flaws`, by an image's number, are complete when all were read."""

    flaws: dict[int, str] = field(default_factory=dict)

    def content(self, index: int) -> np.ndarray:
        content = super().content(index)
        try:
            with opened(content.tobytes()) as image:  # its header: 0.03 ms, where decoding it once more takes 0.9
                width, height = image.size
        except (*NOT_DECODED, MemoryError):
            self.flaws[index] = _flaw_of(self.paths[index])
        else:
            if max(width, height) <= LONGEST * min(width, height):
                return content
            self.flaws[index] = f"{width} x {height} pixels: too narrow to be resized"
        self.refused.pop(index, None)
        return BLACK
