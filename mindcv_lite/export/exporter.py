"""Export of a network: the cell that predicts in MindSpore, and the file that must predict the same."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from mindcv_lite import __version__
from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.checkpoints.trained import Trained
from mindcv_lite.data.transforms.decode_augment import evaluation_transforms
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.export.converted import FORMATS, Network
from mindcv_lite.export.int8 import Calibration, int8_file, log_speeds, predictions
from mindcv_lite.export.mindir_files import mindir_file, open_mindir
from mindcv_lite.export.onnx_files import Predict, onnx_file, open_onnx
from mindcv_lite.export.qdq_graph import qdq_graph
from mindcv_lite.export.quantised_checkpoint import quantised_of
from mindcv_lite.files import filled_whole, write_text, written_whole
from mindcv_lite.models.onnx_graph import DEFAULT_OPSET, PREPARED, RESIZES, network_graph
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.signals import take_signals_back

log = logging.getLogger(__name__)

# Largest difference from MindSpore in float32, as a share of the largest number. Another order of summation gives about
# 1e-6, a wrong epsilon or padding 1e-2 and more. float16 gives up to 2e-2 with random weights. In int8 a sum that is
# off in its last bits is rounded to the next whole number, and so are others behind it.
TOLERANCES = {"float32": 1e-3, "float16": 0.1, "int8": 0.3}
CONVERTED_TOLERANCE = 1e-4  # from the ONNX file, as a share of the largest number
RESIZED_TOLERANCE = 1  # of 255 levels: OpenCV resizes by whole numbers, ONNX in float32


class ExportedNetwork(nn.Cell):
    """A network, and what an exported file may hold besides: normalised first, probabilities in the end."""

    def __init__(self, network: nn.Cell, normalize: Normalize | None, softmax: bool):
        super().__init__(auto_prefix=False)
        self.network = network
        self.normalize = normalize
        self.softmax = softmax

    def construct(self, images: Tensor) -> Tensor:
        if self.normalize is not None:
            images = self.normalize(images)
        logits = self.network(images)
        return ops.softmax(logits) if self.softmax else logits  # (batch, classes)


def export(
    trained: Trained,
    target: Path,
    include_preprocess: bool = False,
    softmax: bool = False,
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    precision: str = "float32",
    calibration: Calibration | None = None,
    include_resize: bool = False,
    form: str | None = None,
) -> None:
    """Write a trained network as an ONNX or MINDIR file, by the suffix of `target`, if it predicts as in MindSpore.

    `include_preprocess`: it takes uint8 images (batch, height, width, channels), and normalises them; else
    (batch, channels, height, width) of `precision`, normalised already. `softmax`: it gives probabilities, not logits.
    `batch`: how many images it takes at once; None: any number. `opset`, `precision` (float32 or float16): of ONNX
    alone. `calibration`: make an ONNX file of int8, and choose its ranges on these images; not of a network that was
    trained with `quantize`, whose ONNX file is int8 by itself. `include_resize`: with `include_preprocess`, an ONNX
    file takes images of any height and width. `form`: openvino, ncnn or tflite; `target` is a folder then, for files
    that are converted from an ONNX file. Raises `UserError` if the weights are not finite, or too large for float16,
    `TrainingError` if the file's predictions are others.
    """
    recipe, network = trained.recipe, trained.network()
    if include_resize and recipe.augmentation.interpolation not in RESIZES:
        text = "its images are resized by {}, which no ONNX file can do alike: leave out --include_resize"
        raise UserError(f"{trained.weights.path}: {text.format(recipe.augmentation.interpolation)}")
    normalize = Normalize(recipe.augmentation.mean, recipe.augmentation.std)
    size, channels = recipe.augmentation.input_size, recipe.model.in_channels
    samples = sample_images(recipe.augmentation.resized_size if include_resize else size, channels)

    def normalised(images: np.ndarray) -> np.ndarray:
        return normalize(Tensor(images)).asnumpy()

    images = samples if include_preprocess else normalised(samples).astype(precision)
    exported = ExportedNetwork(network, normalize if include_preprocess else None, softmax).set_train(False)
    expected = exported(Tensor(centre(images, size) if include_preprocess else images.astype(np.float32))).asnumpy()
    take_signals_back()
    if not np.isfinite(expected).all():
        raise UserError(f"{trained.weights.path}: its predictions are not finite: the weights of a run that failed")

    metadata, number_format = metadata_of(trained), recipe.model.quantize or precision
    kind, shape = "probabilities" if softmax else "logits", [*images.shape[1:]]
    if not form and target.suffix == ".mindir":
        content = mindir_file(exported, images, metadata, batch)
        require_same(predictions(open_mindir(content), images, batch), expected, target, number_format)
        write(target, content)
    else:
        parameters = {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}
        graph = network_graph(recipe, parameters, include_preprocess, softmax, opset, precision, include_resize)
        if recipe.model.quantize:
            graph = qdq_graph(graph, quantised_of(graph, parameters, recipe.model.bn_eps))
        content, shape = onnx_file(graph, images, metadata, batch), graph.shape_of(images)
        require_same(predictions(open_onnx(content), images, batch), expected, target, number_format)
        if include_resize:
            require_same_pixels(open_onnx(content, output=PREPARED), recipe, batch, target)
        if form:
            card = model_card(recipe, trained.class_names, mindcv_lite=__version__)
            shape = write_converted(form, Network(content, graph, images, batch, metadata), card, target)
        else:
            if calibration:
                given = (lambda images: images) if include_preprocess else normalised
                to_file = partial(onnx_file, images=images, metadata=metadata, batch=batch)
                content = int8_file(graph, content, calibration, normalised, given, to_file, batch)
            elif recipe.model.quantize:
                log_speeds({number_format: content}, images[:1], batch or 1)
            write(target, content)
    sizes = ", ".join(map(str, [batch or "batch", *shape]))
    log.info("%s: %s (%s) -> %s (%s, %d)", target, images.dtype, sizes, kind, batch or "batch", expected.shape[1])


def write(target: Path, content: bytes) -> None:
    take_signals_back()  # a Ctrl-C before the file has its name leaves none
    with written_whole(target) as unfinished:
        unfinished.write_bytes(content)


def write_converted(form: str, network: Network, card: dict[str, Any], target: Path) -> list[int | str]:
    """Convert an ONNX file, and write a folder with the files and their card if they predict the same.

    Returns the shape of an image that they take. Raises `TrainingError` if they predict otherwise.
    """
    converted = FORMATS[form](network)
    found, expected = (
        predictions(predict, network.images, network.batch)
        for predict in (converted.predict, open_onnx(network.content))
    )
    difference, largest = np.abs(found - expected).max(), np.abs(expected).max()
    if not difference <= CONVERTED_TOLERANCE * largest:
        raise TrainingError(
            f"{target}: not written, because for {form} its predictions would differ from the ONNX file's by "
            f"{difference:.2g}, where the largest is {largest:.3g}; try another version of the converter"
        )
    log.info("for %s they differ from the ONNX file's by at most %.1e", form, difference)
    card |= {"input": [network.batch or "batch", *converted.shape], "input_type": str(network.images.dtype)}
    card["output"] = network.graph.nodes[-1].output
    with filled_whole(target):
        for name, content in converted.files.items():
            write(target / name, content)
        write_text(target / "model.json", json.dumps(card, indent=1) + "\n")
    return converted.shape


def metadata_of(trained: Trained) -> dict[str, str]:
    """The model card for a file's metadata: texts as they are, all else as JSON."""
    card = model_card(trained.recipe, trained.class_names, mindcv_lite=__version__)
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in card.items()}


