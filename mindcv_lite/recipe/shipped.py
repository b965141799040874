"""The recipes that come with the project, found by their names."""

import difflib
import os
from pathlib import Path

from mindcv_lite.errors import UserError

_PACKAGE = Path(__file__).parents[1]


def shipped_recipes() -> dict[str, Path]:
    """The files of the shipped recipes by their names, in a checkout as in an installed package."""
    # In a checkout `mindcv_lite/configs` is a link to `configs`; it may be lost where links cannot be unpacked.
    folder = next(filter(Path.is_dir, (_PACKAGE / "configs", _PACKAGE.parent / "configs")), _PACKAGE / "configs")
    return {path.stem: path for path in sorted(folder.resolve().glob("*/*.yaml"))}


def recipe_file(config: str) -> str:
    """The file that `--config` names: `config` itself, or the shipped recipe of that name.

    Raises `UserError` that suggests the nearest name if `config` is no file and resembles a shipped recipe. Any other
    mistake is left to the reader of the file.
    """
    if os.path.isfile(config):
        return config
    shipped = shipped_recipes()
    if config in shipped:
        return str(shipped[config])
    near = difflib.get_close_matches(Path(config).stem, shipped, n=1)
    if near and not os.path.exists(config):
        raise UserError(
            f"{config}: no such recipe; did you mean '{near[0]}'? `python -m mindcv_lite recipes` lists all that are "
            "shipped"
        )
    return config
