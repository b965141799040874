"""Pack a folder of images into MindRecord files, which --data_dir takes in its place.

What is read in training and validation is the same to the bit, in the same order, unless --max_side makes the images
smaller. Killed at any moment, the same command goes on with the files that are not finished."""

import os
from pathlib import Path

from mindcv_lite.errors import UserError
from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.keys import Data
from mindcv_lite.recipe.rules import require_splits

QUALITY = 92


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    require_numbers(flags.max_side, flags.quality, flags.shards)
    splits = [flags.train_split.rstrip("/"), flags.val_split.rstrip("/")]
    require_splits(flags.data_dir, *splits)
    found = [split for split in splits if (flags.data_dir / split).is_dir()]
    require_target(flags.target, [flags.data_dir / split for split in found])

    # NumPy and Pillow take a moment to import: a wrong command line has been answered by now.
    from mindcv_lite.data.tools.pack import Options, pack

    pack(flags.data_dir, flags.target, found, Options(flags.max_side, flags.quality or QUALITY, flags.shards))


def command_line() -> CommandLine:
    usage = "%(prog)s DATA_DIR TARGET [--max_side N] [--quality Q] [--shards K] [--train_split NAME]"
    parser = CommandLine(usage=f"{usage} [--val_split NAME]", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add(
        "data_dir",
        type=Path,
        metavar="DATA_DIR",
        help="folder that holds train/<class>/*.jpg, val/<class>/*.jpg or both",
    )
    add("target", type=Path, metavar="TARGET", help="new folder")
    add(
        "--max_side",
        type=int,
        metavar="N",
        help="make the shorter side of larger images N pixels; others stay as they are",
    )
    add("--quality", type=int, metavar="Q", help=f"JPEG quality of images made smaller, 1 to 100; default {QUALITY}")
    add(
        "--shards",
        type=int,
        metavar="K",
        help="files for each split, at most 128 and one for each image; default: 8, or 1 for each 10000 images",
    )
    add("--train_split", default=Data.train_split, metavar="NAME", help="folder of the training split inside DATA_DIR")
    add("--val_split", default=Data.val_split, metavar="NAME", help="folder of the validation split inside DATA_DIR")
    return parser


def require_numbers(max_side: int | None, quality: int | None, shards: int | None) -> None:
    for name, value, most in (("max_side", max_side, 65500), ("quality", quality, 100), ("shards", shards, 128)):
        if value is not None and not 1 <= value <= most:
            raise UserError(f"command line: --{name}: expected a whole number from 1 to {most}, got {value}")
    if quality is not None and max_side is None:
        raise UserError("command line: --quality is for images made smaller, by --max_side; without it none is changed")


def require_target(target: Path, folders: list[Path]) -> None:
    """Raise `UserError` unless `target` can be made, outside these `folders`."""
    if os.path.lexists(target):
        raise UserError(f"{target}: stands there already; remove it, or give another TARGET")
    if any(folder.resolve() in target.resolve().parents for folder in folders):
        raise UserError(f"{target}: inside the images that are to be packed; give a TARGET elsewhere")
    if not target.parent.is_dir():
        raise UserError(f"{target.parent}: no such folder")
    if not str(target.resolve()).isprintable():
        raise UserError(f"{target}: MindSpore writes to names of printable Unicode only; give another TARGET")
