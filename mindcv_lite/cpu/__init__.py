"""Depthwise convolutions for MindSpore's CPU backend, whose own take half of a training step of MobileNetV3."""
