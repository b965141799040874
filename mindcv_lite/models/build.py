"""The network of a recipe, in the number format of the device, and the part of it that is not trained."""

from functools import partial
from pathlib import Path

from mindspore import Parameter, amp, dtype, nn

from mindcv_lite.cpu_kernels import norm, pooling, squeeze_excite
from mindcv_lite.cpu_kernels.depthwise import DepthwiseConv2d
from mindcv_lite.cpu_kernels.stem import StemConv2d
from mindcv_lite.device.ranks import World
from mindcv_lite.models.block_tables import ROWS_BEGIN, VARIANTS, require_rows
from mindcv_lite.models.mobilenetv3 import MobileNetV3, Operators
from mindcv_lite.models.quantised import QuantisedNetwork
from mindcv_lite.recipe.keys import Model


def training_network(model: Model, world: World) -> nn.Cell:
    """The network of a recipe as this device computes it best in training."""
    return build_network(model, world.settings.amp_level, world.settings.target, world.cpu_kernels)


def evaluation_network(model: Model, world: World) -> nn.Cell:
    """The network of a recipe as this device computes it best in evaluation."""
    return build_network(model, world.settings.val_amp_level, world.settings.target, world.cpu_kernels)


def teacher_network(model: Model, world: World) -> nn.Cell:
    """The network of a recipe as this device computes it best beside the one that is trained; nothing of it is."""
    network = build_network(model, world.settings.teacher_amp_level, world.settings.target, world.cpu_kernels)
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    return network


def build_network(model: Model, amp_level: str, target: str = "CPU", cpu_kernels: Path | None = None) -> nn.Cell:
    """Freshly drawn; float32 parameters whatever the `amp_level` of the arithmetic, float32 logits.

    `target`: the device that is to compute it; `cpu_kernels`: the compiled library, where it has one.
    """
    assert model.num_classes, "the recipe's num_classes is filled in from the images"
    operators = Operators()
    if target == "CPU":
        operators = operators._replace(spatial_mean=pooling.spatial_mean, scale_channels=pooling.scale_channels)
    if cpu_kernels:
        operators = operators._replace(
            stem=partial(StemConv2d, cpu_kernels),
            depthwise=partial(DepthwiseConv2d, cpu_kernels),
            batch_norm_act=partial(norm.batch_norm_act, cpu_kernels),
            spatial_mean=squeeze_excite.spatial_mean(cpu_kernels),
            scale_channels=squeeze_excite.scale_channels(cpu_kernels),
        )
    network = MobileNetV3(
        VARIANTS[model.model],
        model.num_classes,
        model.in_channels,
        model.drop_rate,
        model.conv_padding,
        model.bn_eps,
        model.bn_momentum,
        operators,
    )
    if model.quantize:
        number_format = dtype.float32 if amp_level == "O0" else dtype.float16
        network = QuantisedNetwork(network, model, operators, number_format, cpu_kernels)
    freeze(network, model)
    return network if model.quantize else amp.auto_mixed_precision(network, amp_level)


def freeze(network: nn.Cell, model: Model) -> None:
    """Take what `model.freeze` names out of training; its BatchNorms compute as in evaluation, and keep still."""
    require_rows(model)
    head = len(layer_names(model.model)) - 1
    frozen = range(head) if model.freeze == "backbone" else range(1, 1 + (model.freeze or 0))
    for parameter in network.get_parameters():
        if layer_of(parameter.name, model.model) in frozen:
            parameter.requires_grad = False
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.BatchNorm2d) and not cell.gamma.requires_grad:
            cell.use_batch_statistics = False


def moving_statistics(network: nn.Cell) -> list[Parameter]:
    """The statistics that the network's BatchNorms gather in training."""
    return [
        statistic
        for _, cell in network.cells_and_names()
        if isinstance(cell, nn.BatchNorm2d) and cell.use_batch_statistics is None
        for statistic in (cell.moving_mean, cell.moving_variance)
    ]


def layer_of(name: str, model: str) -> int:
    """The depth of a parameter: 0 the stem, 1 ... the rows, then the last convolution, then the head."""
    rows = len(VARIANTS[model].rows)
    part, index = name.split(".")[:2]
    return rows + 2 if part == "classifier" else max(0, min(int(index) - ROWS_BEGIN + 1, rows + 1))


def layer_names(model: str) -> list[str]:
    """What the numbers of `layer_of` stand for."""
    rows = len(VARIANTS[model].rows)
    return ["stem", *(f"row {row}" for row in range(1, rows + 1)), "last convolution", "head"]
