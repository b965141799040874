"""Depthwise convolutions and BatchNorm for MindSpore's CPU backend, whose own take most of a training step."""
