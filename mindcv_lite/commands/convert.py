"""Make a checkpoint of this project from weights of torchvision, timm, TensorFlow or MindCV; with --to, the reverse."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindcv_lite.errors import UserError
from mindcv_lite.files import composed
from mindcv_lite.program import CommandLine

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar", ".ckpt")


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    require_paths(flags.source, flags.target, flags.to)
    if flags.to and (flags.origin or flags.labels):
        raise UserError("command line: --origin and --labels belong to a conversion to .ckpt, --to to one from .ckpt")
    if flags.to:
        _to_safetensors(flags.source, flags.target, flags.to)
    else:
        class_names = read_labels(flags.labels) if flags.labels else None
        _to_checkpoint(flags.source, flags.target, flags.origin, class_names)


def command_line() -> CommandLine:
    usage = "%(prog)s SOURCE TARGET [--origin NAME] [--labels FILE] [--to NAME]"
    parser = CommandLine(usage=usage, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help=f"weights: a file that ends in {', '.join(ENDINGS)}")
    add("target", type=Path, metavar="TARGET", help="new file: .ckpt, or with --to .safetensors")
    add(
        "--origin",
        choices=("torchvision", "timm", "tf", "mindcv"),
        help="who trained them, where the file does not tell",
    )
    add(
        "--labels",
        type=Path,
        metavar="FILE",
        help="class names in the order of the outputs, a line each; or lines of index, wnid, name between tabs",
    )
    add("--to", choices=("torchvision", "timm"), help="write the names that load there; SOURCE is a .ckpt")
    return parser


def require_paths(source: Path, target: Path, to: str | None) -> None:
    """Raise `UserError` on a wrong file name; this needs no MindSpore."""
    if not source.is_file():
        raise UserError(f"{source}: no such weights file")
    readable, ending = ((".ckpt",), ".safetensors") if to else (ENDINGS, ".ckpt")
    way = f"with --to {to}" if to else "without --to"
    if not source.name.endswith(readable):
        raise UserError(f"{source}: {way} the name of SOURCE must end in {' or '.join(readable)}")
    if target.suffix != ending:
        raise UserError(f"{target}: {way} the name of TARGET must end in {ending}")
    if os.path.lexists(target):
        raise UserError(f"{target}: stands there already; remove it, or give another TARGET")
    if not target.parent.is_dir():
        raise UserError(f"{target.parent}: no such folder")


def read_labels(path: Path) -> list[str]:
    """Class names in the order of the outputs: a line each, or the last of the columns `index<TAB>wnid<TAB>name`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot read the class names: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected class names, text in UTF-8, got other bytes") from None
    names = []
    for number, line in enumerate(lines):
        *columns, name = (column.strip() for column in line.split("\t"))
        if not name:
            raise UserError(f"{path}:{number + 1}: expected a class name, got an empty line")
        if columns and columns[0] != str(number):
            raise UserError(f"{path}:{number + 1}: expected index {number} in the first column, got {columns[0]!r}")
        names.append(composed(name))
    return names


def _to_checkpoint(source: Path, target: Path, wanted: str | None, class_names: list[str] | None) -> None:
    """Write the weights in `source`, whosever they are, under our names, with a model card that says what they mean."""
    # MindSpore takes seconds to import: a wrong command line has been answered by now.
    from mindcv_lite.checkpoints.conversion.key_mapping import (
        ORIGINS,
        images_of,
        naming_of,
        origin_of,
        our_parameters,
        read_hub_config,
    )
    from mindcv_lite.checkpoints.weights import HEAD, STEM
    from mindcv_lite.recipe.values import for_grey_images
    from mindcv_lite.runs.checkpoint_saver import save_weights

    tensors, card = _read_source(source)
    if card is not None:
        raise UserError(f"{source}: a checkpoint of this project already; --to makes one for torchvision or timm of it")
    naming = naming_of(tensors, source)
    hub = read_hub_config(source) if naming == "timm" else None
    origin, reason = origin_of(naming, source, wanted, hub)
    log.info("%s: origin %s (%s)", source, origin, reason)
    model, parameters = our_parameters(tensors, naming, source)

    num_classes, in_channels = len(parameters[HEAD[1]]), parameters[STEM].shape[1]
    class_names = class_names or (hub.class_names if hub else None)
    if class_names and len(class_names) != num_classes:
        raise UserError(f"{source}: it has {num_classes} outputs, but there are {len(class_names)} class names")
    images = images_of(origin, source, hub)
    if in_channels == 1:
        images |= {name: for_grey_images(images[name]) for name in ("mean", "std")}
        log.info("%s: for grey images: mean %g, std %g, the mean of three", source, *images["mean"], *images["std"])
    card = {
        "model": model,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "conv_padding": ORIGINS[origin].conv_padding,
        "bn_eps": ORIGINS[origin].bn_eps,
        **images,
        "class_names": class_names,
    }
    save_weights(target, parameters, card)
    report(target, parameters, card)


def report(target: Path, parameters: dict[str, "np.ndarray"], card: dict[str, Any]) -> None:
    """Say what was written."""
    trainable = sum(value.size for name, value in parameters.items() if "moving_" not in name)
    log.info(
        "%s: %s, %d trainable parameters, %d classes %s names, conv_padding %s, bn_eps %g",
        *(target, card["model"], trainable, card["num_classes"], "with" if card["class_names"] else "without"),
        *(card["conv_padding"], card["bn_eps"]),
    )


def _to_safetensors(source: Path, target: Path, naming: str) -> None:
    """Write the weights in a checkpoint of ours or MindCV's as the state dict of torchvision's or timm's network."""
    from mindcv_lite.checkpoints.ckpt_file import write_entries
    from mindcv_lite.checkpoints.conversion.key_mapping import ORIGINS, network_there, our_parameters, their_tensors

    tensors, card = _read_source(source)
    model, parameters = our_parameters(tensors, "mindcv", source)
    trained = ORIGINS["mindcv"]._asdict() | (card or {})
    origin, network = network_there(model, naming, trained["conv_padding"])
    write_entries(target, their_tensors(parameters, model, naming))
    log.info("%s: the weights of %s, for %s of %s", target, model, network, naming)
    there = ORIGINS[origin]._asdict()
    for name in ("conv_padding", "bn_eps"):
        if trained[name] != there[name]:
            line = "warning: the weights mean %s %s, %s computes with %s: its logits will differ"
            log.warning(line, name, trained[name], network, there[name])


def _read_source(source: Path) -> tuple[Mapping[str, "np.ndarray"], dict[str, Any] | None]:
    """The tensors of a network in any of the files that are read, and the model card if it is a checkpoint of ours."""
    from mindcv_lite.checkpoints.ckpt_file import is_pytorchs
    from mindcv_lite.checkpoints.conversion.key_mapping import unwrapped
    from mindcv_lite.checkpoints.conversion.torch_files import read_tensors
    from mindcv_lite.checkpoints.weights import network_part, read_weights

    if source.suffix != ".ckpt" or is_pytorchs(source):
        return unwrapped(read_tensors(source), source), None
    weights = read_weights(str(source))
    if weights.card and weights.card.get("quantize"):
        raise UserError(f"{source}: was trained with quantize {weights.card['quantize']}; others have no such network")
    return {name: value.asnumpy() for name, value in network_part(weights).items()}, weights.card