def sample_images(size: tuple[int, int], channels: int) -> np.ndarray:
    """Noise, a smooth picture, and half of each, always the same: uint8 (3, height, width, channels)."""
    random = np.random.default_rng(0)
    noise = random.uniform(0, 255, (*size, channels))
    y, x = np.mgrid[: size[0], : size[1], :1][:2] / np.reshape(size, (2, 1, 1, 1))  # (height, width, 1)
    smooth = 127.5 + 127.5 * np.sin(x * random.uniform(-9, 9, channels) + y * random.uniform(-9, 9, channels))
    return np.stack([noise, smooth, (noise + smooth) / 2]).round().astype(np.uint8)


def centre(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The centre, height and width of `size`, of images (batch, height, width, channels)."""
    top, left = ((side - wanted) // 2 for side, wanted in zip(images.shape[1:3], size, strict=True))
    return images[:, top : top + size[0], left : left + size[1]]


def resized_and_cropped(images: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Decoded images (batch, height, width, channels) as validation prepares them."""
    _decode, resize, crop, *_grey = evaluation_transforms(recipe.augmentation, recipe.model.in_channels)
    prepared = np.stack([crop(resize(image)) for image in images])
    return prepared.reshape(*prepared.shape[:3], -1)


def require_same_pixels(predict: Predict, recipe: Recipe, batch: int | None, target: Path) -> None:
    """Raise `TrainingError` if a file resizes and crops images in another way than validation does. `predict`: what it
    makes of images (batch, height, width, channels), (batch, channels, height, width)."""
    height, width = recipe.augmentation.resized_size
    images = sample_images((2 * height + 5, 3 * width + 1), recipe.model.in_channels)
    found = predictions(predict, images, batch).transpose(0, 2, 3, 1)
    levels = np.abs(found - resized_and_cropped(images, recipe)).max()
    if not levels <= RESIZED_TOLERANCE:
        raise TrainingError(
            f"{target}: not written, because the images that it resizes would differ from MindSpore's by {levels:.3g} "
            "of 255 levels; this is a defect"
        )
    log.info("the images that it resizes differ from MindSpore's by at most %d of 255 levels", levels)


def require_same(found: np.ndarray, expected: np.ndarray, target: Path, precision: str = "float32") -> None:
    """Raise `TrainingError` if the predictions of a file are not those of MindSpore in float32, `UserError` if float16
    is to blame."""
    difference, largest = np.abs(found - expected).max(), np.abs(expected).max()
    # float16 has no numbers near 0 for the logits of a network that was not trained, and they say nothing.
    scale = largest if precision == "float32" else max(largest, 1)
    if not difference <= TOLERANCES[precision] * scale:  # a difference that is no number is too large
        if precision == "float16":
            raise UserError(
                f"{target}: not written, because in float16 its predictions would differ from MindSpore's by "
                f"{difference:.2g}, where the largest is {largest:.3g}: leave out --precision float16"
            )
        raise TrainingError(
            f"{target}: not written, because its predictions would differ from MindSpore's by {difference:.2g}, where "
            f"the largest is {largest:.3g}; this is a defect"
        )
    log.info("its predictions differ from MindSpore's by at most %.1e, the largest is %.3g", difference, largest)
