"""The model card of a checkpoint: what the weights mean, for which classes, and how good they are."""

import json
import logging
import shlex
from collections.abc import Mapping
from typing import Any

from mindcv_lite.errors import UserError
from mindcv_lite.recipe.keys import KEYS, Recipe
from mindcv_lite.recipe.values import checked_value
from mindcv_lite.recipe.yaml_io import plain

log = logging.getLogger(__name__)

CARD_NAME = "model_card"
# Keys of which one value alone gives weights their meaning, and keys that are good to know.
BINDING_KEYS = ("model", "in_channels", "conv_padding", "bn_eps", "mean", "std", "interpolation", "crop_pct")
# Binding too, and in a card only where they have another value than their default.
UNUSUAL_KEYS = ("follow_exif", "quantize")
CARD_KEYS = (*BINDING_KEYS, "num_classes", "image_resize")
MINDCV_CONVENTIONS = {name: KEYS[name].default for name in CARD_KEYS}  # which its files do not say


def model_card(recipe: Recipe, class_names: tuple[str, ...], **result: Any) -> dict[str, Any]:
    """What a weights file says about itself: what the numbers mean, for which classes, and how good they are."""
    flat = recipe.flat()
    unusual = {name: flat[name] for name in UNUSUAL_KEYS if flat[name] != KEYS[name].default}
    return {name: flat[name] for name in CARD_KEYS} | unusual | {"class_names": class_names} | result


def parsed_card(text: str, path: str) -> dict[str, Any]:
    """The card of the file `path`. Raises `UserError` if it is none, or not complete."""
    try:
        card = json.loads(text)
    except ValueError:
        card = None
    if not isinstance(card, dict) or not isinstance(card.get("class_names") or [], list):
        raise UserError(f"{path}: its {CARD_NAME} is damaged, or not one of this project")
    if not {*CARD_KEYS, "class_names"} <= card.keys():
        raise UserError(f"{path}: its {CARD_NAME} is incomplete; it is not one of this project")
    return card


def settled_by_card(recipe: Recipe, card: Mapping[str, Any], path: str) -> Recipe:
    """The recipe with what the card of `path` says its weights mean.

    Raises `UserError` that names both values where a key that was given contradicts the card.
    """
    taken = meant_by_card(recipe, card, path)
    if taken:
        log.info("taken from %s: %s", path, ", ".join(f"{name} {plain(value)}" for name, value in taken.items()))
    return recipe.with_keys(**taken)


def meant_by_card(recipe: Recipe, card: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The keys that the recipe has another value of than the card. Raises `UserError` if one of them was given."""
    here, where = recipe.flat(), f"{path}: {CARD_NAME}"
    there = {name: checked_value(name, card[name], where) for name in (*BINDING_KEYS, *UNUSUAL_KEYS) if name in card}
    taken = {name: value for name, value in there.items() if value != here[name]}
    for name, value in taken.items():
        if name in recipe.origin:
            raise UserError(
                f"{recipe.origin[name]}: key '{name}' is {plain(here[name])}, but the weights in {path} mean "
                f"{plain(value)}; leave it out, or give --{name} {shlex.quote(plain(value))}"
            )
    return taken
