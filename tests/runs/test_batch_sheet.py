"""The picture of a batch: its pixels are those of the network's input, and its captions the targets."""

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.data.datasets.splits import training_splits
from mindcv_lite.data.pipeline import TrainingBatches
from mindcv_lite.errors import UserError
from mindcv_lite.runs.batch_sheet import contact_sheet, draw_first_batch

pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.fixture
def draw(recipe, world, image_folder, tmp_path):
    folder = image_folder({"train": {"a": 3, "b": 2}})

    def draw(name: str = "batch.png", **keys) -> Image.Image:
        given = recipe(data_dir=folder, show_batch=tmp_path / name, batch_size=5, num_classes=2, **keys)
        images, _ = training_splits(given)
        draw_first_batch(TrainingBatches(images, given, world(given)), given, images.class_names)
        return Image.open(tmp_path / name)

    return draw


def test_the_images_on_the_sheet_are_those_of_the_batch(recipe, world, image_folder, draw, tmp_path):
    sheet = np.asarray(draw(image_resize=112, color_jitter=0.4))
    given = recipe(data_dir=tmp_path / "images", batch_size=5, image_resize=112, color_jitter=0.4)
    split, _ = training_splits(given)
    images, _, _ = next(iter(TrainingBatches(split, given, world(given)).epoch(0)))
    assert sheet.shape == (2 * (116 + 12), 3 * 116, 3)
    for number, image in enumerate(images):
        top, left = number // 3 * 128 + 2, number % 3 * 116 + 2
        assert np.array_equal(sheet[top : top + 112, left : left + 112], image)


def test_small_images_are_enlarged_and_mixed_ones_have_two_captions(draw):
    assert draw(mixup=1.0, label_smoothing=0.1).size == (3 * 116, 2 * (116 + 24))


def test_grey_images_and_long_names_fit():
    sheet = contact_sheet(np.full((2, 120, 120, 1), 300.0), ["x" * 500, "1.00 薔薇"])
    assert sheet.size == (2 * 124, 124 + 12)
    assert sheet.getpixel((60, 60)) == (255, 255, 255)


def test_rectangles_keep_their_shape():
    assert contact_sheet(np.zeros((1, 60, 120, 3)), ["a"]).size == (124, 64 + 12)
    assert contact_sheet(np.zeros((1, 20, 56, 3)), ["a"]).size == (116, 44 + 12)  # enlarged


def test_of_a_large_batch_a_hundred_are_shown():
    assert contact_sheet(np.zeros((150, 112, 112, 3)), ["a"] * 150).size == (10 * 116, 10 * 128)


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(draw, tmp_path):
    (tmp_path / "batch.png").mkdir()
    with pytest.raises(UserError, match=r"batch\.png: stands there and is no file"):
        draw()
    assert {path.name for path in tmp_path.iterdir()} == {"images", "batch.png"}
