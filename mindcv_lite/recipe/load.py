"""From a YAML file and the command line to a recipe: defaults, then the file, then the flags."""

import argparse
import dataclasses
import logging
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from mindcv_lite.errors import UserError
from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.keys import FOREIGN_KEYS, KEYS, KINDS, TOPICS, Recipe
from mindcv_lite.recipe.rules import check_rules
from mindcv_lite.recipe.shipped import recipe_file
from mindcv_lite.recipe.values import accept_neutral, checked_value, describe, describe_bounds, for_grey_images, nearest
from mindcv_lite.recipe.yaml_io import plain, read_yaml, show, yaml_scalar

log = logging.getLogger(__name__)


def load_recipe(argv: list[str], description: str, own: CommandLine | None = None, trains: bool = True) -> Recipe:
    """The recipe that the command line `argv` asks for: defaults, then the file of `--config`, then the flags.

    `--config` names a file, or a recipe that is shipped. Without it, a training of a `--model` takes the shipped one.
    `own`: the flags of a command besides the keys of a recipe; they are on the help page, and passed over here.
    `trains`: whether it is for training; if not, what only training reads need not be given.
    Prints the help page and exits on `--help`. Raises `UserError` on a recipe that is wrong.
    """
    flags = vars(_command_line(description, own).parse_args(argv))
    for name in vars(own.parse_args([])) if own else ():
        flags.pop(name)
    config = flags.pop("config", None)
    if trains and not config and "model" in flags and not all(name in flags for name in UNREAD):
        config = _usual_recipe(flags)
        flags.setdefault("distribute", str("MS_ROLE" in os.environ))  # whether msrun started this process
        log.info("recipe: %s, because no --config names another", config)
    return _merged(config, flags, "command line", from_text=True, defaults={} if trains else UNREAD)


def _usual_recipe(flags: Mapping[str, str]) -> str:
    """The shipped recipe for a model: to fine-tune weights where some are named, or else to train from random ones."""
    size = "large" if "large" in flags["model"] else "small"
    starts_from_weights = flags.get("ckpt_path") or yaml_scalar(flags.get("pretrained", "False")) is True
    return f"mobilenet_v3_{size}_{'finetune' if starts_from_weights else 'ascend'}"


def recipe_of(config: str | None = None, **keys: Any) -> Recipe:
    """The recipe of a file, or of a shipped one by its name, with other values of some keys. Raises `UserError`."""
    return _merged(config, _plain_values(keys), "keyword arguments")


def recipe_without_training(**keys: Any) -> Recipe:
    """A recipe for what trains nothing: what only training reads need not be given."""
    return _merged(None, _plain_values(keys), "keyword arguments", defaults=UNREAD)


# fmt: off
UNREAD = {
    "model": "mobilenet_v3_small_100", "batch_size": 32, "epoch_size": 1, "lr": 1.0, "opt": "momentum",
    "scheduler": "constant",
}
# fmt: on


def _plain_values(keys: dict[str, Any]) -> dict[str, Any]:
    """Paths as text, NumPy's numbers and arrays as Python's."""

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return os.fspath(value) if isinstance(value, os.PathLike) else getattr(value, "tolist", lambda: value)()

    return {name: plain(value) for name, value in keys.items()}


def _merged(
    config: str | None,
    given: dict[str, Any],
    source: str,
    from_text: bool = False,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """`defaults`: of keys that have none of their own."""
    config = recipe_file(config) if config else None
    values = dict(defaults)
    origin: dict[str, str] = {}
    for where, entries in ((config or "", read_yaml(config) if config else {}), (source, given)):
        is_text = from_text and where == source
        for name, value in entries.items():
            if name in FOREIGN_KEYS:
                accept_neutral(name, yaml_scalar(value) if is_text else value, where)
            else:
                values[name] = checked_value(name, value, where, is_text)
                origin[name] = where
    missing = [name for name, entry in KEYS.items() if name not in values and entry.default is dataclasses.MISSING]
    if missing:
        flags = " ".join(f"--{name}" if from_text else f"{name}=..." for name in missing)
        listed = " with --config (`python -m mindcv_lite recipes` lists the shipped ones)" if from_text else ""
        advice = f"add them, or give {flags}" if config else f"give a recipe{listed}, or {flags}"
        raise UserError(f"{config or source}: keys that a recipe must have are missing: {', '.join(missing)}; {advice}")
    if "ckpt_path" in given and "pretrained" not in given:  # given, it takes the place of other weights
        values.pop("pretrained", None)
    recipe = Recipe(
        **{
            topic: kind(**{key.name: values[key.name] for key in fields(kind) if key.name in values})
            for topic, kind in TOPICS.items()
        },
        origin=origin,
    )
    if recipe.model.in_channels == 1:
        recipe = _with_grey_statistics(recipe)
    check_rules(recipe, config or source)
    return recipe


def _with_grey_statistics(recipe: Recipe) -> Recipe:
    """The recipe with one mean and one std for grey images, where it has three of them."""
    given = {name: getattr(recipe.augmentation, name) for name in ("mean", "std")}
    grey = {name: for_grey_images(value) for name, value in given.items() if len(value) == 3}
    if grey:
        said = " and ".join(f"{name} {plain(value)}" for name, value in grey.items())
        log.info("in_channels 1: %s, the mean of three numbers", said)
    return recipe.with_keys(**grey)


class _CommandLine(CommandLine):
    def parse_args(self, argv: list[str]) -> argparse.Namespace:  # type: ignore[override]
        flags, rest = self.parse_known_args(argv)
        if rest:
            name = rest[0].split("=")[0]
            if name.startswith("--"):
                known = [flag[2:] for flag in self._option_string_actions if flag.startswith("--")]
                raise UserError(f"command line: unknown key {name[2:]!r}{nearest(name[2:], known)}")
            raise UserError(f'command line: {rest[0]!r} belongs to no flag; write --key value, lists as "[0.35, 1.0]"')
        return flags


def _command_line(description: str, own: CommandLine | None) -> _CommandLine:
    parser = _CommandLine(
        usage=own.usage if own else None,
        description=description,
        parents=[own] if own else [],
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="YAML file with any of the keys below, or the name of a shipped recipe; flags overrule it",
    )
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # argparse takes -1e-5 for a flag
    for topic in TOPICS.values():
        group = parser.add_argument_group(topic.__doc__)
        for entry in fields(topic):
            text = f"{entry.metadata['help']} [{describe(KINDS[entry.name])}{describe_bounds(entry.metadata['bounds'])}"
            text += "; required]" if entry.default is dataclasses.MISSING else f"; default: {show(entry.default)}]"
            kind = KINDS[entry.name]
            flag: dict[str, Any] = {"metavar": "VALUE", "help": text}
            if bool in (kind, *typing.get_args(kind)):  # --shuffle alone means --shuffle True
                flag |= {"nargs": "?", "const": "True"}
            elif tuple[str, ...] in typing.get_args(kind):  # --teacher a.ckpt --teacher b.ckpt
                flag |= {"action": "append"}
            group.add_argument(f"--{entry.name}", **flag)
    for name in FOREIGN_KEYS:
        parser.add_argument(f"--{name}", nargs="?", const="True", help=argparse.SUPPRESS)
    return parser
