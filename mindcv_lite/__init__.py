"""MobileNetV3 on MindSpore: train, fine-tune, check."""

import os

__version__ = "0.1.0"

# MindSpore reads this once, when it is first imported. Its errors arrive as exceptions too, and we tell those plainly.
os.environ.setdefault("GLOG_v", "4")
# MindSpore computes depthwise convolutions through oneDNN, one small product per channel, and with AVX-512 that takes
# ten times as long (measured: a whole training step five times, MindSpore 2.10, AMD Zen 4). It is read at first use.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# Where MindSpore leaves the graph of a compilation that failed, or that Ctrl-C ended: not in the user's folder.
os.environ.setdefault("MS_OM_PATH", os.devnull)
