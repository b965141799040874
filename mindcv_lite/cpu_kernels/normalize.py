"""Normalising of images by the CPU kernels: one pass, where MindSpore's operators write floats four times."""

from pathlib import Path

from mindspore import dtype, ops


def operator(library: Path) -> ops.Custom:
    """images uint8 (batch, height, width, channels), scale and shift float32 (channels,) -> images * scale + shift,
    float32 (batch, channels, height, width). 1 or 3 channels; it has no gradients."""
    return ops.Custom(
        f"{library}:normalize_images",
        lambda images, *_: [images[0], images[3], images[1], images[2]],
        lambda *_: dtype.float32,
        func_type="aot",
    )
