"""List the recipes that are shipped: name, network, and what each is for. `--config NAME` takes a name.

With --keys, print the page of all keys that a recipe may hold.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.page import page
from mindcv_lite.recipe.shipped import shipped_recipes
from mindcv_lite.recipe.yaml_io import read_yaml

_COMMAND = "#   "  # what a command line begins with, in the comment that opens a recipe


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    if flags.keys:
        print(page(), end="")
    else:
        print("\n".join(_listing(shipped_recipes())))


def command_line() -> CommandLine:
    parser = CommandLine(usage="%(prog)s [--keys]", description=__doc__, allow_abbrev=False)
    parser.add_argument("--keys", action="store_true", help="print every key of a recipe, as a page in Markdown")
    return parser


def _listing(recipes: dict[str, Path]) -> Iterator[str]:
    """The recipes in lines: name and network, and below them what the file says first."""
    for name, path in recipes.items():
        yield f"{name} ({read_yaml(str(path))['model']})"
        yield from (f"  {line}" for line in _purpose(path.read_text(encoding="utf-8")))
        yield ""
    folders = sorted({str(path.parent) for path in recipes.values()})
    yield f"--config takes one of these names, or the path of a file. The files are in {' and '.join(folders)}."


def _purpose(recipe: str) -> Iterator[str]:
    """The comment that opens a recipe, up to the first command line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), recipe.splitlines())
    return (line[2:] for line in itertools.takewhile(lambda line: not line.startswith(_COMMAND), lines))
