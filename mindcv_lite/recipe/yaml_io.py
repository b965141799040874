"""The YAML of recipes, read and written strictly."""

import re
from pathlib import Path
from typing import Any

import yaml

from mindcv_lite.errors import UserError

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _StrictLoader(yaml.SafeLoader):
    """YAML without PyYAML's silent surprises: a repeated key is an error, 1e-5 is a number, and 010 and 1:30 are texts
    (YAML 1.1 takes them for 8 and 90)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = []  # no set: a key may be a list, which PyYAML refuses later
        for name, _ in node.value:
            if name.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {name.value!r} stands twice", problem_mark=name.start_mark)
            seen.append(name.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # PyYAML's slips, on 2024-13-45 or !!int x
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None


class _StrictDumper(yaml.SafeDumper):
    """Puts quotes around text that `_StrictLoader` would take for something else, and escapes what does not print."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_StrictDumper.add_representer(str, _StrictDumper.represent_str)

_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_INT = re.compile(r"^[-+]?(0|[1-9][\d_]*)$")
_FLOAT = re.compile(
    r"^[-+]?((\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF|nan|NaN|NAN))$"
)
for _side in (_StrictLoader, _StrictDumper):
    for _tag, _pattern in zip(NUMBERS, (_INT, _FLOAT), strict=True):
        _side.add_implicit_resolver(_tag, _pattern, list("-+0123456789."))
    _side.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])


_NOT_YAML = (yaml.YAMLError, ValueError, OverflowError)  # the last two are PyYAML's slips, on "\UFFFFFFFF"


def read_yaml(path: str) -> dict[str, Any]:
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the recipe: {error.strerror}; --config names a YAML file, or a recipe that "
            "`python -m mindcv_lite recipes` lists"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a recipe, YAML text in UTF-8, got other bytes") from None
    except _NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else path
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{line}: not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        found = "an empty file" if content is None else show(content)
        raise UserError(f"{path}: expected a recipe, lines of 'key: value', got {found}")
    return {str(name): value for name, value in content.items()}


def yaml_scalar(text: str) -> Any:
    try:
        return yaml.load(str(text), _StrictLoader)  # argparse makes [] of --key=--
    except _NOT_YAML:
        return text


def dump(content: dict[str, Any]) -> str:
    """YAML text that `read_yaml` reads back."""
    return yaml.dump(content, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)


def plain(value: Any) -> str:
    """`value` as a recipe holds it."""
    return str(list(value) if isinstance(value, tuple) else value)


def show(value: Any) -> str:
    text = plain(value) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
