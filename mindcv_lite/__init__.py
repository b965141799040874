"""MobileNetV3 on MindSpore: train, fine-tune, check."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindcv_lite.api import create_model, evaluate, load_checkpoint, load_recipe, predict, train

__version__ = "0.1.0"

# MindSpore reads this once, when it is first imported. Its errors arrive as exceptions too, and we tell those plainly.
os.environ.setdefault("GLOG_v", "4")
# With AVX-512, oneDNN 3.10 (MindSpore 2.10) computes 3 x 3 convolutions of NCHW by its reference code, 30 to 100 times
# slower (seen by ONEDNN_VERBOSE=1; a whole training step takes five times as long). It is read at first use.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# Where MindSpore leaves the graph of a compilation that failed, or that Ctrl-C ended: not in the user's folder.
os.environ.setdefault("MS_OM_PATH", os.devnull)

__all__ = ["create_model", "evaluate", "load_checkpoint", "load_recipe", "predict", "train"]


def __getattr__(name: str) -> Any:
    """The functions for Python, imported when they are used: MindSpore takes seconds."""
    if name in __all__:
        return getattr(importlib.import_module("mindcv_lite.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
