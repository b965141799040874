"""Write the network of a checkpoint for other programs: an ONNX file, or MindSpore's own MINDIR. Both hold the network
for one size of images and any number of them, and the model card. First, their predictions are compared with
MindSpore's."""

import os
from pathlib import Path
from typing import Any

from mindcv_lite.errors import UserError
from mindcv_lite.files import require_checkpoint, require_file
from mindcv_lite.program import CommandLine, require_packages
from mindcv_lite.recipe.values import checked_value

# The file is the same wherever it is made, and holds no operators that would have to be compiled first.
ON_THE_CPU = {"device_target": "CPU", "cpu_kernels": "off", "dataset_sink_mode": False}


def main(arguments: list[str]) -> None:
    flags = command_line().parse_args(arguments)
    target = flags.target or flags.source.with_suffix(f".{flags.format}")
    require_paths(flags.source, target, flags.format)
    wanted: dict[str, Any] = {}
    if flags.image_resize is not None:
        wanted["image_resize"] = checked_value("image_resize", flags.image_resize, "command line", from_text=True)
    if flags.format == "onnx":
        require_packages("--format onnx", "onnx", "onnxruntime")

    # MindSpore takes seconds to import: a wrong command line has been answered by now.
    from mindcv_lite.checkpoints.trained import read_trained
    from mindcv_lite.device.context import start_device
    from mindcv_lite.export.exporter import export

    trained = read_trained(str(flags.source), **ON_THE_CPU, **wanted)
    start_device(trained.recipe)
    export(trained, target, flags.include_preprocess, flags.softmax)


def command_line() -> CommandLine:
    usage = "%(prog)s CKPT [TARGET] --format onnx|mindir [--image_resize N|[H,W]] [--include_preprocess]"
    parser = CommandLine(usage=f"{usage} [--softmax]", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("source", type=Path, metavar="CKPT", help="checkpoint of this project or MindCV's; convert makes one of others")
    add("target", type=Path, nargs="?", metavar="TARGET", help="new file; default: CKPT with the suffix of the format")
    add("--format", choices=("onnx", "mindir"), required=True, help="of TARGET")
    add(
        "--image_resize",
        metavar="N|[H,W]",
        help="side of the images in pixels, or height and width; default: that of the training, by the card",
    )
    add(
        "--include_preprocess",
        action="store_true",
        help="take uint8 images (batch, height, width, channels), RGB, and normalise them by mean and std in the file; "
        "without it: float32 (batch, channels, height, width), normalised before",
    )
    add("--softmax", action="store_true", help="give probabilities; without it: logits")
    return parser


def require_paths(source: Path, target: Path, form: str) -> None:
    """Raise `UserError` on a wrong file name; this needs no MindSpore."""
    require_checkpoint(source)
    if target.suffix != f".{form}":
        raise UserError(f"{target}: with --format {form} the name of TARGET must end in .{form}")
    if os.path.lexists(target):
        raise UserError(f"{target}: stands there already; remove it, or give another TARGET")
    require_file(target)
