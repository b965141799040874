"""Shapes, counts and receptive fields against the network that is built and run, and against those published."""

import itertools

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_lite.models.block_tables import SMALL, VARIANTS, Variant
from mindcv_lite.models.complexity import Line, complexity_of, table, totals
from mindcv_lite.models.mobilenetv3 import Bottleneck, MobileNetV3

pytestmark = pytest.mark.usefixtures("pynative_mode")


def lines_of(
    model: str, num_classes: int = 1000, in_channels: int = 3, image_size: tuple[int, int] = (224, 224)
) -> dict[str, Line]:
    return {line.name: line for line in complexity_of(VARIANTS[model], num_classes, in_channels, image_size)}


@pytest.mark.parametrize(
    ("model", "trainable", "with_statistics", "multiply_adds"),
    [
        ("mobilenet_v3_small_100", "2,542,856", "2,554,968", 56.5),
        ("mobilenet_v3_large_100", "5,483,032", "5,507,432", 216.6),
    ],
)
def test_the_totals_are_those_published(model, trainable, with_statistics, multiply_adds):
    lines = list(lines_of(model).values())
    start = f"total: {trainable} trainable parameters, {with_statistics} with BatchNorm's statistics; "
    assert totals(lines).startswith(start)
    found = totals(lines).removeprefix(start).removesuffix(" multiply-adds")
    assert int(found.replace(",", "")) / 1e6 == pytest.approx(multiply_adds, abs=0.05)


def test_rows_of_the_papers_table_by_hand():
    lines = lines_of("mobilenet_v3_large_100")
    # Row 4: 24 channels of 56 x 56 -> 72 -> 5 x 5, stride 2, squeeze-excite to 24 -> 40 of 28 x 28.
    row = lines["row 4"]
    assert row.multiply_adds == 24 * 72 * 56**2 + 25 * 72 * 28**2 + 2 * 72 * 24 + 72 * 40 * 28**2
    assert row.trainable == 24 * 72 + 25 * 72 + (72 * 24 + 24) + (24 * 72 + 72) + 72 * 40 + 2 * (72 + 72 + 40)
    assert row.statistics == 2 * (72 + 72 + 40)
    assert row.output == (40, 28, 28)
    # Row 1 has neither an expansion nor squeeze-excite.
    assert lines["row 1"].multiply_adds == (9 * 16 + 16 * 16) * 112**2
    assert lines["logits"].multiply_adds == 1280 * 1000
    assert lines["logits"].trainable == 1280 * 1000 + 1000


def layers_by_line(network: MobileNetV3) -> dict[str, list[nn.Cell]]:
    """The parts of a built network that the lines stand for."""
    features, rows = list(network.features), [cell for cell in network.features if isinstance(cell, Bottleneck)]
    hidden, _, _, logits = network.classifier
    return {
        "stem": features[:3],
        **{f"row {number}": [row] for number, row in enumerate(rows, 1)},
        "last convolution": features[-3:],
        "pooling": [],
        "hidden layer": [hidden],
        "logits": [logits],
    }


CASES = [(1000, 3, (64, 64), "mindcv"), (1, 1, (97, 64), "symmetric"), (7, 3, (50, 97), "same")]


@pytest.mark.parametrize(
    ("model", "num_classes", "in_channels", "image_size", "conv_padding"),
    [(model, *case) for model, case in zip(VARIANTS, itertools.cycle(CASES), strict=False)],
)
def test_each_line_counts_what_the_network_has_and_does(model, num_classes, in_channels, image_size, conv_padding):
    network = MobileNetV3(VARIANTS[model], num_classes, in_channels, conv_padding=conv_padding)
    network.set_train(False)
    outputs = {}

    def remember(cell, inputs, output):
        outputs[id(cell)] = output.shape[1:]

    for _, cell in network.cells_and_names():
        cell.register_forward_hook(remember)
    network(Tensor(np.zeros((1, in_channels, *image_size), np.float32)))

    lines = lines_of(model, num_classes, in_channels, image_size)
    parts = layers_by_line(network)
    assert list(lines) == list(parts)
    for name, cells in parts.items():
        line = lines[name]
        parameters = [parameter for cell in cells for parameter in cell.get_parameters()]
        trainable = sum(parameter.size for parameter in parameters if parameter.requires_grad)
        assert line.trainable == trainable, name
        assert line.statistics == sum(parameter.size for parameter in parameters) - trainable, name
        inner = [each for cell in cells for _, each in cell.cells_and_names()]
        products = [cell for cell in inner if isinstance(cell, (nn.Conv2d, nn.Dense))]
        positions = [int(np.prod(outputs[id(cell)][1:])) for cell in products]  # of a kernel; 1 for a dense layer
        assert line.multiply_adds == sum(
            cell.weight.size * count for cell, count in zip(products, positions, strict=True)
        ), name
        if cells:
            assert line.output == outputs[id(cells[-1])], name
    assert sum(line.trainable for line in lines.values()) == sum(p.size for p in network.trainable_params())
    everything = sum(parameter.size for parameter in network.get_parameters())
    assert sum(line.trainable + line.statistics for line in lines.values()) == everything


def test_an_output_depends_on_the_pixels_of_its_receptive_field_and_on_no_other():
    # Positive images and weights, and no squeeze-excite: no gradient vanishes but those of pixels that are not seen.
    variant = Variant(tuple(row._replace(squeeze=False) for row in SMALL), hidden=1024)
    network = MobileNetV3(variant, 1)
    network.set_train(False)
    for cell in (cell for _, cell in network.cells_and_names() if isinstance(cell, nn.Conv2d)):
        weight = cell.weight
        weight.set_data(Tensor(np.full(weight.shape, 1 / weight[0].size, np.float32)))
    image, middle = Tensor(np.ones((1, 3, 256, 256), np.float32)), 128
    for number, line in enumerate(list(complexity_of(variant, 1, 3, (256, 256)))[:6]):  # the stem and 5 rows
        cells = list(network.features)[: 3 + number]
        position = middle * line.output[-1] // 256

        def pixel(x, cells=cells, position=position):
            for cell in cells:
                x = cell(x)
            return x[0, 0, position, position]

        seen = np.any(mindspore.grad(pixel)(image).asnumpy() != 0, axis=(0, 1))
        assert line.receptive_field == seen.any(0).sum() == seen.any(1).sum(), line.name
        assert seen.sum() == seen.any(0).sum() * seen.any(1).sum(), line.name


def test_the_table_is_aligned_and_has_a_line_for_each_part():
    lines = list(lines_of("mobilenet_v3_small_100").values())
    page = list(table(lines))
    assert len({len(line) for line in page}) == 1
    assert [line.split("  ")[0] for line in page] == ["layer", *(line.name for line in lines)]
    assert " ".join(page[5].split()) == "row 4 5 2 96 24 hswish 40 x 14 x 14 13,736 464 3,033,984 63"
