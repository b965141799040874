"""A batch of training as a picture, so that a person sees what the network sees."""

from collections.abc import Sequence
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor
from PIL import Image, ImageDraw

from mindcv_lite.data.pipeline import TrainingBatches
from mindcv_lite.data.sharding import noise_seed
from mindcv_lite.data.transforms.batch_transforms import Preparation
from mindcv_lite.files import written_whole
from mindcv_lite.recipe.keys import Recipe

MOST = 100  # images on a sheet
SMALLEST_SIDE, LINE = 112, 12  # pixels: of an image, so that its label can be read; of a line of text


def draw_first_batch(batches: TrainingBatches, recipe: Recipe, class_names: Sequence[str]) -> None:
    """Write the picture of this rank's first batch to the file `show_batch`."""
    sheet = first_batch(batches, recipe, class_names)
    with written_whole(Path(recipe.system.show_batch)) as unfinished:
        sheet.save(unfinished)


def first_batch(batches: TrainingBatches, recipe: Recipe, class_names: Sequence[str]) -> Image.Image:
    """This rank's first batch of training: its images, normalised and back, above their targets."""
    images, labels, _, *drawn = next(iter(batches.epoch(0)))
    seed = Tensor(noise_seed(recipe.system.seed), mindspore.int32)
    x, targets = Preparation(recipe)(Tensor(images), Tensor(labels), tuple(map(Tensor, drawn)), seed)
    levels = x.asnumpy().transpose(0, 2, 3, 1) * recipe.augmentation.std + recipe.augmentation.mean
    spread = recipe.loss.label_smoothing / targets.shape[1]  # which each class gets
    return contact_sheet(levels, [_named(row, class_names, spread) for row in targets.asnumpy()])


def contact_sheet(levels: np.ndarray, captions: Sequence[str]) -> Image.Image:
    """Images (batch, side, side, channels) on the scale 0 to 255 in rows, each with the lines of its caption below."""
    levels, captions = levels[:MOST], captions[:MOST]
    side = max(levels.shape[1], SMALLEST_SIDE)
    columns = int(np.ceil(np.sqrt(len(levels))))
    lines = max(caption.count("\n") + 1 for caption in captions)
    width, height = side + 4, side + 4 + lines * LINE
    sheet = Image.new("RGB", (columns * width, -(-len(levels) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(levels, captions, strict=True)):
        left, top = number % columns * width, number // columns * height
        pixels = np.broadcast_to(np.rint(np.clip(image, 0, 255)).astype(np.uint8), (*image.shape[:2], 3))
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (left + 2, top + 2))
        for line, text in enumerate(caption.split("\n")):
            draw.text((left + 2, top + side + 3 + line * LINE), _fitted(draw, text, side), "black")
    return sheet


def _named(targets: np.ndarray, class_names: Sequence[str], spread: float) -> str:
    """The classes an image is of, two if it is mixed, each with its target."""
    classes = [index for index in np.argsort(-targets)[:2] if targets[index] > spread + 1e-6]
    return "\n".join(f"{targets[index]:.2f} {class_names[index]}" for index in classes)


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    while draw.textlength(text) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text
