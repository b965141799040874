"""MobileNetV3 on MindSpore: train, fine-tune, check."""

import os

__version__ = "0.1.0"

# MindSpore reads this once, when it is first imported. Its errors arrive as exceptions too, and we tell those plainly.
os.environ.setdefault("GLOG_v", "4")
