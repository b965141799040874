"""What a notebook needs: load a checkpoint and classify images, train, evaluate, create a network.

Mistakes are exceptions (`UserError`, `TrainingError`) with the sentences of the programs. The log stays the caller's,
and so do signals but for SIGTERM. MindSpore's context is set to graph mode.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import mindspore.dataset as ds
import numpy as np
from PIL import Image

from mindcv_lite.checkpoints.model_card import settled_by_card
from mindcv_lite.checkpoints.pretrained import starting_weights
from mindcv_lite.checkpoints.trained import read_trained
from mindcv_lite.checkpoints.weights import load_weights, with_input_channels
from mindcv_lite.data.datasets.image_folder import images_at
from mindcv_lite.data.images.decoding import grey_or_rgb
from mindcv_lite.device.context import for_evaluation, start_device
from mindcv_lite.device.memory import memory_for
from mindcv_lite.errors import UserError
from mindcv_lite.evaluation.mindspore_predictor import MindSporePredictor
from mindcv_lite.evaluation.score import Score
from mindcv_lite.files import require_checkpoint
from mindcv_lite.models.build import build_network
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import recipe_of, recipe_without_training
from mindcv_lite.recipe.rules import require_paths, require_startable
from mindcv_lite.signals import take_sigterm_for_ctrl_c

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
        fixed = {"on_corrupt": "replace", "dataset_sink_mode": False}
        self.trained = read_trained(str(path), **{"batch_size": BATCH_SIZE, **keys, **fixed})
        self.predictor: MindSporePredictor | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.trained.class_names

    def predict(self, images: ImageLike | Sequence[ImageLike], top: int = 5) -> list[Prediction]:
        """The `top` best classes of each image. Raises `UserError` that names an image that cannot be read.

        Args:
            images: paths, RGB or grey arrays uint8 (height, width, 3) or (height, width), PIL images; one or several.
        """
        given = [images] if isinstance(images, (str, Path, np.ndarray, Image.Image)) else list(images)
        if top < 1:
            raise UserError(f"top: expected a whole number from 1 on, got {top}")
        with _as_a_guest(), TemporaryDirectory() as folder:
            paths = [_path_of(image, number, Path(folder)) for number, image in enumerate(given)]
            if not self.predictor:
                recipe = self.trained.recipe
                world = for_evaluation(start_device(recipe, seeds=False), recipe, len(given))
                self.predictor = MindSporePredictor(self.trained, world)
            found = self.predictor.predict(list(dict.fromkeys(paths)), top)
        for number, path in enumerate(paths):
            if path in found.flaws:
                name = path if isinstance(given[number], (str, Path)) else f"image {number}"
                raise UserError(f"{name}: this image cannot be read: {found.flaws[path]}")
        return [[(self.class_names[output], chance) for output, chance in found.best[path]] for path in paths]


def _path_of(image: ImageLike, number: int, folder: Path) -> str:
    """The file of an image; one is written in `folder` if it has none. Raises `UserError`."""
    if isinstance(image, (str, Path)):
        if not Path(image).is_file():
            raise UserError(f"{image}: no such image")
        return str(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
            expected = "uint8 (height, width, 3) or (height, width)"
            raise UserError(f"image {number}: expected an array {expected}, got {image.dtype} {image.shape}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image) or image.mode == "F":
        kind = "a PIL image of mode F" if isinstance(image, Image.Image) else type(image).__name__
        raise UserError(f"image {number}: expected a path, a NumPy array or a PIL image of 8 or 16 bits, got {kind}")
    path = folder / f"{number}.bmp"
    try:
        grey_or_rgb(image).save(path)
    except OSError as error:  # a file that is cut short is read only now
        raise UserError(f"image {number}: this image cannot be read: {error}") from None
    return str(path)


@contextmanager
def _as_a_guest() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt`, and MindSpore's datasets do afterwards with broken images what they did."""
    take_sigterm_for_ctrl_c()
    mode = ds.config.get_error_samples_mode()
    try:
        yield
    finally:
        ds.config.set_error_samples_mode(mode)


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
    with _as_a_guest(), memory_for(recipe, trains=True):
        return train(recipe)


def evaluate(checkpoint: str | Path, data_dir: str | Path = "", **keys: Any) -> Score:
    """The score of a checkpoint over the validation split of `data_dir`, as `validate.py` computes it: its `top1`,
    `top5` (None of five classes or fewer) and `balanced_accuracy`, 0 to 1; `loss` and the number of `images`."""
    from mindcv_lite.scripts.validate import validate

    require_checkpoint(checkpoint)
    recipe = recipe_without_training(ckpt_path=checkpoint, data_dir=data_dir, **keys)
    require_paths(recipe)
    with _as_a_guest(), memory_for(recipe):
        return validate(recipe)


def create_model(
    name: str | None = None,
    pretrained: bool | str | Path = False,
    num_classes: int | None = None,
    in_channels: int | None = None,
) -> "nn.Cell":
    """A network: normalised images float32 (batch, in_channels, height, width) to logits (batch, num_classes). Its
    `features` give (batch, channels, height / 32, width / 32).

    Args:
        name: one of the `model` values of a recipe; left out, that of the checkpoint, or `mobilenet_v3_small_100`.
        pretrained: True: the weights that MindCV published, downloaded once; a path: those of a checkpoint.
        num_classes: left out, those of the weights, or 1000. Another number makes a new last layer.
        in_channels: left out, those of the weights, or 3. Weights of colour images are summed over them for 1 channel,
            and repeated for others, as in timm.
    """
    if in_channels is not None and (type(in_channels) is not int or in_channels < 1):
        raise UserError(f"in_channels: expected a whole number from 1 on, got {in_channels!r}")
    given: dict[str, Any] = {"model": name} if name else {}
    if not isinstance(pretrained, bool):
        require_checkpoint(pretrained)
        given["ckpt_path"] = pretrained
    off = {"cpu_kernels": "off", "dataset_sink_mode": False}  # plain MindSpore
    recipe = recipe_without_training(pretrained=pretrained is True, **given, **off)
    take_sigterm_for_ctrl_c()
    world = start_device(recipe, seeds=False)
    weights = starting_weights(recipe, world)
    if weights and weights.card:
        recipe = settled_by_card(recipe, weights.card, weights.path)
    if weights and recipe.model.quantize:
        text = "was trained with quantize {}, and this network does not round; load_checkpoint takes it"
        raise UserError(f"{weights.path}: {text.format(recipe.model.quantize)}")
    if weights and in_channels:
        weights = with_input_channels(weights, in_channels)
    num_classes = num_classes or (weights.num_classes if weights else 1000)
    model = replace(recipe.model, num_classes=num_classes)
    if in_channels:
        # pyrefly: ignore [bad-argument-type]  (a recipe's images have 1 or 3; the network takes any number)
        model = replace(model, in_channels=in_channels)
    network = build_network(model, "O0", world.settings.target)
    if weights:
        load_weights(network, weights, remake_head=True)
    return network.set_train(False)
