"""The moving average of the weights by the CPU kernels: one operator and an assignment for each parameter, where
MindSpore's are three for each."""

from pathlib import Path
from typing import Any

from mindspore import ops


def operator(library: Path, parameters: int) -> ops.Custom:
    """share (1,), the averages of so many parameters, then their weights, all float32 -> the averages, each moved by
    that share of the way to its weight. It has no gradients."""

    def outputs(share: Any, *of_parameters: Any) -> tuple[Any, ...]:  # their shapes, and their types
        return of_parameters[:parameters]

    return ops.Custom(f"{library}:move_averages", outputs, outputs, func_type="aot")
