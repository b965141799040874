"""Networks kept in the user's cache as ONNX files: the next prediction by a checkpoint needs no MindSpore, which takes
seconds to start. A network is kept only if its logits were those of MindSpore for images of the user's."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from mindcv_lite import __version__
from mindcv_lite.checkpoints.model_card import CARD_KEYS, UNUSUAL_KEYS
from mindcv_lite.data.images.decoding import NOT_DECODED, decoded, opened, read_file
from mindcv_lite.data.images.inspection import inspect
from mindcv_lite.data.transforms.numpy_evaluation import fault_of, prepared
from mindcv_lite.evaluation.predict import Predictor, shape_flaw
from mindcv_lite.export.onnx_files import onnx_file, open_onnxruntime
from mindcv_lite.files import cache_folder, read_sealed, write_sealed
from mindcv_lite.models.onnx_graph import network_graph
from mindcv_lite.processors import processors_here
from mindcv_lite.program import is_installed, mindspore_version, progress_bar, version_of
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import recipe_without_training

log = logging.getLogger(__name__)

SUFFIX = ".network"
MOST = 16  # files in the cache, of 3 MB (small 0.35) to 30 MB (large 1.25)
COMPARED = 32  # images at most, of the call after which a network is kept
LIMIT = 1e-4  # largest difference from MindSpore's logits, as a share of the largest of them
NOT_KEPT = "the network is not kept"
MEANING = (*CARD_KEYS, *UNUSUAL_KEYS)  # keys of a recipe that are kept beside a network


class KeptNetwork(Predictor):
    """A kept network, computed by onnxruntime on the CPU."""

    def __init__(self, path: str, content: bytes, keys: Mapping[str, Any]):
        """`path`: of the checkpoint. `content`: of a kept file. `keys`: of a recipe, which the user gave."""
        meaning, network = content.split(b"\n", 1)
        kept = json.loads(meaning)
        self.path, self.class_names = path, tuple(kept["class_names"])
        self.recipe = recipe_without_training(**{**keys, **kept["keys"]})
        (processors, _), workers = processors_here(), self.recipe.system.num_parallel_workers
        self.workers = processors if workers == "auto" else workers
        self.network = open_onnxruntime(network, processors)

    def logits_of(self, paths: Sequence[str], flaws: dict[int, str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = self.recipe.data.batch_size
        starts = range(0, len(paths), size)
        with ThreadPoolExecutor(self.workers) as threads:
            for start in progress_bar(starts, "predict", unit="batch", shown=len(starts) > 1):
                images = list(threads.map(_pixels_or_flaw, paths[start : start + size], repeat(self.recipe)))
                flaws |= {index: flaw for index, flaw in enumerate(images, start) if isinstance(flaw, str)}
                sound = {index: image for index, image in enumerate(images, start) if not isinstance(image, str)}
                if sound:
                    yield np.array(list(sound)), self.network(np.stack(list(sound.values())))


def _pixels_or_flaw(path: str, recipe: Recipe) -> np.ndarray | str:
    """An image as the network takes it, uint8 (side, side, channels), or why there is none."""
    try:
        with opened(read_file(path)[0].tobytes()) as image:
            if flaw := shape_flaw(*image.size):
                return flaw
            pixels = decoded(image, recipe.data.follow_exif)
    except (*NOT_DECODED, MemoryError):
        return inspect(path).flaw or "cannot be decoded"
    return prepared(pixels, recipe.augmentation, recipe.model.in_channels)


def kept_file(checkpoint: str, keys: Mapping[str, Any]) -> Path | None:
    """Where the network of a checkpoint is kept, there or not; None where it cannot be: onnx or onnxruntime is not
    installed, or the user has no home.

    Its name is a hash of all that the predictions depend on: the checkpoint, the keys that the user gave, this package,
    and the packages that compute. Raises `OSError` where the checkpoint cannot be read.
    """
    if not all(map(is_installed, ("onnx", "onnxruntime"))):
        return None
    versions = [__version__, mindspore_version(), *map(version_of, ("onnxruntime", "numpy", "pillow"))]
    digest = hashlib.sha256(json.dumps([versions, {name: keys[name] for name in MEANING if name in keys}]).encode())
    for path in (checkpoint, *sorted(Path(__file__).parents[1].rglob("*.py"))):
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    with suppress(RuntimeError):  # a user without a home
        return cache_folder("networks") / f"{digest.hexdigest()[:16]}{SUFFIX}"
    return None


def open_kept(file: Path, checkpoint: str, keys: Mapping[str, Any]) -> KeptNetwork | None:
    """The network of a kept file; None if it is not there, or damaged, or the system refuses it."""
    try:
        content = read_sealed(file)
    except OSError as error:
        log.info("%s cannot be read: %s", file, error.strerror or error)
        return None
    return KeptNetwork(checkpoint, content, keys) if content else None


def keep(
    file: Path, predictor: Predictor, parameters: Mapping[str, np.ndarray], logits: Mapping[str, np.ndarray]
) -> None:
    """Keep the network of `predictor` and of these parameters, if onnxruntime computes the `logits` that MindSpore did,
    by the images' paths; a line in the log says what came of it. Raises `OSError` where nothing can be written."""
    recipe, images = predictor.recipe, list(logits)[:COMPARED]
    if recipe.model.quantize:
        log.info("%s for the next call: it rounds to %s, and so does no kept one", NOT_KEPT, recipe.model.quantize)
        return
    if fault := fault_of(recipe.augmentation):
        log.info("%s for the next call: %s, and only MindSpore prepares images so", NOT_KEPT, fault)
        return
    content = kept_content(predictor, parameters)
    found = KeptNetwork(predictor.path, content, {"batch_size": COMPARED}).predict(images, top=1).logits
    if len(found) < len(images):
        log.info("%s for the next call: MindSpore and Pillow do not agree on which images can be read", NOT_KEPT)
        return
    largest = max(np.abs(logits[image]).max() for image in images)
    share = max(np.abs(found[image] - logits[image]).max() for image in images) / largest
    if not share <= LIMIT:
        log.info("%s for the next call: onnxruntime's logits differ by %.1e of the largest", NOT_KEPT, share)
        return
    write_sealed(file, content, MOST, f"*{SUFFIX}")
    text = "kept for the next call: %s, the network for onnxruntime, whose logits differ from MindSpore's by %.1e of "
    log.info(text + "the largest (images compared: %d)", file, share, len(images))


def kept_content(predictor: Predictor, parameters: Mapping[str, np.ndarray]) -> bytes:
    """A line that says what images and outputs mean, and the network, uint8 images to logits."""
    recipe, flat = predictor.recipe, predictor.recipe.flat()
    meaning = {"keys": {name: flat[name] for name in MEANING}, "class_names": predictor.class_names}
    graph = network_graph(recipe, parameters, include_preprocess=True, softmax=False)
    images = np.zeros((1, *recipe.augmentation.input_size, recipe.model.in_channels), np.uint8)
    names = {"model": recipe.model.model, "mindcv_lite": __version__}
    return json.dumps(meaning).encode() + b"\n" + onnx_file(graph, images, names)
