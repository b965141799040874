"""The drawing of a network against its table: each row once, with all that the table says of it, and readable."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from matplotlib import get_data_path
from PIL import ImageFont

from mindcv_lite.models.block_tables import VARIANTS, make_divisible
from mindcv_lite.models.complexity import complexity_of
from mindcv_lite.models.drawing import STYLE, drawing
from tests.conftest import drawn_rows

SVG = "{http://www.w3.org/2000/svg}"
each_model = pytest.mark.parametrize("model", VARIANTS)


def svg_of(model: str, num_classes: int = 1000, image: tuple[int, int, int] = (3, 224, 224)) -> str:
    return drawing(model, image, list(complexity_of(VARIANTS[model], num_classes, image[0], image[1:])))


def groups_of(svg: str) -> list[ElementTree.Element]:
    """The rows of a drawing, from top to bottom."""
    return ElementTree.fromstring(svg).findall(f"{SVG}g[@class='row']")


def kind_of(element: ElementTree.Element) -> str:
    return element.get("class", "").split()[0]


def classes_in(group: ElementTree.Element, tag: str) -> list[str]:
    return [element.get("class", "") for element in group.iter(f"{SVG}{tag}")]


@each_model
def test_each_row_of_the_table_stands_there_once_with_all_that_it_says(model):
    variant = VARIANTS[model]
    name, outer = {"relu": "ReLU", "hswish": "h-swish"}, variant.activation
    _, *lines = drawn_rows(svg_of(model))
    first, last = len(lines) - len(variant.rows) - 4, len(lines) - 4
    assert first == 1
    for number, (cells, row) in enumerate(zip(lines[first:last], variant.scaled_rows(), strict=True), 1):
        squeeze = {"squeeze": str(make_divisible(row.expanded / 4))} if row.squeeze else {}
        output = cells.pop("output")
        assert output.split(" x ")[0] == str(row.out)
        assert cells == squeeze | {
            "layer": f"row {number}",
            "expanded": str(row.expanded),
            "kernel": f"{row.kernel} x {row.kernel}",
            "stride": str(row.stride),
            "activation": name[row.activation],
        }
    stem, convolution, pooling, hidden, logits = (lines[index] for index in (0, -4, -3, -2, -1))
    assert (stem["layer"], stem["kernel"], stem["stride"], stem["activation"]) == ("stem", "3 x 3", "2", name[outer])
    assert (convolution["layer"], convolution["kernel"]) == ("last convolution", "1 x 1")
    assert convolution["activation"] == hidden["activation"] == name[outer]
    assert (pooling.keys(), hidden["layer"], logits["layer"]) == ({"layer", "output"}, "hidden layer", "logits")


@pytest.mark.parametrize(("num_classes", "image"), [(1000, (3, 224, 224)), (1, (1, 97, 97))])
@each_model
def test_the_shapes_are_those_of_the_table(model, num_classes, image):
    lines = complexity_of(VARIANTS[model], num_classes, image[0], image[1:])
    expected = [("image", image), *((line.name, line.output) for line in lines)]
    rows = drawn_rows(svg_of(model, num_classes, image))
    assert [(row["layer"], row["output"]) for row in rows] == [
        (name, " x ".join(map(str, shape))) for name, shape in expected
    ]


@each_model
def test_colours_and_curves_say_what_the_table_says(model):
    variant = VARIANTS[model]
    groups = groups_of(svg_of(model))[2:-4]
    inputs = [variant.scaled_stem(), *(row.out for row in variant.scaled_rows()[:-1])]
    for group, row, channels in zip(groups, variant.scaled_rows(), inputs, strict=True):
        badges = [name for name, drawn in (("stride-badge", row.stride == 2), ("squeeze-badge", row.squeeze)) if drawn]
        assert classes_in(group, "rect") == [f"box {row.activation}", *badges]
        assert classes_in(group, "path") == ["shortcut"] * (row.stride == 1 and row.out == channels)
    colours = [re.search(rf"^\.{name} {{ fill: (#\w+) }}", STYLE, re.M) for name in ("relu", "hswish", "stride-badge")]
    assert len({colour.group(1) for colour in colours if colour}) == 3


def test_a_legend_explains_each_sign_and_the_size_stands_under_the_name():
    page = ElementTree.fromstring(svg_of("mobilenet_v3_small_100"))
    texts = {}
    for text in page.findall(f"{SVG}text"):
        texts.setdefault(kind_of(text), []).append(text.text)
    assert texts == {
        "model": ["mobilenet_v3_small_100"],
        "size": ["2.54 M trainable parameters, 56.5 M multiply-adds"],
        "legend": ["ReLU", "h-swish", "no activation", "squeeze-excite", "stride 2", "shortcut"],
        "heading": ["layer", "expanded", "kernel", "stride", "squeeze", "activation", "output"],
    }
    signs = [element.get("class") for element in page if element.tag in (f"{SVG}rect", f"{SVG}path")]
    legend = ["box relu", "box hswish", "box none", "squeeze-badge", "stride-badge", "shortcut"]
    assert signs == ["page", *legend, "flow"]


@each_model
def test_no_text_touches_another_or_leaves_the_page(model):
    """In DejaVu Sans, which is wider than most fonts."""
    page = ElementTree.fromstring(svg_of(model))
    sizes = {"model": ("DejaVuSans-Bold", 18), "heading": ("DejaVuSans", 12)}
    by_line = {}
    for text in page.iter(f"{SVG}text"):
        bold = "on-badge" in text.get("class", "")
        family, size = sizes.get(kind_of(text), ("DejaVuSans-Bold" if bold else "DejaVuSans", 14))
        width = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{family}.ttf", size).getlength(text.text or "")
        left = float(text.get("x", "")) - width * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor", "")]
        by_line.setdefault(float(text.get("y", "")), []).append((left, left + width, text.text))
    for texts in by_line.values():
        edges = [(0, 0, ""), *sorted(texts), (float(page.get("width", "")), 0, "")]
        for (_, end, before), (start, _, after) in pairwise(edges):
            assert end + 2 <= start, (before, after)
    assert max(by_line) < float(page.get("height", ""))
