"""Show what a network is made of: the rows of its table with shapes, parameters, multiply-adds and receptive fields.
Of a checkpoint also show the model card, which says what the weights mean. With --picture, draw the rows too."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindcv_lite.errors import UserError
from mindcv_lite.files import require_checkpoint, require_file, write_text
from mindcv_lite.program import CommandLine
from mindcv_lite.recipe.keys import size_of
from mindcv_lite.recipe.values import checked_value
from mindcv_lite.recipe.yaml_io import plain

if TYPE_CHECKING:
    from mindcv_lite.checkpoints.trained import Trained
    from mindcv_lite.models.complexity import Line

# What the name of a network leaves open, and a checkpoint says.
USUAL = {"image_resize": 224, "num_classes": 1000, "in_channels": 3}
FIRST_NAMES = 5  # of the classes of a checkpoint
NOTE = """
Statistics are those of BatchNorm. Multiply-adds are those of the convolutions and dense layers for one image, without
biases. A receptive field is the side of what one output sees through the convolutions, in pixels; squeeze-excite, whose
inner channels stand under squeeze, and the pooling see the whole image."""


def main(arguments: list[str]) -> None:
    flags = vars(command_line().parse_args(arguments))
    subject, picture = flags.pop("subject"), flags.pop("picture")
    if picture:
        _require_svg(picture)
    values = {name: checked_value(name, text, "command line", True) for name, text in flags.items() if text is not None}
    keys = {name: value for name, value in values.items() if value is not None}  # None: left out, as in a recipe
    if _is_network(subject):
        print("\n".join(summary(subject, USUAL | keys)))
        if picture:
            draw(subject, USUAL | keys, picture)
        return
    for name in ("num_classes", "in_channels"):
        if name in keys:
            raise UserError(f"command line: --{name}: {subject} says this itself; leave it out")

    # MindSpore takes seconds to import: a network has been shown, or a wrong command line answered, by now.
    from mindcv_lite.checkpoints.trained import read_trained

    trained = read_trained(subject, **keys)
    trained.network()  # raises UserError where the weights are not of the network that the table is of
    recipe = trained.recipe.flat()
    print("\n".join([*card(trained), "", *summary(recipe["model"], recipe)]))
    if picture:
        draw(recipe["model"], recipe, picture)


def command_line() -> CommandLine:
    usage = "%(prog)s MODEL|CKPT [--image_resize N|[H,W]] [--num_classes N] [--in_channels 1|3] [--picture FILE.svg]"
    parser = CommandLine(usage=usage, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("subject", metavar="MODEL|CKPT", help="name of a network, or checkpoint of this project or MindCV's")
    add(
        "--image_resize",
        metavar="N|[H,W]",
        help="side of the images in pixels, or height and width; default: 224, of a checkpoint its card's",
    )
    add("--num_classes", metavar="N", help="outputs of MODEL; default: 1000")
    add("--in_channels", metavar="1|3", help="channels of the images of MODEL, 1: grey; default: 3")
    add("--picture", type=Path, metavar="FILE.svg", help="also draw the network, into this file")
    return parser


def _require_svg(path: Path) -> None:
    """Raise `UserError` unless `path` can be the name of an SVG file."""
    if path.suffix.lower() != ".svg":
        raise UserError(f"{path}: --picture names a file that ends in .svg")
    require_file(path)


def _is_network(subject: str) -> bool:
    """Whether `subject` is the name of a network. Raises `UserError` if it is no checkpoint either."""
    from mindcv_lite.models.block_tables import VARIANTS

    if subject in VARIANTS:
        return True
    if Path(subject).is_file():
        require_checkpoint(subject)
        return False
    near = difflib.get_close_matches(subject, VARIANTS, n=1)
    if near and not subject.endswith(".ckpt"):
        raise UserError(f"'{subject}' is no network; did you mean '{near[0]}'?")
    raise UserError(f"{subject}: no such checkpoint; expected a .ckpt file, or one of {', '.join(VARIANTS)}")


def card(trained: "Trained") -> Iterator[str]:
    """What the checkpoint says of its weights, and the first of its classes."""
    from mindcv_lite.checkpoints.model_card import CARD_KEYS

    path, entries = trained.weights.path, trained.weights.card
    if entries is None:
        yield f"{path}: no model card, so one of MindCV's, which mean"
        recipe = trained.recipe.flat()
        entries = {name: recipe[name] for name in CARD_KEYS}
    else:
        yield f"{path}: its model card"
    width = max(map(len, entries))
    for name, value in entries.items():
        yield f"  {name:<{width}}  {shown(name, value)}"


def shown(name: str, value: Any) -> str:
    """An entry of a model card, on one line."""
    if name == "class_names":
        first = ", ".join(map(repr, value[:FIRST_NAMES])) if value else "none"
        return first + (f" and {len(value) - FIRST_NAMES} more" if value and len(value) > FIRST_NAMES else "")
    return f"{value:.2%}" if name == "top1" and isinstance(value, float) else plain(value)


def summary(model: str, keys: dict[str, Any]) -> Iterator[str]:
    """The table of `model`, its totals, and what they count."""
    from mindcv_lite.models.complexity import table, totals

    (height, width), num_classes, in_channels = _shape_of(keys)
    lines = lines_of(model, keys)
    yield f"{model}, {num_classes} class{'es' * (num_classes > 1)}, images of {in_channels} x {height} x {width}"
    yield from table(lines)
    yield totals(lines)
    yield NOTE


def draw(model: str, keys: dict[str, Any], path: Path) -> None:
    """Write the drawing of `model`. Raises `UserError`."""
    from mindcv_lite.models.drawing import drawing

    size, _, in_channels = _shape_of(keys)
    write_text(path, drawing(model, (in_channels, *size), lines_of(model, keys)))


def lines_of(model: str, keys: dict[str, Any]) -> "list[Line]":
    from mindcv_lite.models.block_tables import VARIANTS
    from mindcv_lite.models.complexity import complexity_of

    size, num_classes, in_channels = _shape_of(keys)
    return list(complexity_of(VARIANTS[model], num_classes, in_channels, size))


def _shape_of(keys: dict[str, Any]) -> tuple[tuple[int, int], int, int]:
    """Height and width of the images, outputs of the network, channels of the images."""
    return size_of(keys["image_resize"]), keys["num_classes"], keys["in_channels"]
