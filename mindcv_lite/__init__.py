"""MobileNetV3 on MindSpore: train, fine-tune, check."""

import os

__version__ = "0.1.0"

# MindSpore reads this once, when it is first imported: errors only, not its many warnings about the network of ranks.
os.environ.setdefault("GLOG_v", "3")
