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
NARROWEST, LINE = 112, 12  # pixels: of an image, so that its label can be read; of a line of text


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
    """Images (batch, height, width, channels) on the scale 0 to 255, in rows, each above the lines of its caption."""
    levels, captions = levels[:MOST], captions[:MOST]
    scale = max(1, NARROWEST / levels.shape[2])
    image_height, image_width = (round(scale * side) for side in levels.shape[1:3])
    columns = int(np.ceil(np.sqrt(len(levels))))
    lines = max(caption.count("\n") + 1 for caption in captions)
    width, height = image_width + 4, image_height + 4 + lines * LINE
    sheet = Image.new("RGB", (columns * width, -(-len(levels) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(levels, captions, strict=True)):
        left, top = number % columns * width, number // columns * height
        pixels = np.broadcast_to(np.rint(np.clip(image, 0, 255)).astype(np.uint8), (*image.shape[:2], 3))
        shown = Image.fromarray(pixels).resize((image_width, image_height), Image.Resampling.NEAREST)
        sheet.paste(shown, (left + 2, top + 2))
        for line, text in enumerate(caption.split("\n")):
            draw.text((left + 2, top + image_height + 3 + line * LINE), _fitted(draw, text, image_width), "black")
    return sheet


def _named(targets: np.ndarray, class_names: Sequence[str], spread: float) -> str:
    """The classes an image is of, two if it is mixed, each with its target."""
    classes = [index for index in np.argsort(-targets)[:2] if targets[index] > spread + 1e-6]
    return "\n".join(f"{targets[index]:.2f} {class_names[index]}" for index in classes)


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    while draw.textlength(text) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text
