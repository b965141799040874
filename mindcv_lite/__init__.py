"""MobileNetV3 on MindSpore: train, fine-tune, check."""

import os

__version__ = "0.1.0"

# MindSpore reads this once, when it is first imported. Its errors also arrive as exceptions, which we tell in a sentence.
os.environ.setdefault("GLOG_v", "4")
