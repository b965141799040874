"""What a network is made of, worked out from its table: shapes, parameters, multiply-adds and receptive fields.

The padding convention changes none of these: by each of them a stride of 2 halves the sides and rounds up.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from mindcv_lite.models.block_tables import Part, Variant
from mindcv_lite.text_tables import aligned


class Convolution(NamedTuple):
    """A convolution with BatchNorm, or else with a bias; a dense layer is one that sees a single pixel."""

    inputs: int
    outputs: int
    pixels: int = 1  # of its output
    kernel: int = 1
    group: int = 1
    norm: bool = True

    @property
    def weights(self) -> int:
        return self.kernel**2 * self.inputs // self.group * self.outputs

    @property
    def trainable(self) -> int:
        return self.weights + self.outputs * (2 if self.norm else 1)  # gamma and beta, or the bias

    @property
    def statistics(self) -> int:
        return self.outputs * (2 if self.norm else 0)  # means and variances

    @property
    def multiply_adds(self) -> int:
        return self.weights * self.pixels


class Line(NamedTuple):
    """A part of the network, with what its convolutions have and do together."""

    name: str
    convolutions: list[Convolution]
    output: tuple[int, ...]  # (channels, height, width), or (channels,) after the pooling
    receptive_field: int | None = None  # side in pixels; None: the whole image
    kernel: int | None = None
    stride: int | None = None
    expanded: int | None = None
    squeezed: int | None = None
    activation: str | None = None

    @property
    def trainable(self) -> int:
        return sum(convolution.trainable for convolution in self.convolutions)

    @property
    def statistics(self) -> int:
        return sum(convolution.statistics for convolution in self.convolutions)

    @property
    def multiply_adds(self) -> int:
        """For one image, of convolutions and dense layers; their biases and all else are not counted."""
        return sum(convolution.multiply_adds for convolution in self.convolutions)


def complexity_of(variant: Variant, num_classes: int, in_channels: int, input_size: tuple[int, int]) -> Iterator[Line]:
    """The network from an image of `input_size`, (height, width), to the logits.

    The receptive field is that of the convolutions: squeeze-excite and the pooling see the whole image.
    """
    channels, size, field, jump = variant.scaled_stem(), strided(input_size, 2), 3, 2
    outer = variant.activation
    stem = [Convolution(in_channels, channels, prod(size), kernel=3)]
    yield Line("stem", stem, (channels, *size), field, kernel=3, stride=2, activation=outer)
    for number, (row, parts) in enumerate(variant.bottlenecks(), 1):
        convolutions, squeezed = [], None
        for part in parts:
            size = strided(size, part.stride)
            convolutions += _convolutions_of(part, prod(size))
            if part.name == "squeeze_excite":
                squeezed = part.squeezed
        channels = row.out
        field, jump = field + (row.kernel - 1) * jump, jump * row.stride
        layout = row.kernel, row.stride, row.expanded, squeezed, row.activation
        yield Line(f"row {number}", convolutions, (channels, *size), field, *layout)
    last, hidden = 6 * channels, variant.scaled_hidden()
    widening = [Convolution(channels, last, prod(size))]
    yield Line("last convolution", widening, (last, *size), field, kernel=1, stride=1, activation=outer)
    yield Line("pooling", [], (last,))
    yield Line("hidden layer", [Convolution(last, hidden, norm=False)], (hidden,), activation=outer)
    yield Line("logits", [Convolution(hidden, num_classes, norm=False)], (num_classes,))


def _convolutions_of(part: Part, pixels: int) -> list[Convolution]:
    """The convolutions of a part whose output has so many pixels."""
    if part.name == "squeeze_excite":
        reduce = Convolution(part.inputs, part.squeezed, norm=False)
        return [reduce, Convolution(part.squeezed, part.outputs, norm=False)]
    return [Convolution(part.inputs, part.outputs, pixels, part.kernel, part.group)]


def strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    height, width = size
    return -(-height // stride), -(-width // stride)


# ------------------------------------------------------------------------------------------------------------ as text

TEXTS = ("layer", "kernel", "stride", "expanded", "squeeze", "activation", "output")
NUMBERS = ("parameters", "statistics", "multiply-adds", "receptive field")


def table(lines: list[Line]) -> Iterator[str]:
    """Aligned under their headings, the numbers to the right."""
    return aligned([TEXTS + NUMBERS, *map(_cells_of, lines)], texts=len(TEXTS))


def _cells_of(line: Line) -> tuple[str, ...]:
    layout = line.kernel, line.stride, line.expanded, line.squeezed, line.activation
    numbers = line.trainable, line.statistics, line.multiply_adds
    return (
        line.name,
        *("-" if value is None else str(value) for value in layout),
        " x ".join(map(str, line.output)),
        *(f"{number:,}" for number in numbers),
        "image" if line.receptive_field is None else str(line.receptive_field),
    )


def totals(lines: list[Line]) -> str:
    """The sums over a network."""
    trainable = sum(line.trainable for line in lines)
    statistics = sum(line.statistics for line in lines)
    multiply_adds = sum(line.multiply_adds for line in lines)
    return (
        f"total: {trainable:,} trainable parameters, {trainable + statistics:,} with BatchNorm's statistics; "
        f"{multiply_adds:,} multiply-adds"
    )
