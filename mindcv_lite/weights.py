"""Weights files: what is in one, whether it fits the network, and the model card that says what the weights mean."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindcv_lite.errors import UserError
from mindcv_lite.recipe import Recipe

log = logging.getLogger(__name__)

CARD_NAME = "model_card"
CARD_KEYS = (
    *("model", "num_classes", "in_channels", "conv_padding", "bn_eps"),
    *("image_resize", "crop_pct", "interpolation", "mean", "std"),
)
# Keys of which one value alone gives these weights their meaning.
BINDING_KEYS = ("model", "in_channels", "conv_padding", "bn_eps")
NETWORK_NAMES = ("features.", "classifier.")


@dataclass(frozen=True)
class Weights:
    """A weights file that was read: parameters by name, and the model card, which files of others do not have."""

    path: str
    parameters: dict[str, Parameter]
    card: dict[str, Any] | None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes of the network's outputs, in order, where the card knows them."""
        return tuple(self.card["class_names"]) if self.card and self.card.get("class_names") else None


def model_card(recipe: Recipe, class_names: tuple[str, ...], **result: Any) -> dict[str, Any]:
    """What a weights file says about itself: what the numbers mean, for which classes, and how good they are."""
    flat = recipe.flat()
    return {name: flat[name] for name in CARD_KEYS} | {"class_names": class_names} | result


def read_weights(path: str) -> Weights:
    """Read a `.ckpt` file of this project or of MindCV. Raises `UserError` if it is missing, foreign or damaged."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such weights file; --ckpt_path names a .ckpt file")
    if Path(path).suffix != ".ckpt":  # MindSpore reads no other name
        raise UserError(f"{path}: the name of a weights file must end in .ckpt")
    try:
        content = mindspore.load_checkpoint(path)
    except Exception as error:  # MindSpore raises ValueError, RuntimeError or protobuf's own, by where it stumbles
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{path}: not a MindSpore checkpoint, or damaged ({reason})") from None
    card = content.pop(CARD_NAME, None)
    content = {name: value for name, value in content.items() if isinstance(value, Parameter)}
    return Weights(path, content, None if card is None else _parsed_card(str(card), path))


def _parsed_card(text: str, path: str) -> dict[str, Any]:
    try:
        card = json.loads(text)
    except ValueError:
        card = None
    if not isinstance(card, dict) or not isinstance(card.get("class_names"), list | None):
        raise UserError(f"{path}: its {CARD_NAME} is damaged, or not one of this project")
    return card


def load_weights(network: nn.Cell, weights: Weights, recipe: Recipe) -> None:
    """Put `weights` into `network`. Raises `UserError` that names what does not fit; optimizer state is passed over."""
    card, flat = weights.card or {}, recipe.flat()
    if weights.card is not None and not {*CARD_KEYS, "class_names"} <= card.keys():
        raise UserError(f"{weights.path}: its {CARD_NAME} is incomplete; it is not one of this project")
    for name in BINDING_KEYS:
        if name in card and card[name] != flat[name]:
            raise UserError(
                f"{weights.path}: its {name} is {card[name]}, the recipe's {flat[name]}; --{name} {card[name]}"
            )
    for name in sorted({*CARD_KEYS} - {*BINDING_KEYS, "num_classes"}):
        here = list(flat[name]) if isinstance(flat[name], tuple) else flat[name]
        if name in card and card[name] != here:
            log.warning("warning: %s was trained with %s %s, the recipe has %s", weights.path, name, card[name], here)
    wanted = network.parameters_dict()
    if faults := misfits(network_part(weights), wanted):
        raise UserError(
            f"{weights.path} does not fit {recipe.model.model} with {recipe.model.num_classes} classes: "
            f"{first_of(faults)}; check --model and --num_classes"
        )
    for name, parameter in wanted.items():
        parameter.set_data(Tensor(weights.parameters[name].asnumpy().astype(np.float32)))
    log.info("%s: %d parameters taken", weights.path, len(wanted))


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
