"""A checkpoint by itself: the recipe that its weights mean, as far as the network and its images go."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspore import nn

from mindcv_lite.checkpoints.conversion.key_mapping import our_parameters
from mindcv_lite.checkpoints.model_card import CARD_NAME, MINDCV_CONVENTIONS, meant_by_card, settled_by_card
from mindcv_lite.checkpoints.weights import (
    Weights,
    load_weights,
    network_part,
    read_weights,
    with_image_size_of,
    with_outputs_of,
)
from mindcv_lite.data.datasets import classes
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.models.build import build_network, evaluation_network
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import recipe_without_training
from mindcv_lite.recipe.values import checked_value


@dataclass(frozen=True)
class Trained:
    """Weights, and the recipe by which a network takes them and images are prepared. `class_names`: of its outputs."""

    weights: Weights
    recipe: Recipe
    class_names: tuple[str, ...]

    def network(self, world: World | None = None) -> nn.Cell:
        """The network in evaluation: images float32 (batch, channels, height, width) -> logits (batch, classes).

        Of MindSpore's own operators in float32, or as the device of `world` computes it best.
        """
        network = evaluation_network(self.recipe.model, world) if world else build_network(self.recipe.model, "O0")
        load_weights(network, self.weights)
        return network.set_train(False)


def read_trained(path: str, **keys: Any) -> Trained:
    """Read a checkpoint of this project, or MindCV's, which has no card and means MindCV's conventions.

    `keys`: of a recipe, where the user wants others than the card's or the defaults. Raises `UserError` where the file
    is missing, damaged or of another network, or a key is wrong.
    """
    weights = read_weights(path)
    card = weights.card or MINDCV_CONVENTIONS | {"model": model_of(weights)}
    recipe = recipe_without_training(**keys)
    meant = meant_by_card(recipe, card, path)
    if "image_resize" not in keys:
        meant["image_resize"] = checked_value("image_resize", card["image_resize"], f"{path}: {CARD_NAME}")
    recipe = with_outputs_of(weights, recipe.with_keys(**meant))
    return Trained(weights, recipe, class_names_of(weights))


def recipe_to_evaluate(weights: Weights, recipe: Recipe) -> Recipe:
    """The recipe by which `weights` are evaluated: what their card decides, their classes and their image size; without
    a card, which network they are of.

    Raises `UserError` where a key that was given contradicts the weights.
    """
    if weights.card:
        recipe = settled_by_card(recipe, weights.card, weights.path)
    elif "model" not in recipe.origin:
        recipe = recipe.with_keys(model=model_of(weights))
    if recipe.model.quantize and not (weights.card and weights.card.get("quantize")):
        raise UserError(
            f"{weights.path}: was trained without quantize, and has no ranges: leave out --quantize; training with "
            "it makes a checkpoint that has them"
        )
    return with_image_size_of(weights, with_outputs_of(weights, recipe))


def model_of(weights: Weights) -> str:
    """The network that the weights of a file without a card fit. Raises `UserError` if they fit none."""
    tensors = {name: value.asnumpy() for name, value in network_part(weights).items()}
    return our_parameters(tensors, "mindcv", Path(weights.path))[0]


def class_names_of(weights: Weights) -> tuple[str, ...]:
    """The names of the outputs: the card's, or ImageNet's where there are 1000, or their numbers."""
    if weights.class_names:
        return tuple(name or str(output) for output, name in enumerate(weights.class_names))
    if weights.num_classes == len(classes.NAMES):
        return classes.NAMES
    return tuple(map(str, range(weights.num_classes)))
