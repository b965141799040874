"""What is said before training: how often balanced sampling takes an image."""

import numpy as np

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.training.run_summary import times_drawn


def test_it_says_how_often_an_image_of_the_smallest_and_of_the_largest_class_is_drawn():
    labels = np.repeat(np.arange(4), [400, 0, 20, 80]).astype(np.int32)
    images = Split([str(index) for index in range(500)], labels, ("tulips", "none", "roses", "lilies"))
    assert times_drawn(images, 480) == (
        "about 160 images an epoch of each of 3 classes: an image of 'roses' (20) 8 times, of 'tulips' (400) 0.4 times"
    )
    alike = Split(images.paths[:20], np.repeat([0, 1], 10).astype(np.int32), ("a", "b"))
    assert times_drawn(alike, 20) == "about 10 images an epoch of each of 2 classes: an image of 'a' (10) 1 times"
