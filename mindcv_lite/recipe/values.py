"""One value of a recipe: its type, its bounds, and the words for both."""

import difflib
import math
import os
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from mindcv_lite.errors import UserError
from mindcv_lite.recipe.keys import ANY, FOREIGN_KEYS, KEYS, KINDS
from mindcv_lite.recipe.yaml_io import show, yaml_scalar


def checked_value(name: str, value: Any, where: str, from_text: bool = False) -> Any:
    """`value` as the key `name` holds it. Raises `UserError` that names `where` it came from."""
    if name not in KEYS:
        raise UserError(f"{where}: unknown key {name!r}{nearest(name)}")
    kind, bounds = KINDS[name], KEYS[name].metadata["bounds"]
    if from_text and isinstance(value, list):  # a flag that may be given several times
        value = value[0] if len(value) == 1 else value
    elif from_text and not _wants_text(kind, value):
        value = yaml_scalar(value)
    try:
        converted = _convert(kind, value)
        _check_bounds(converted, bounds)
    except (ValueError, OverflowError):
        expected = describe(kind) + describe_bounds(bounds)
        raise UserError(f"{where}: key '{name}': expected {expected}, got {show(value)}") from None
    return _expanded(converted) if KEYS[name].metadata["is_path"] else converted


def _expanded(value: Any) -> Any:
    """A path, or each of several, with the values of ~ and $VARIABLES."""
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    return os.path.expanduser(os.path.expandvars(value)) if isinstance(value, str) else value


def _convert(kind: Any, value: Any) -> Any:
    """`value` as `kind`; raises ValueError where it is something else. No guessing: True is no number."""
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        for choice in arguments:
            try:
                return _convert(choice, value)
            except ValueError:
                pass
    elif kind is types.NoneType and value is None:
        return None
    elif typing.get_origin(kind) is Literal:
        for choice in arguments:
            if value == choice and type(value) is type(choice):
                return choice
    elif typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        if len(kinds) == len(value) > 0:
            return tuple(_convert(kind, item) for kind, item in zip(kinds, value, strict=True))
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif kind in (int, bool, str) and type(value) is kind:
        return value
    raise ValueError


def _check_bounds(value: Any, bounds: dict[str, float]) -> None:
    holds = {
        "at_least": lambda number, bound: number >= bound,
        "above": lambda number, bound: number > bound,
        "at_most": lambda number, bound: number <= bound,
        "below": lambda number, bound: number < bound,
    }
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not all(holds[name](number, bound) for name, bound in bounds.items()):
            raise ValueError


def for_grey_images(statistic: Sequence[float]) -> tuple[float]:
    """The mean or std of grey images from those of red, green and blue: the mean of the three, to 6 digits."""
    return (float(f"{sum(statistic) / len(statistic):.6g}"),)


def accept_neutral(name: str, value: Any, where: str) -> None:
    neutral, advice = FOREIGN_KEYS[name]
    if ANY not in neutral and value not in neutral:
        raise UserError(f"{where}: key '{name}': only {show(neutral[0])} is accepted, got {show(value)}; {advice}")


def nearest(name: str, known: Iterable[str] = (*KEYS, *FOREIGN_KEYS)) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else "; --help lists all keys"


def describe(kind: Any) -> str:
    """`kind` in the user's words: what a key takes."""
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(describe(choice) for choice in arguments)
    if typing.get_origin(kind) is Literal:
        choices = [repr(choice) if choice == "" else str(choice) for choice in arguments]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    if typing.get_origin(kind) is tuple:
        item = {int: "whole numbers", float: "numbers", str: "texts"}[arguments[0]]
        if Ellipsis in arguments:
            return f"a list of {item}"
        return f"a list of 2 {item}, {'[height, width]' if arguments[0] is int else '[low, high]'}"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "text", types.NoneType: "None"}
    return names[kind]


def describe_bounds(bounds: dict[str, float]) -> str:
    words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
    return "".join(f", {words[name]} {bound:.10g}" for name, bound in bounds.items())


def _wants_text(kind: Any, text: str) -> bool:
    """Whether a flag's text is taken as it is, not as YAML: a path may well look like a number."""
    choices = typing.get_args(kind)
    if str in choices:
        return not isinstance(yaml_scalar(text), bool) if bool in choices else text != "None"
    return kind is str or (typing.get_origin(kind) is Literal and text in choices)
