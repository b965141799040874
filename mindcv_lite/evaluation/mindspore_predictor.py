"""Predictions that MindSpore computes, of images that its pipeline prepares."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from mindspore import Tensor

from mindcv_lite.checkpoints.trained import Trained
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.images.decoding import NOT_DECODED, as_bmp, opened
from mindcv_lite.data.pipeline import evaluation_batches
from mindcv_lite.device.ranks import World
from mindcv_lite.evaluation.predict import Predictor, flaw_of, shape_flaw
from mindcv_lite.evaluation.score import Inference
from mindcv_lite.program import progress_bar

BLACK = as_bmp(np.zeros((1, 4, 4, 3), np.uint8))[0]
NOWHERE = ""  # the path of no file


class MindSporePredictor(Predictor):
    """A checkpoint's network, ready to predict: its graph is compiled once."""

    def __init__(self, trained: Trained, world: World):
        self.world = world
        self.path, self.recipe, self.class_names = trained.weights.path, trained.recipe, trained.class_names
        self.inference = Inference(trained.network(world), trained.recipe.augmentation, world.cpu_kernels)

    def parameters(self) -> dict[str, np.ndarray]:
        """Those of the network, by name."""
        return {name: value.asnumpy() for name, value in self.inference.network.parameters_dict().items()}

    def logits_of(self, paths: Sequence[str], flaws: dict[int, str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # MindSpore puts a sound image in the place of one that it cannot decode. So there must be one: the last is
        # black.
        numbers = np.arange(len(paths) + 1, dtype=np.int32)
        split = ImagesOrBlack([*paths, NOWHERE], numbers, self.class_names, flaws)
        batches = evaluation_batches(split, self.recipe, self.world)
        for images, indices, _ in progress_bar(batches, "predict", unit="batch", shown=len(batches) > 1):
            yield indices, self.inference(Tensor(images)).asnumpy()


@dataclass(frozen=True)
class ImagesOrBlack(Split):
    """Images. A black one replaces each whose header cannot be read, or that is so long that resized it would take all
    memory. `flaws`, by an image's index, are complete when all were read."""

    flaws: dict[int, str] = field(default_factory=dict)

    def content(self, index: int) -> np.ndarray:
        content = super().content(index)
        try:
            with opened(content.tobytes()) as image:  # its header: 0.03 ms, where decoding it once more takes 0.9
                flaw = shape_flaw(*image.size)
        except (*NOT_DECODED, MemoryError):
            flaw = flaw_of(self.paths[index])
        if not flaw:
            return content
        self.flaws[index] = flaw
        self.refused.pop(index, None)
        return BLACK
