"""The block tables of MobileNetV3 (Howard et al. 2019, https://arxiv.org/abs/1905.02244), and the networks of them.

MindSpore is not imported here: what a network is can be said without building it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from mindcv_lite.errors import UserError
from mindcv_lite.recipe.keys import Model

ROWS_BEGIN = 3  # in `features`: after convolution, BatchNorm and activation of the stem; three more follow the rows

STEM = 16  # channels of the stem of full width


class Part(NamedTuple):
    """A part of a bottleneck: a convolution with BatchNorm, or a squeeze-excite."""

    name: str  # expand, depthwise, squeeze_excite or project
    index: int  # of its first layer in the bottleneck's `layers`
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    group: int = 1
    activation: str | None = None

    @property
    def squeezed(self) -> int:
        """The channels between the two layers of a squeeze-excite."""
        return make_divisible(self.inputs / 4)


class Row(NamedTuple):
    """One bottleneck of the paper's Tables 1 and 2; widths are those of the full-width network."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    activation: str
    stride: int

    def parts(self, in_channels: int) -> Iterator[Part]:
        """The parts of the bottleneck that takes `in_channels`, in the order in which they compute."""
        width, index = self.expanded, 0
        if width != in_channels:
            yield Part("expand", index, in_channels, width, activation=self.activation)
            index += 3  # convolution, BatchNorm, activation
        yield Part("depthwise", index, width, width, self.kernel, self.stride, group=width, activation=self.activation)
        index += 3
        if self.squeeze:
            yield Part("squeeze_excite", index, width, width)
            index += 1
        yield Part("project", index, width, self.out)


# fmt: off
LARGE = (  # paper, Table 1                                               input at 224 x 224
    Row(kernel=3, expanded= 16, out= 16, squeeze=False, activation="relu",   stride=1),  # 112
    Row(kernel=3, expanded= 64, out= 24, squeeze=False, activation="relu",   stride=2),  # 112
    Row(kernel=3, expanded= 72, out= 24, squeeze=False, activation="relu",   stride=1),  #  56
    Row(kernel=5, expanded= 72, out= 40, squeeze=True,  activation="relu",   stride=2),  #  56
    Row(kernel=5, expanded=120, out= 40, squeeze=True,  activation="relu",   stride=1),  #  28
    Row(kernel=5, expanded=120, out= 40, squeeze=True,  activation="relu",   stride=1),  #  28
    Row(kernel=3, expanded=240, out= 80, squeeze=False, activation="hswish", stride=2),  #  28
    Row(kernel=3, expanded=200, out= 80, squeeze=False, activation="hswish", stride=1),  #  14
    Row(kernel=3, expanded=184, out= 80, squeeze=False, activation="hswish", stride=1),  #  14
    Row(kernel=3, expanded=184, out= 80, squeeze=False, activation="hswish", stride=1),  #  14
    Row(kernel=3, expanded=480, out=112, squeeze=True,  activation="hswish", stride=1),  #  14
    Row(kernel=3, expanded=672, out=112, squeeze=True,  activation="hswish", stride=1),  #  14
    Row(kernel=5, expanded=672, out=160, squeeze=True,  activation="hswish", stride=2),  #  14
    Row(kernel=5, expanded=960, out=160, squeeze=True,  activation="hswish", stride=1),  #   7
    Row(kernel=5, expanded=960, out=160, squeeze=True,  activation="hswish", stride=1),  #   7
)

SMALL = (  # paper, Table 2                                               input at 224 x 224
    Row(kernel=3, expanded= 16, out= 16, squeeze=True,  activation="relu",   stride=2),  # 112
    Row(kernel=3, expanded= 72, out= 24, squeeze=False, activation="relu",   stride=2),  #  56
    Row(kernel=3, expanded= 88, out= 24, squeeze=False, activation="relu",   stride=1),  #  28
    Row(kernel=5, expanded= 96, out= 40, squeeze=True,  activation="hswish", stride=2),  #  28
    Row(kernel=5, expanded=240, out= 40, squeeze=True,  activation="hswish", stride=1),  #  14
    Row(kernel=5, expanded=240, out= 40, squeeze=True,  activation="hswish", stride=1),  #  14
    Row(kernel=5, expanded=120, out= 48, squeeze=True,  activation="hswish", stride=1),  #  14
    Row(kernel=5, expanded=144, out= 48, squeeze=True,  activation="hswish", stride=1),  #  14
    Row(kernel=5, expanded=288, out= 96, squeeze=True,  activation="hswish", stride=2),  #  14
    Row(kernel=5, expanded=576, out= 96, squeeze=True,  activation="hswish", stride=1),  #   7
    Row(kernel=5, expanded=576, out= 96, squeeze=True,  activation="hswish", stride=1),  #   7
)
# fmt: on


