"""A network of random numbers, photos of many kinds, and what `predict` says of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from PIL import Image

from mindcv_lite.recipe.keys import Recipe

if TYPE_CHECKING:
    from mindcv_lite.checkpoints.trained import Trained
    from mindcv_lite.device.ranks import World

# Sides of squares. In doubles side * (resized / side) is less than 54 for the first, than 73 for the second.
SQUARES = {3: 196, 7: 577}
TITLES = ("cat", 'Gänse"blümchen"', "<b>\\</script>", "雏菊", "🌼")


class Photos(NamedTuple):
    """`names`: the best class of each photo, and its probability, by `predict`; no other class is near it."""

    trained: "Trained"
    paths: list[Path]
    names: list[str]
    probabilities: list[float]


@pytest.fixture(scope="session")
def photos(recipe: Callable[..., Recipe], world: Callable[..., "World"], graph_mode: None, tmp_path_factory) -> Photos:
    import mindspore

    from mindcv_lite.evaluation.mindspore_predictor import MindSporePredictor

    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number}.{'png' if number % 4 == 3 else 'jpg'}" for number in range(20)]
    for number, path in enumerate(paths):
        write_photo(path, np.random.default_rng(number), turned=number % 5 == 2, side=SQUARES.get(number))
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    try:
        trained = random_network(recipe(image_resize=64, num_classes=len(TITLES), bn_momentum=0, drop_rate=0))
        found = MindSporePredictor(trained, world(trained.recipe)).predict([str(path) for path in paths], 2)
    finally:
        mindspore.set_context(mode=mindspore.GRAPH_MODE)
    assert not found.flaws
    best = {path: [(TITLES[output], probability) for output, probability in found.best[str(path)]] for path in paths}
    clear = {path: first for path, (first, second) in best.items() if first[1] - second[1] > 0.04}
    assert len(clear) > 15
    assert len({name for name, _ in clear.values()}) >= 3, "the photos do not matter to this network"
    return Photos(trained, [*clear], [name for name, _ in clear.values()], [best for _, best in clear.values()])


def write_photo(path: Path, random: np.random.Generator, turned: bool, side: int | None) -> None:
    """A photo of any size and shape, or a square; turned by its EXIF data if that is asked for."""
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    width, height = (side, side) if side else random.integers(50, 400, 2)
    blots(random, (int(width), int(height))).save(path, exif=exif)


def blots(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    colours = Image.fromarray(random.integers(0, 256, (*random.integers(2, 7, 2), 3), np.uint8))
    return colours.resize(size, Image.Resampling.BICUBIC)


def random_network(recipe: Recipe) -> "Trained":
    """A network whose BatchNorms have the statistics of such photos, and no class of which comes always."""
    import mindspore
    from mindspore import Tensor

    from mindcv_lite.checkpoints.trained import Trained
    from mindcv_lite.checkpoints.weights import Weights
    from mindcv_lite.data.transforms.normalize import Normalize
    from mindcv_lite.export import readers
    from mindcv_lite.models.build import build_network

    random, size = np.random.default_rng(0), recipe.augmentation.input_size
    parameters = readers.random_network(recipe).weights.parameters
    network = build_network(recipe.model, "O0")
    mindspore.load_param_into_net(network, parameters)
    images = Tensor(np.stack([np.asarray(blots(random, size)) for _ in range(32)]))
    normalised = Normalize(recipe.augmentation.mean, recipe.augmentation.std)(images)
    network.set_train(True)(normalised)
    logits = network.set_train(False)(normalised).asnumpy()
    parameters = network.parameters_dict()
    weight, bias = (parameters[f"classifier.3.{name}"] for name in ("weight", "bias"))
    scale = (2 / logits.std(0)).astype(np.float32)
    bias.set_data(Tensor((bias.asnumpy() - logits.mean(0)) * scale))
    weight.set_data(Tensor(weight.asnumpy() * scale[:, None]))
    return Trained(Weights("random.ckpt", parameters, None), recipe, TITLES)
