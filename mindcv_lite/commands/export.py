"""Write the network of a checkpoint for other programs: an ONNX file, MindSpore's own MINDIR, a folder with files for
OpenVINO, ncnn or LiteRT, or one with a page that runs the network in a browser. They hold the network for one size of
images, and the model card. First, their predictions are compared with MindSpore's."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from mindcv_lite.errors import UserError
from mindcv_lite.files import require_checkpoint, require_file, require_folder
from mindcv_lite.program import CommandLine, progress_bar, require_packages, version_of
from mindcv_lite.recipe.values import checked_value

LARGEST_BATCH = 1024  # the file is tried with that many images before it is written
QDQ_OPSET = 13  # the first with a scale for each channel
RESIZE_OPSET = 13  # the first that resizes to a size without a region to cut out
MAX_DROP = 1.0
_INT8 = ("int8", "calibrate", "max_drop")
# Which options do not go with a format: what it cannot hold, or what it settles itself.
REFUSED = {
    "onnx": (),
    "mindir": ("include_resize", "opset", "precision", *_INT8),
    "web": ("include_preprocess", "include_resize", "softmax", "batch", "opset", "precision", *_INT8),
    "openvino": ("opset", "precision", *_INT8),
    "ncnn": ("include_preprocess", "include_resize", "batch", "opset", "precision", *_INT8),
    "tflite": ("include_resize", "opset", "precision", *_INT8),
}
CONVERTERS = {"openvino": ("openvino",), "ncnn": ("ncnn", "pnnx"), "tflite": ("ai_edge_litert",)}  # what pip installs
# The file is the same wherever it is made, and holds no operators that would have to be compiled first.
ON_THE_CPU = {"device_target": "CPU", "cpu_kernels": "off", "dataset_sink_mode": False}


def main(arguments: list[str]) -> None:
    parser = command_line()
    flags = parser.parse_intermixed_args(arguments)
    if flags.check_readers:
        _check_readers(flags, parser)
        return
    if missing := [name for name, value in (("CKPT", flags.source), ("--format", flags.format)) if not value]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    target = flags.target or flags.source.with_suffix(f".{flags.format}")
    require_paths(flags.source, target, flags.format)
    wanted: dict[str, Any] = {}
    if flags.image_resize is not None:
        wanted["image_resize"] = checked_value("image_resize", flags.image_resize, "command line", from_text=True)
    _require_options_of(flags, parser)
    options: dict[str, Any] = {"batch": batch_of(flags.batch)}
    if flags.format != "mindir":
        require_packages(f"--format {flags.format}", "onnx", "onnxruntime", *CONVERTERS.get(flags.format, ()))
    if flags.format == "onnx":
        options |= {"opset": opset_of(flags.opset), "precision": flags.precision or "float32"}
    max_drop = _require_int8(flags, options, parser)
    if flags.include_resize:
        _require_resize(flags, options, parser)

    # MindSpore takes seconds to import: a wrong command line has been answered by now.
    from mindcv_lite.checkpoints.trained import read_trained
    from mindcv_lite.device.context import compute_at_once, start_device
    from mindcv_lite.export.exporter import export
    from mindcv_lite.export.web_page import export_page
    from mindcv_lite.models.onnx_graph import HARD_SWISH_OPSET

    trained = read_trained(str(flags.source), **ON_THE_CPU, **wanted)
    if trained.recipe.model.quantize:
        _require_int8_options(flags, options)
    world = start_device(trained.recipe)
    if flags.format != "mindir":  # MindSpore makes that file of a compiled graph
        compute_at_once()
    if flags.format == "web":
        export_page(trained, target)
        return
    if flags.int8:
        from mindcv_lite.export.int8 import read_calibration

        options["calibration"] = read_calibration(Path(flags.calibrate), trained, world, max_drop)
    if flags.format in CONVERTERS:
        options |= {"form": flags.format, "opset": HARD_SWISH_OPSET}
    if flags.format == "ncnn":
        options["batch"] = 1  # it knows no batch
    include_preprocess = flags.include_preprocess or flags.include_resize
    export(trained, target, include_preprocess, flags.softmax, include_resize=flags.include_resize, **options)


def _require_options_of(flags: Namespace, parser: CommandLine) -> None:
    """Refuse what does not go with the format."""
    if given := [f"--{name}" for name in REFUSED[flags.format] if getattr(flags, name)]:
        parser.error(f"--format {flags.format} takes no {' and no '.join(given)}: leave out {' and '.join(given)}")


def _require_int8_options(flags: Namespace, options: dict[str, Any]) -> None:
    """Raise `UserError` on what does not go with a network that was trained in int8."""
    is_int8 = f"{flags.source} was trained with quantize int8"
    if flags.format not in ("onnx", "mindir"):
        raise UserError(
            f"{is_int8}, which was not tried with --format {flags.format}; --format onnx writes a file of it"
        )
    if flags.int8 or flags.calibrate:
        raise UserError(f"{is_int8}, and its ONNX file is int8 without more: leave out --int8 and --calibrate")
    if flags.include_resize:
        raise UserError(f"{is_int8}: leave out --include_resize")
    if options.get("precision", "float32") != "float32":
        raise UserError(f"{is_int8}: leave out --precision {options['precision']}")
    if options.get("opset", QDQ_OPSET) < QDQ_OPSET:
        raise UserError(f"{is_int8}, which needs --opset {QDQ_OPSET} or newer, got {options['opset']}")


def _require_int8(flags: Namespace, options: dict[str, Any], parser: CommandLine) -> float:
    """The points that may be lost, by the flags of --int8. Raises `UserError` on what does not go together."""
    if not flags.int8:
        if flags.calibrate or flags.max_drop:
            parser.error("--calibrate and --max_drop go with --int8")
        return MAX_DROP
    if not flags.calibrate:
        parser.error("--int8 needs --calibrate FOLDER, photos like those that the network will see")
    if flags.precision:
        parser.error("--int8 and --precision exclude each other; leave one out")
    if options["opset"] < QDQ_OPSET:
        parser.error(f"--int8 needs --opset {QDQ_OPSET} or newer, got {options['opset']}")
    if not Path(flags.calibrate).is_dir():
        raise UserError(f"{flags.calibrate}: no such folder; --calibrate names a folder of photos")
    try:
        points = float(flags.max_drop or MAX_DROP)
    except ValueError:
        points = -1.0
    if not 0 <= points <= 100:
        parser.error(f"--max_drop: expected points from 0 to 100, got {flags.max_drop!r}")
    return points


def _require_resize(flags: Namespace, options: dict[str, Any], parser: CommandLine) -> None:
    if flags.int8:
        parser.error("--int8 and --include_resize exclude each other; leave one out")
    if options.get("opset", RESIZE_OPSET) < RESIZE_OPSET:
        parser.error(f"--include_resize needs --opset {RESIZE_OPSET} or newer, got {options['opset']}")


def _check_readers(flags: Namespace, parser: CommandLine) -> None:
    """Compare all readers that are installed; exit status 1 if one of them is wrong or cannot read a file."""
    names = ("target", "format", "image_resize", "batch", "include_preprocess", "include_resize", "softmax")
    if given := [name for name in names if getattr(flags, name)]:
        words = " and ".join("TARGET" if name == "target" else f"--{name}" for name in given)
        parser.error(f"--check_readers writes files of all kinds itself: leave out {words}")
    if flags.source:
        require_checkpoint(flags.source)
    elif flags.int8:
        parser.error("--check_readers needs CKPT with --int8: random weights do not stand rounding")
    require_packages("--check_readers", "onnx", "onnxruntime")
    opset = opset_of(flags.opset)
    max_drop = _require_int8(flags, {"opset": opset}, parser)

    from mindcv_lite.checkpoints.trained import read_trained
    from mindcv_lite.device.context import compute_at_once, start_device
    from mindcv_lite.export.int8 import read_calibration
    from mindcv_lite.export.readers import READERS, at_all_sides, check_int8, check_readers, random_networks, report
    from mindcv_lite.recipe.load import recipe_without_training

    trained = read_trained(str(flags.source), **ON_THE_CPU) if flags.source else None
    if trained and trained.recipe.model.quantize:
        raise UserError(f"{flags.source} was trained with quantize int8; --check_readers takes networks that were not")
    recipe = trained.recipe if trained else recipe_without_training(**ON_THE_CPU)
    world = start_device(recipe)
    compute_at_once()
    readers = [reader for reader in READERS if reader.is_installed]
    if trained and flags.int8:
        calibration = read_calibration(Path(flags.calibrate), trained, world, max_drop)
        findings = check_int8(trained, calibration, opset, readers)
    else:
        networks = list(at_all_sides(trained) if trained else random_networks(recipe))
        networks = progress_bar(networks, desc="check_readers", unit="network")
        findings = check_readers(networks, opset, flags.precision or "float32", readers)
    print("\n".join(report(findings)), flush=True)
    if any(found.faults for found in findings):
        sys.exit(1)


def command_line() -> CommandLine:
    usage = f"%(prog)s CKPT [TARGET] --format {'|'.join(REFUSED)} [--image_resize N|[H,W]]"
    usage += " [--include_preprocess] [--include_resize] [--softmax] [--batch N|dynamic] [--opset N]"
    usage += " [--precision float32|float16] [--int8 --calibrate FOLDER [--max_drop POINTS]]\n"
    usage += "       %(prog)s --check_readers [CKPT] [--opset N] [--precision float32|float16]\n"
    usage += "       %(prog)s --check_readers CKPT [--opset N] --int8 --calibrate FOLDER [--max_drop POINTS]"
    parser = CommandLine(usage=usage, description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    text = "checkpoint of this project or MindCV's; convert makes one of others"
    add("source", type=Path, nargs="?", metavar="CKPT", help=text)
    add(
        "target",
        type=Path,
        nargs="?",
        metavar="TARGET",
        help="new file, or folder; default: CKPT with the suffix of the format",
    )
    text = "of TARGET; web: a folder with a page on which people drop photos, for any web server; openvino, ncnn, "
    text += "tflite: a folder with files for these programs (tflite: LiteRT), and the model card as model.json"
    add("--format", choices=tuple(REFUSED), help=text)
    text = "side of the images in pixels, or height and width; default: that of the training, by the card"
    add("--image_resize", metavar="N|[H,W]", help=text)
    add(
        "--include_preprocess",
        action="store_true",
        help="take uint8 images (batch, height, width, channels), RGB, and normalise them by mean and std in the file; "
        "without it: (batch, channels, height, width) of the precision, normalised before",
    )
    text = "take images of any height and width, and resize and crop them in the ONNX file as in validation; with "
    text += "it, --include_preprocess goes without saying. The images of a batch have one size"
    add("--include_resize", action="store_true", help=text)
    add("--softmax", action="store_true", help="give probabilities; without it: logits")
    add("--batch", metavar="N|dynamic", help="how many images the file takes at once; default: dynamic, any number")
    text = "ONNX's operator set, from 11 to the newest of the installed onnx; default: 13, which all readers read"
    add("--opset", metavar="N", help=text)
    text = "of the weights and the arithmetic in an ONNX file; default: float32. With float16, images that are "
    text += "normalised before are float16, too, and so are the logits"
    add("--precision", choices=("float32", "float16"), help=text)
    text = "quantise an ONNX file after training: weights int8, what flows between the layers uint8"
    add("--int8", action="store_true", help=text)
    text = "photos that --int8 chooses the ranges on, in class folders or not: 12 or more, a few hundred are good"
    add("--calibrate", metavar="FOLDER", help=text)
    text = "by how much --int8 may lower top-1 on photos that it did not calibrate on, or the share of equal best "
    text += "classes where it does not know their labels; layers stay in float32 until that holds, with at most a "
    text += f"tenth of the multiply-adds; default: {MAX_DROP}"
    add("--max_drop", metavar="POINTS", help=text)
    text = "write no file, but compare the programs that run exported files and are installed here with MindSpore, on "
    text += "files of CKPT or, without it, of all networks with random weights; exit status 1 if one is wrong"
    add("--check_readers", action="store_true", help=text)
    return parser


def batch_of(text: str | None) -> int | None:
    """The images that the file takes at once; None: any number. Raises `UserError`."""
    if text in (None, "dynamic"):
        return None
    return _whole_number("--batch", text, 1, LARGEST_BATCH, ", or dynamic")


def opset_of(text: str | None) -> int:
    """The operator set that the user wants, or the default. Raises `UserError`."""
    from mindcv_lite.export.onnx_files import newest_opset
    from mindcv_lite.models.onnx_graph import DEFAULT_OPSET, OLDEST_OPSET

    if text is None:
        return DEFAULT_OPSET
    newest = newest_opset()
    return _whole_number("--opset", text, OLDEST_OPSET, newest, f" (the newest of onnx {version_of('onnx')})")


def _whole_number(flag: str, text: str, least: int, most: int, remark: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not least <= number <= most:
        expected = f"expected a whole number from {least} to {most}{remark}"
        raise UserError(f"command line: {flag}: {expected}, got {text!r}")
    return number


def require_paths(source: Path, target: Path, form: str) -> None:
    """Raise `UserError` on a wrong file name; this needs no MindSpore."""
    require_checkpoint(source)
    if form not in ("onnx", "mindir"):
        _require_empty_folder(target)
        return
    if target.suffix != f".{form}":
        raise UserError(f"{target}: with --format {form} the name of TARGET must end in .{form}")
    if os.path.lexists(target):
        raise UserError(f"{target}: stands there already; remove it, or give another TARGET")
    require_file(target)


def _require_empty_folder(target: Path) -> None:
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target}: stands there already and is no empty folder; remove it, or give another TARGET")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target.parent}: no such folder; give another path")
    require_folder(target)