def minimalistic(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """`rows` without what is slow on some chips: no squeeze-excite, ReLU, 3x3 kernels (TensorFlow's variant)."""
    return tuple(row._replace(kernel=3, squeeze=False, activation="relu") for row in rows)


class Scaling(NamedTuple):
    """What a width scales besides the outputs of the rows: the widths of the full-width network, or else nothing (stem,
    hidden layer) and what the row's input gives by the ratio of the full-width network (expanded)."""

    stem: bool
    expanded: bool
    hidden: bool


ALL = Scaling(stem=True, expanded=True, hidden=True)  # MindCV's and torchvision's networks
# timm's narrow networks (`_gen_mobilenet_v3` of timm 1.0.31) and TensorFlow's, whose weights timm took over.
TIMM = Scaling(stem=False, expanded=False, hidden=False)


class Variant(NamedTuple):
    """A network: its rows, the width of the hidden layer in the head, the activation outside the rows, the width."""

    rows: tuple[Row, ...]
    hidden: int
    activation: str = "hswish"
    width: float = 1.0
    scaling: Scaling = ALL

    def scaled(self, channels: int) -> int:
        """The channels of this network where the full-width one has `channels`."""
        return make_divisible(channels * self.width)

    def scaled_stem(self) -> int:
        """The channels of the stem."""
        return self.scaled(STEM) if self.scaling.stem else STEM

    def scaled_hidden(self) -> int:
        """The width of the hidden layer in the head."""
        return self.scaled(self.hidden) if self.scaling.hidden else self.hidden

    def scaled_rows(self) -> list[Row]:
        """The rows with the channels of this network."""
        rows, full, channels = [], STEM, self.scaled_stem()
        for row in self.rows:
            by_ratio = make_divisible(channels * row.expanded / full)
            expanded = self.scaled(row.expanded) if self.scaling.expanded else by_ratio
            rows.append(row._replace(expanded=expanded, out=self.scaled(row.out)))
            full, channels = row.out, rows[-1].out
        return rows

    def bottlenecks(self) -> Iterator[tuple[Row, list[Part]]]:
        """The scaled rows, each with its parts."""
        channels = self.scaled_stem()
        for row in self.scaled_rows():
            yield row, list(row.parts(channels))
            channels = row.out


VARIANTS = {
    "mobilenet_v3_small_100": Variant(SMALL, hidden=1024),
    "mobilenet_v3_small_075": Variant(SMALL, hidden=1024, width=0.75),
    "mobilenet_v3_large_100": Variant(LARGE, hidden=1280),
    "mobilenet_v3_large_075": Variant(LARGE, hidden=1280, width=0.75),
    "mobilenet_v3_small_035": Variant(SMALL, hidden=1024, width=0.35),
    "mobilenet_v3_small_050": Variant(SMALL, hidden=1024, width=0.5),
    "mobilenet_v3_small_125": Variant(SMALL, hidden=1024, width=1.25),
    "mobilenet_v3_large_035": Variant(LARGE, hidden=1280, width=0.35),
    "mobilenet_v3_large_050": Variant(LARGE, hidden=1280, width=0.5),
    "mobilenet_v3_large_125": Variant(LARGE, hidden=1280, width=1.25),
    "mobilenet_v3_small_timm_050": Variant(SMALL, hidden=1024, width=0.5, scaling=TIMM),
    "mobilenet_v3_small_timm_075": Variant(SMALL, hidden=1024, width=0.75, scaling=TIMM),
    "mobilenet_v3_large_timm_075": Variant(LARGE, hidden=1280, width=0.75, scaling=TIMM),
    "mobilenet_v3_small_minimalistic_100": Variant(minimalistic(SMALL), hidden=1024, activation="relu"),
    "mobilenet_v3_large_minimalistic_100": Variant(minimalistic(LARGE), hidden=1280, activation="relu"),
}


def require_rows(model: Model) -> None:
    """Raise `UserError` if `freeze` counts more rows than the network has."""
    rows = len(VARIANTS[model.model].rows)
    if isinstance(model.freeze, int) and model.freeze > rows:
        raise UserError(f"freeze is {model.freeze}, but {model.model} has {rows} rows; --freeze {rows}, or backbone")


def make_divisible(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, but never down by more than a tenth (as in MobileNetV2)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
