"""What a notebook needs: load a checkpoint and classify images, train, evaluate, create a network.

Mistakes are exceptions (`UserError`, `TrainingError`) with the sentences of the programs. Signals, log and process stay
the caller's. MindSpore's context is set to graph mode.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from mindcv_lite.checkpoints.inference import read_trained
from mindcv_lite.checkpoints.pretrained import starting_weights
from mindcv_lite.checkpoints.weights import load_weights, settled_by_card
from mindcv_lite.data.datasets.image_folder import images_at
from mindcv_lite.device.start import for_evaluation, start_device
from mindcv_lite.errors import UserError
from mindcv_lite.evaluation.predict import Predictor
from mindcv_lite.evaluation.score import Score
from mindcv_lite.files import require_checkpoint
from mindcv_lite.models.build import build_network
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import recipe_of, recipe_without_training
from mindcv_lite.recipe.rules import require_paths, require_startable

if TYPE_CHECKING:
    from mindspore import nn

    from mindcv_lite.training.recorder import RunRecorder

ImageLike: TypeAlias = str | Path | np.ndarray | Image.Image
Prediction: TypeAlias = list[tuple[str, float]]  # class names and probabilities, the best first

BATCH_SIZE = 16


class Classifier:
    """A checkpoint that classifies images. Its graph is compiled once, with the first image.

    Args:
        path: a `.ckpt` file of this project or of MindCV.
        keys: of a recipe, such as `device_target` or `image_resize`.
    """

    def __init__(self, path: str | Path, **keys: Any):
        require_checkpoint(path)
        self.trained = read_trained(str(path), **{"batch_size": BATCH_SIZE, "on_corrupt": "replace", **keys})
        self.predictor: Predictor | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.trained.class_names

    def predict(self, images: ImageLike | Sequence[ImageLike], top: int = 5) -> list[Prediction]:
        """The `top` best classes of each image.

        Args:
            images: paths, RGB or grey arrays uint8 (height, width, 3) or (height, width), PIL images; one or several.
        """
        given = [images] if isinstance(images, (str, Path, np.ndarray, Image.Image)) else list(images)
        if not self.predictor:
            recipe = self.trained.recipe
            self.predictor = Predictor(self.trained, for_evaluation(start_device(recipe), recipe, len(given)))
        with TemporaryDirectory() as folder:
            paths = [_path_of(image, Path(folder, f"image_{number}.png")) for number, image in enumerate(given)]
            found = self.predictor.predict(list(dict.fromkeys(paths)), top)
        if found.flaws:
            path, flaw = next(iter(found.flaws.items()))
            raise UserError(f"{path}: this image cannot be read: {flaw}")
        return [[(self.class_names[output], chance) for output, chance in found.best[path]] for path in paths]


def _path_of(image: ImageLike, unnamed: Path) -> str:
    """The file of an image; `unnamed`: where one is written that has none. Raises `UserError`."""
    if isinstance(image, (str, Path)):
        if not Path(image).is_file():
            raise UserError(f"{image}: no such image")
        return str(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            expected = "uint8 (height, width, 3) or (height, width)"
            raise UserError(f"an image as an array: expected {expected}, got {image.dtype} {image.shape}")
        image = Image.fromarray(image)
    image.convert("L" if image.mode in ("1", "L") else "RGB").save(unnamed)
    return str(unnamed)


def load_checkpoint(path: str | Path, **keys: Any) -> Classifier:
    """A classifier of a checkpoint. Raises `UserError` if it is missing, damaged or of another network."""
    return Classifier(path, **keys)


def predict(checkpoint: str | Path, paths: str | Path | Sequence[str | Path], top: int = 5) -> dict[str, Prediction]:
    """The best classes of images, by path. `paths`: images, folders or glob patterns."""
    given = [paths] if isinstance(paths, (str, Path)) else paths
    found = images_at([str(path) for path in given])
    return dict(zip(found, Classifier(checkpoint).predict(found, top), strict=True))


def load_recipe(config: str | Path | None = None, **keys: Any) -> Recipe:
    """The recipe of a YAML file or of a shipped one by its name, with other values of some keys."""
    return recipe_of(str(config) if config else None, **keys)


def train(recipe: Recipe) -> "RunRecorder | None":
    """Train by a recipe, as `train.py` does. Returns the run: its `best` and `last` checkpoint, `top1` and `folder`."""
    from mindcv_lite.scripts.train import train

    require_startable(recipe)
    return train(recipe)


def evaluate(checkpoint: str | Path, data_dir: str | Path = "", **keys: Any) -> Score:
    """The score of a checkpoint over the validation split of `data_dir`, as `validate.py` computes it: its `top1`,
    `top5` (0 to 1), `loss` and the number of `images`."""
    from mindcv_lite.scripts.validate import validate

    require_checkpoint(checkpoint)
    recipe = recipe_without_training(ckpt_path=checkpoint, data_dir=data_dir, **keys)
    require_paths(recipe)
    return validate(recipe)


def create_model(
    name: str = "mobilenet_v3_small_100", pretrained: bool | str | Path = False, num_classes: int | None = None
) -> "nn.Cell":
    """A network: normalised images float32 (batch, 3, height, width) to logits (batch, num_classes). Its `features`
    give (batch, channels, height / 32, width / 32).

    Args:
        name: one of the `model` values of a recipe.
        pretrained: True: the weights that MindCV published, downloaded once; a path: those of a checkpoint.
        num_classes: left out, those of the weights, or 1000. Another number makes a new last layer.
    """
    given: dict[str, Any] = {"ckpt_path": str(pretrained)} if not isinstance(pretrained, bool) else {}
    if given:
        require_checkpoint(given["ckpt_path"])
    recipe = recipe_without_training(model=name, pretrained=pretrained is True, **given)
    weights = starting_weights(recipe, start_device(recipe))
    if weights and weights.card:
        recipe = settled_by_card(recipe, weights.card, weights.path)
    model = replace(recipe.model, num_classes=num_classes or (weights.num_classes if weights else 1000))
    network = build_network(model, "O0")
    if weights:
        load_weights(network, weights, remake_head=True)
    return network.set_train(False)
