"""MobileNetV3 (Howard et al. 2019, https://arxiv.org/abs/1905.02244): the network of a table.

Parameter names are MindCV's, so that its checkpoints load here and ours load there.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from mindcv_lite.models.block_tables import Row, Variant, make_divisible
from mindcv_lite.stateless_random import bits

ACTIVATIONS = {"relu": nn.ReLU, "hswish": nn.HSwish}

Activation = type[nn.Cell]


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    group: int = 1,
    same: bool = False,
    has_bias: bool = False,
) -> nn.Conv2d:
    """A convolution, padded by kernel // 2 on every side or, with `same`, as TensorFlow's SAME."""
    mode, padding = ("same", 0) if same else ("pad", kernel // 2)
    # pyrefly: ignore [bad-argument-count, unexpected-keyword]  (MindSpore's decorator hides the signature)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, mode, padding, group=group, has_bias=has_bias)


def stem_convolution(in_channels: int, channels: int, same: bool) -> nn.Conv2d:
    """MindSpore's own, from images."""
    return convolution(in_channels, channels, kernel=3, stride=2, same=same)


def depthwise_convolution(channels: int, kernel: int, stride: int, same: bool) -> nn.Conv2d:
    """MindSpore's own, a kernel for each channel."""
    return convolution(channels, channels, kernel, stride, group=channels, same=same)


def batch_norm_act(channels: int, eps: float, momentum: float, activation: Activation | None) -> list[nn.Cell]:
    """MindSpore's own BatchNorm, and the activation if there is one."""
    # MindSpore's momentum, too, is the share of the old statistics that is kept.
    # pyrefly: ignore [bad-argument-count, unexpected-keyword]  (MindSpore's decorator hides the signature)
    norm = nn.BatchNorm2d(channels, eps=eps, momentum=momentum)
    return [norm, activation()] if activation else [norm]


def spatial_mean(x: Tensor) -> Tensor:
    """Mean over height and width: (batch, channels, height, width) -> (batch, channels, 1, 1)."""
    return ops.mean(x, (2, 3), keep_dims=True)


def scale_channels(x: Tensor, gates: Tensor) -> Tensor:
    """(batch, channels, height, width) times (batch, channels, 1, 1)."""
    return x * gates


class Operators(NamedTuple):
    """What a device may compute faster in another way than the textbook's: makers of cells, then functions."""

    stem: Callable[[int, int, bool], nn.Conv2d] = stem_convolution
    depthwise: Callable[[int, int, int, bool], nn.Conv2d] = depthwise_convolution
    batch_norm_act: Callable[[int, float, float, Activation | None], list[nn.Cell]] = batch_norm_act
    spatial_mean: Callable[[Tensor], Tensor] = spatial_mean
    scale_channels: Callable[[Tensor, Tensor], Tensor] = scale_channels


class Dropout(nn.Cell):
    """Zero a share of `p` of the activations (batch, channels), and scale up the others."""

    def __init__(self, p: float):
        super().__init__()
        self.keep = 1.0 - p
        self.threshold = int(p * 2**31)

    def construct(self, x: Tensor, seed: Tensor) -> Tensor:
        """`seed`: int32, of shape (); each gives a mask of its own."""
        if self.threshold == 0:
            return x
        return x * ops.greater_equal(bits(x.shape, seed), self.threshold).astype(x.dtype) / self.keep


class MobileNetV3(nn.Cell):
    """Logits (batch, num_classes) of normalised images (batch, in_channels, height, width).

    Args:
        variant: one of `block_tables.VARIANTS`.
        num_classes: number of logits.
        in_channels: channels of the images.
        drop_rate: share of the hidden layer that dropout zeroes in training.
        conv_padding: `mindcv` (symmetric stem, SAME depthwise), `symmetric` (torchvision, timm) or `same`
            (TensorFlow). They differ where the stride is 2; weights are right with one of them only.
        bn_eps: epsilon of every BatchNorm; part of what the weights mean, like the padding.
        bn_momentum: share of its old statistics that a BatchNorm keeps in a step.
        operators: what computes it; MindSpore's own if left out.
    """

    def __init__(
        self,
        variant: Variant,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
        conv_padding: str = "mindcv",
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.9,
        operators: Operators = Operators(),  # noqa: B008  (it cannot be changed)
    ):
        super().__init__()

        def norm_act(channels: int, activation: Activation | None) -> list[nn.Cell]:
            return operators.batch_norm_act(channels, bn_eps, bn_momentum, activation)

        activation = ACTIVATIONS[variant.activation]
        channels = variant.scaled_stem()
        stem = operators.stem(in_channels, channels, conv_padding == "same")
        features = [stem, *norm_act(channels, activation)]
        for row in variant.scaled_rows():
            same = conv_padding != "symmetric"
            features.append(Bottleneck(channels, row, same, norm_act, operators))
            channels = row.out
        last = 6 * channels
        features += [convolution(channels, last), *norm_act(last, activation)]
        self.features = nn.SequentialCell(features)
        self.spatial_mean = operators.spatial_mean

        hidden = variant.scaled_hidden()
        self.classifier = nn.SequentialCell(
            nn.Dense(last, hidden), activation(), Dropout(drop_rate), nn.Dense(hidden, num_classes)
        )
        _initialise(self)

    def construct(self, x: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        """`dropout_seed`: in training, an int32 that is another one in each step."""
        expand, activation, dropout, classify = self.classifier
        x = self.features(x)  # (batch, last, height / 32, width / 32)
        x = self.spatial_mean(x).reshape(x.shape[:2])  # (batch, last)
        x = activation(expand(x))  # (batch, hidden)
        if dropout_seed is not None:
            x = dropout(x, dropout_seed)
        return classify(x)  # (batch, num_classes)


class Bottleneck(nn.Cell):
    """An inverted residual: expand 1x1, depthwise, squeeze-excite, project 1x1; with a shortcut if shapes agree."""

    def __init__(self, in_channels: int, row: Row, same: bool, norm_act: Callable, operators: Operators):
        super().__init__()
        activation, width = ACTIVATIONS[row.activation], row.expanded
        layers: list[nn.Cell] = []
        if width != in_channels:
            layers += [convolution(in_channels, width), *norm_act(width, activation)]
        layers += [operators.depthwise(width, row.kernel, row.stride, same), *norm_act(width, activation)]
        if row.squeeze:
            layers += [SqueezeExcite(width, operators)]
        layers += [convolution(width, row.out), *norm_act(row.out, None)]
        self.layers = nn.SequentialCell(layers)
        self.shortcut = row.stride == 1 and in_channels == row.out

    def construct(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class SqueezeExcite(nn.Cell):
    """Scale each channel by a gate in 0..1 that the spatial means of all channels decide (paper, section 5.3)."""

    def __init__(self, channels: int, operators: Operators):
        super().__init__()
        squeezed = make_divisible(channels / 4)
        self.conv_reduce = convolution(channels, squeezed, has_bias=True)
        self.relu = nn.ReLU()
        self.conv_expand = convolution(squeezed, channels, has_bias=True)
        self.gate = nn.HSigmoid()
        self.spatial_mean, self.scale_channels = operators.spatial_mean, operators.scale_channels

    def construct(self, x: Tensor) -> Tensor:
        s = self.spatial_mean(x)  # (batch, channels, 1, 1)
        s = self.gate(self.conv_expand(self.relu(self.conv_reduce(s))))
        return self.scale_channels(x, s)


def _initialise(network: nn.Cell) -> None:
    """Draw the weights as MindCV does: He (fan out) for convolutions, N(0, 0.01) for dense layers, zero biases."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            deviation = math.sqrt(2.0 / (cell.kernel_size[0] * cell.kernel_size[1] * cell.out_channels))
        elif isinstance(cell, nn.Dense):
            deviation = 0.01
        else:
            continue
        cell.weight.set_data(initializer(Normal(deviation), cell.weight.shape, cell.weight.dtype))
        if cell.has_bias:
            cell.bias.set_data(initializer("zeros", cell.bias.shape, cell.bias.dtype))
