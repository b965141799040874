"""Weights files: what is in one, and whether it fits the network."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindcv_lite.checkpoints.ckpt_file import read_entries
from mindcv_lite.checkpoints.model_card import CARD_NAME, parsed_card
from mindcv_lite.errors import UserError
from mindcv_lite.recipe.keys import Recipe, size_of
from mindcv_lite.recipe.values import checked_value, for_grey_images

log = logging.getLogger(__name__)

FACTS_NAME = "run"  # what the state of a run has in place of a model card
NETWORK_NAMES = ("features.", "classifier.")
STEM = "features.0.weight"  # of the first convolution: (outputs, channels of the images, 3, 3)
HEAD = ("classifier.3.weight", "classifier.3.bias")


@dataclass(frozen=True)
class Weights:
    """A weights file that was read: parameters by name, and the model card, which files of others do not have."""

    path: str
    parameters: dict[str, Parameter]
    card: dict[str, Any] | None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes of the network's outputs, in order, where the card knows them."""
        return tuple(self.card["class_names"]) if self.card and self.card["class_names"] else None

    @property
    def num_classes(self) -> int:
        """The outputs of the network. Raises `UserError` if its last layer is missing."""
        last = self.parameters.get(HEAD[0])
        if last is None or last.ndim != 2:
            raise UserError(f"{self.path}: no weights of MobileNetV3, or not all of them: '{HEAD[0]}' is missing")
        return last.shape[0]


def read_weights(path: str) -> Weights:
    """Read a `.ckpt` file of this project or of MindCV. Raises `UserError` if it is missing, foreign or damaged."""
    content, checked = read_entries(path)
    if FACTS_NAME in content:
        raise UserError(
            f"{path}: the state of a run, no weights: these are in its folder; train.py --resume {path} goes on"
        )
    card = content.pop(CARD_NAME, None)
    if card is not None and not checked:
        raise UserError(f"{path}: its checksum is missing: the file was cut short; use another copy of it")
    parameters = {name: value for name, value in content.items() if isinstance(value, Parameter)}
    return Weights(path, parameters, None if card is None else parsed_card(str(card), path))


def with_outputs_of(weights: Weights, recipe: Recipe) -> Recipe:
    """The recipe with the num_classes of the weights. Raises `UserError` if the recipe has another number."""
    found, wanted = weights.num_classes, recipe.model.num_classes
    if wanted not in (None, found):
        raise UserError(f"{weights.path}: its num_classes is {found}, the recipe's {wanted}; --num_classes {found}")
    return recipe.with_keys(num_classes=found)


def with_image_size_of(weights: Weights, recipe: Recipe) -> Recipe:
    """The recipe with the image_resize of the card, unless it names one; where that is another, a line says so."""
    if not weights.card:
        return recipe
    trained = checked_value("image_resize", weights.card["image_resize"], f"{weights.path}: {CARD_NAME}")
    if "image_resize" not in recipe.origin:
        return recipe.with_keys(image_resize=trained)
    if (wanted := recipe.augmentation.input_size) != size_of(trained):
        line = "%s was trained on images of %d x %d pixels, image_resize is %d x %d"
        log.info(line, weights.path, *size_of(trained), *wanted)
    return recipe


def with_input_channels(weights: Weights, in_channels: int) -> Weights:
    """Weights of colour images for images of another number of channels, by timm's rule (`adapt_input_conv`).

    Grey images: the first convolution is summed over its input channels, and mean and std are the mean of three. More
    channels: its input channels are repeated, and scaled by 3 / `in_channels`. Other weights stay as they are.
    """
    stem = weights.parameters.get(STEM)
    if in_channels == 3 or stem is None or stem.shape[1:2] != (3,):
        return weights
    kernels = stem.asnumpy().astype(np.float32)
    if in_channels == 1:
        kernels, how = kernels.sum(1, keepdims=True), "summed over the 3 channels of colour images, for grey ones"
    else:
        kernels = np.tile(kernels, (1, -(-in_channels // 3), 1, 1))[:, :in_channels] * (3 / in_channels)
        how = f"repeated from 3 to {in_channels} channels"
    log.info("%s: the first convolution is %s", weights.path, how)
    card = weights.card
    if card and in_channels == 1:
        grey = {name: for_grey_images(card[name]) for name in ("mean", "std")}
        card = card | {"in_channels": in_channels} | grey
    return replace(weights, parameters=weights.parameters | {STEM: Parameter(Tensor(kernels), name=STEM)}, card=card)


def load_weights(network: nn.Cell, weights: Weights, remake_head: bool = False) -> bool:
    """Put `weights` into `network`. Raises `UserError` that names what does not fit.

    `remake_head`: if the last layer is one of another number of classes, the network's own stays as it was drawn;
    whether it did, is returned.
    """
    wanted, found = network.parameters_dict(), network_part(weights)
    remade = [name for name in HEAD if remake_head and _is_of_other_classes(found.get(name), wanted[name])]
    found |= {name: wanted[name] for name in remade}
    if faults := misfits(found, wanted):
        raise UserError(f"{weights.path} does not fit the network: {first_of(faults)}; check --model and --num_classes")
    require_numbers({name: found[name].asnumpy() for name in wanted}, weights.path)
    for name, parameter in wanted.items():
        parameter.set_data(Tensor(found[name].asnumpy().astype(np.float32)))
    log.info("%s: %d parameters taken", weights.path, len(wanted) - len(remade))
    if remade:
        log.info("%s made anew, for %d classes", " and ".join(remade), len(wanted[HEAD[0]]))
    return bool(remade)


def require_numbers(parameters: Mapping[str, np.ndarray], path: str) -> None:
    """Raise `UserError` that names a parameter of the file `path` which is not finite."""
    for name, value in parameters.items():
        if not np.isfinite(value).all():
            raise UserError(f"{path}: '{name}' is not finite, as after a run that broke; use an earlier checkpoint")


def _is_of_other_classes(found: Parameter | None, wanted: Parameter) -> bool:
    return found is not None and found.shape[1:] == wanted.shape[1:] and found.shape != wanted.shape


def network_part(weights: Weights) -> dict[str, Parameter]:
    """The parameters of the network. A training run's file also holds optimizer state and averages: passed over."""
    others = [name for name in weights.parameters if not name.startswith(NETWORK_NAMES)]
    if others:
        log.info("%s: %d entries that are no weights are passed over, such as %s", weights.path, len(others), others[0])
    return {name: value for name, value in weights.parameters.items() if name not in others}


def misfits(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Why the arrays `found` are not those `wanted`, by name and shape; nothing if they are."""
    faults = [f"'{name}' is missing" for name in wanted if name not in found]
    for name, value in found.items():
        if name not in wanted:
            faults.append(f"'{name}' is not in the network")
        elif value.shape != wanted[name].shape:
            faults.append(f"'{name}' is {value.shape} in the file, {wanted[name].shape} in the network")
    return faults


def first_of(faults: list[str]) -> str:
    """Three of `faults`, and how many there are besides."""
    return "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")
