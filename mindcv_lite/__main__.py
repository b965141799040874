"""What goes with training and validation, a command for each."""

import importlib
import io
import logging
import sys

from mindcv_lite.errors import UserError, on_one_line
from mindcv_lite.program import program_name, run_script

# Each command is a module of mindcv_lite/commands, with what it is for.
COMMANDS = {
    "average": "the mean of checkpoints, or a greedy soup of them, with BatchNorm's statistics estimated anew",
    "benchmark": "what the training input, the training step, the evaluation or the graph's compilation cost here",
    "check": "whether a folder of images will train well: broken, misplaced and repeated images, classes that differ",
    "convert": "weights of torchvision, timm, TensorFlow or MindCV to a checkpoint, and a checkpoint to theirs",
    "doctor": "whether this machine trains as it should, checked in minutes: device, graphs, images, ranks, speed",
    "export": "a checkpoint to files for ONNX, OpenVINO, ncnn or LiteRT, or to a page for the browser",
    "pack": "a folder of images to MindRecord files, as they are or made smaller, for train.py and validate.py to read",
    "predict": "what is on images: the best classes of each, on screen and as CSV",
    "recipes": "the recipes that are shipped, and every key that a recipe may hold",
    "report": "runs of training side by side: scores, losses, speeds, curves; two networks compared image by image",
    "sort": "images that lie in one folder, such as those of ImageNet's validation, into a folder for each class",
    "summary": "what a network or a checkpoint is: its rows with shapes, parameters and multiply-adds; its model card",
    "train": "train a network by a recipe: train.py, installed",
    "tune": "which way of fine-tuning suits your images, tried for some minutes: a recipe, a table and a picture",
    "validate": "top-1, top-5 and loss of a checkpoint: validate.py, installed",
}
SCRIPTS = ("train", "validate")  # modules of mindcv_lite/scripts


def main() -> None:
    """What `python -m mindcv_lite` and the installed `mindcv-lite` do."""
    run_script(run, " ".join([program_name(), *(name for name in sys.argv[1:2] if name in COMMANDS)]))


def run() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help_page())
        return
    if name == "--version":
        print(versions())
        return
    if name not in COMMANDS:
        raise UserError(f"{name!r} is no command; expected one of {', '.join(COMMANDS)}; --help says what they do")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    # stdout of predict has the predictions alone.
    logging.basicConfig(handlers=[_Lines(sys.stderr if name == "predict" else sys.stdout)], format="%(message)s")
    logging.getLogger("mindcv_lite").setLevel(logging.INFO)
    room = "scripts" if name in SCRIPTS else "commands"
    importlib.import_module(f"mindcv_lite.{room}.{name}").main(arguments)


class _Lines(logging.StreamHandler):
    def format(self, record: logging.LogRecord) -> str:
        return on_one_line(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk, or a reader that has seen enough, is not for logging to pass over."""
        raise


def _help_page() -> str:
    """All commands, a line each."""
    program, lines = program_name(), "\n".join(f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items())
    return f"""usage: {program} COMMAND ...

{__doc__}

{lines}

{program} COMMAND --help says what a command takes, {program} --version what is installed."""


def versions() -> str:
    """Ours, and that of the MindSpore that is installed; to import it would take seconds."""
    from mindcv_lite import __version__
    from mindcv_lite.program import mindspore_version

    version = mindspore_version()
    return f"mindcv_lite {__version__}, {f'MindSpore {version}' if version else 'no MindSpore'}"


if __name__ == "__main__":
    main()
