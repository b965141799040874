"""From a YAML file and the command line to a recipe: defaults, then the file, then the flags."""

import argparse
import dataclasses
import os
import re
import typing
from dataclasses import fields, replace
from typing import Any

from mindcv_lite.errors import UserError
from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.keys import FOREIGN_KEYS, KEYS, KINDS, TOPICS, Recipe
from mindcv_lite.recipe.rules import check_rules
from mindcv_lite.recipe.shipped import recipe_file
from mindcv_lite.recipe.values import accept_neutral, checked_value, describe, describe_bounds, nearest
from mindcv_lite.recipe.yaml_io import read_yaml, show, yaml_scalar


def load_recipe(argv: list[str], description: str, own: CommandLine | None = None) -> Recipe:
    """The recipe that the command line `argv` asks for: defaults, then the file of `--config`, then the flags.

    `--config` names a file, or a recipe that is shipped.
    `own`: the flags of a command besides the keys of a recipe; they are on the help page, and passed over here.
    Prints the help page and exits on `--help`. Raises `UserError` on a recipe that is wrong.
    """
    flags = vars(_command_line(description, own).parse_args(argv))
    for name in vars(own.parse_args([])) if own else ():
        flags.pop(name)
    return _merged(flags.pop("config", None), flags, "command line", from_text=True)


def recipe_of(config: str | None = None, **keys: Any) -> Recipe:
    """The recipe of a file, or of a shipped one by its name, with other values of some keys. Raises `UserError`."""
    return _merged(config, _plain_values(keys), "keyword arguments")


def recipe_without_training(**keys: Any) -> Recipe:
    """A recipe for what trains nothing: what only training reads need not be given."""
    recipe = _merged(None, UNREAD | _plain_values(keys), "keyword arguments")
    return replace(recipe, origin={name: where for name, where in recipe.origin.items() if name in keys})


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


def _merged(config: str | None, given: dict[str, Any], source: str, from_text: bool = False) -> Recipe:
    config = recipe_file(config) if config else None
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for where, entries in ((config or "", read_yaml(config) if config else {}), (source, given)):
        is_text = from_text and where == source
        for name, value in entries.items():
            if name in FOREIGN_KEYS:
                accept_neutral(name, yaml_scalar(value) if is_text else value, where)
            else:
                values[name] = checked_value(name, value, where, is_text)
                origin[name] = where
    for name, entry in KEYS.items():
        if name not in values and entry.default is dataclasses.MISSING:
            flag = f"--{name}" if from_text else f"{name}=..."
            advice = f"add it, or give {flag}" if config else f"give a recipe{' with --config' * from_text}, or {flag}"
            raise UserError(f"{config or source}: key '{name}' is missing ({entry.metadata['help']}); {advice}")
    if "ckpt_path" in given and "pretrained" not in given:  # given, it takes the place of other weights
        values.pop("pretrained", None)
    recipe = Recipe(
        **{
            topic: kind(**{key.name: values[key.name] for key in fields(kind) if key.name in values})
            for topic, kind in TOPICS.items()
        },
        origin=origin,
    )
    check_rules(recipe, config or source)
    return recipe


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
