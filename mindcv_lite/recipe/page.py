"""The page docs/recipe.md: every key of a recipe, made from the dataclasses that hold the keys."""

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from mindcv_lite.recipe.keys import ANY, FOREIGN_KEYS, KINDS, MAY_CHANGE, TOPICS
from mindcv_lite.recipe.values import describe, describe_bounds
from mindcv_lite.recipe.yaml_io import plain

_WIDTH = 120  # of a line of text; a row of a table is one line, however long

_OPENING = """
# Keys of a recipe

A recipe is a YAML file of lines `key: value`. This page lists every key. It is made from the code, by this command in
the root of the project:

```
python -m mindcv_lite recipes --keys > docs/recipe.md
```

- Values come from the defaults, then from the recipe file, then from the command line. The last one counts.
- Each key is also a flag of `train.py`, `validate.py`, `benchmark` and `tune`: `--epoch_size 20`.
- A flag takes its value as YAML: `--distribute False`, `--scale "[0.35, 1.0]"`. `--ema` alone means `--ema True`.
- An unknown key, a wrong type and a value out of bounds are errors. So are keys that contradict each other. The error
  names the file, the key and the expected value.
- `required` means that a key has no default. A bound holds for each number of a list.
"""
_FOREIGN = """
A recipe of MindCV may hold these keys. Here the accepted values change nothing. Any other value is an error, which says
what the last column says.
"""


def page() -> str:
    """The page as Markdown."""
    lines = [_OPENING.strip()]
    for topic in TOPICS.values():
        lines += ["", f"## {topic.__doc__[0].upper()}{topic.__doc__[1:]}", ""]
        lines += _table(("key", "value", "default", "meaning"), map(_row, fields(topic)))
    lines += ["", "## Keys that a resumed run may change", "", *_paragraph(_resume())]
    lines += ["", "## Keys of MindCV that do nothing here", "", _FOREIGN.strip(), ""]
    lines += _table(("key", "accepted", "instead"), map(_foreign_row, FOREIGN_KEYS))
    return "\n".join(lines) + "\n"


def _row(key: dataclasses.Field) -> Sequence[str]:
    value = describe(KINDS[key.name]) + describe_bounds(key.metadata["bounds"])
    default = "required" if key.default is dataclasses.MISSING else _code(key.default)
    return f"`{key.name}`", value, default, key.metadata["help"]


def _foreign_row(name: str) -> Sequence[str]:
    accepted, advice = FOREIGN_KEYS[name]
    values = "any value" if ANY in accepted else " or ".join(map(_code, accepted))
    return f"`{name}`", values, advice


def _resume() -> str:
    names = [name for name in KINDS if name in MAY_CHANGE]  # in the order of the page
    listed = f"{', '.join(f'`{name}`' for name in names[:-1])} and `{names[-1]}`"
    return f"With `--resume`, these keys may change: {listed}. Another value of another key is an error that names it."


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _code(value: Any) -> str:
    """A value as a recipe holds it."""
    return f"`{plain(value) if value != '' else repr(value)}`"
