"""What goes with training and validation: python -m mindcv_lite COMMAND ..."""

import importlib
import io
import logging
import sys

from mindcv_lite.errors import UserError, run_script

# Each command is a module of mindcv_lite/commands, with what it is for.
COMMANDS = {
    "benchmark": "what the training input, the training step, the evaluation or the graph's compilation cost here",
    "check": "whether a folder of photos will train well: broken, misplaced and repeated photos, classes that differ",
    "convert": "weights of torchvision, timm, TensorFlow or MindCV to a checkpoint, and a checkpoint to theirs",
    "pack": "a folder of photos to MindRecord files, as they are or made smaller, for train.py and validate.py to read",
    "report": "runs of training side by side: scores, losses and speeds in a table, curves in a picture",
}


def main() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(help_page())
        return
    if name not in COMMANDS:
        raise UserError(f"{name!r} is no command; expected one of {', '.join(COMMANDS)}; --help says what they do")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("mindcv_lite").setLevel(logging.INFO)
    importlib.import_module(f"mindcv_lite.commands.{name}").main(arguments)


def help_page() -> str:
    """All commands, a line each."""
    lines = [f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join([f"{__doc__}\n", *lines, "\npython -m mindcv_lite COMMAND --help says what a command takes."])


if __name__ == "__main__":
    run_script(main, " ".join(["mindcv_lite", *(name for name in sys.argv[1:2] if name in COMMANDS)]))
