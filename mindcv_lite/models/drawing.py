"""The architecture of a network as an SVG file, from its table: a box for each layer, from top to bottom.

The colours are fixed, on a light background of the picture's own: the page around it may be dark.
"""

from collections.abc import Iterator

from mindcv_lite.models.complexity import Line

WIDTH, LEFT, RIGHT = 492, 26, 482  # of the picture, and the sides of its boxes; 492 units are readable on a phone
BOX, STEP, TOP = 26, 34, 160  # height of a box, distance to the next one, top of the first one
COLUMNS = {  # x and anchor of the text
    "layer": (36, "start"),
    "expanded": (111, "middle"),
    "kernel": (172, "middle"),
    "stride": (216, "middle"),
    "squeeze": (264, "middle"),
    "activation": (327, "middle"),
    "output": (RIGHT - 8, "end"),
}
ACTIVATIONS = {"relu": "ReLU", "hswish": "h-swish"}
BADGES = {"squeeze": 36, "stride": 24}  # width
STYLE = """
text { fill: #1c1e21 }
.model { font-size: 18px; font-weight: bold }
.heading { fill: #5b6169; font-size: 12px }
.page { fill: #ffffff; stroke: #d5d9de }
.flow { stroke: #8a9099; stroke-width: 2 }
.shortcut { stroke: #1c1e21; stroke-width: 1.5; fill: none }
.box { stroke: #8a9099; fill: #eceef1 }
.relu { fill: #d6e6ff }
.hswish { fill: #ffe3b8 }
.squeeze-badge { fill: #15703a }
.stride-badge { fill: #7132c9 }
.on-badge { fill: #ffffff; font-weight: bold }
"""


def drawing(model: str, image: tuple[int, int, int], lines: list[Line]) -> str:
    """The network `model`, whose table has these `lines` for images of the shape `image`: (channels, height, width)."""
    layers = [Line("image", [], image), *lines]
    bottom = TOP + STEP * len(layers)
    parts = [
        f"<title>{model}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{bottom - 1}" rx="10"/>',
        *title(model, lines),
        *legend(),
        *(text("heading", *x_and_anchor, TOP - 8, name) for name, x_and_anchor in COLUMNS.items()),
        f'<path class="flow" d="M{(LEFT + RIGHT) // 2} {TOP}V{bottom - STEP}"/>',
    ]
    for number, line in enumerate(layers):
        adds_input = line.expanded is not None and line.output == layers[number - 1].output
        parts += ['<g class="row">', *row(line, adds_input, TOP + STEP * number), "</g>"]
    size = f'viewBox="0 0 {WIDTH} {bottom}" width="{WIDTH}" height="{bottom}"'
    font = 'font-family="system-ui, sans-serif" font-size="14"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} role="img">', *parts, "</svg>", ""])


def title(model: str, lines: list[Line]) -> Iterator[str]:
    """The name of the network, and how large it is."""
    trainable, multiply_adds = sum(line.trainable for line in lines), sum(line.multiply_adds for line in lines)
    yield text("model", LEFT, "start", 32, model)
    size = f"{trainable / 1e6:.2f} M trainable parameters, {multiply_adds / 1e6:.1f} M multiply-adds"
    yield text("size", LEFT, "start", 54, size)


def legend() -> Iterator[str]:
    """What the colours and the curve mean."""
    names = [*ACTIVATIONS.values(), "no activation", "squeeze-excite", "stride 2", "shortcut"]
    for number, name in enumerate(names):
        yield text("legend", LEFT + 44 + 155 * (number % 3), "start", 84 + 28 * (number // 3), name)
    for number, activation in enumerate([*ACTIVATIONS, None]):
        yield box(activation, LEFT + 155 * number, 70, 36, 18)
    for number, name in enumerate(BADGES):
        yield badge(name, LEFT + 155 * number + 18, 98)
    yield shortcut(LEFT + 155 * 2 + 26, 96, 118)


def row(line: Line, adds_input: bool, top: int) -> Iterator[str]:
    """The box of a layer, with what the table says of it."""
    yield box(line.activation, LEFT, top, RIGHT - LEFT, BOX)
    if adds_input:
        yield shortcut(LEFT, top - 4, top + BOX + 4)
    cells = {
        "layer": line.name,
        "expanded": line.expanded,
        "kernel": line.kernel and f"{line.kernel} x {line.kernel}",
        "stride": line.stride,
        "squeeze": line.squeezed,
        "activation": line.activation and ACTIVATIONS[line.activation],
        "output": " x ".join(map(str, line.output)),
    }
    for name, cell in cells.items():
        x, anchor = COLUMNS[name]
        if cell and (name == "squeeze" or (name == "stride" and cell != 1)):
            yield badge(name, x, top + 4)
            yield text(f"{name} on-badge", x, anchor, top + 18, cell)
        elif cell:
            yield text(name, x, anchor, top + 18, cell)


def text(kind: str, x: int, anchor: str, y: int, content: object) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{content}</text>'


def box(activation: str | None, x: int, y: int, width: int, height: int) -> str:
    return f'<rect class="box {activation or "none"}" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>'


def badge(name: str, middle: int, top: int) -> str:
    width = BADGES[name]
    return f'<rect class="{name}-badge" x="{middle - width // 2}" y="{top}" width="{width}" height="18" rx="9"/>'


def shortcut(x: int, top: int, bottom: int) -> str:
    """A curve on the left of a box, from what enters it to what leaves it."""
    return f'<path class="shortcut" d="M{x} {top}C{x - 20} {top} {x - 20} {bottom} {x} {bottom}"/>'
