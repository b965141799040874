"""A network in int8: calibrated on photos, layers that cost too much left in float32, and compared with float32."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mindcv_lite.checkpoints.trained import Trained
from mindcv_lite.data.datasets.classes import outputs_of
from mindcv_lite.data.datasets.image_folder import Split, images_at
from mindcv_lite.data.pipeline import evaluation_batches
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.export.onnx_files import NotRead, Predict, compute_node, open_onnx, open_onnxruntime
from mindcv_lite.export.qdq_graph import qdq_graph
from mindcv_lite.export.quantisation import Quantised, quantise, quantised_weight
from mindcv_lite.models.onnx_graph import Graph, Wiring
from mindcv_lite.signals import take_signals_back
from mindcv_lite.text_tables import aligned

log = logging.getLogger(__name__)

# Of small with ImageNet's weights, 81 % of predictions stay the same with 128 calibration images, 83 % with 256.
MOST_CALIBRATED, MOST_HELD_OUT, FEWEST = 256, 512, 12
CHUNK = 32  # images at once in a file that takes any number
LARGEST_FLOAT_SHARE = 0.1  # of the multiply-adds
LEAST_COST = 0.01  # of the whole error: a layer that costs less stays in int8
ROUNDS, LONGEST = 30, 10.0  # of timing; in seconds, for large batches


@dataclass(frozen=True)
class Calibration:
    """Photos, uint8 (images, height, width, channels), as validation prepares them. `max_drop`: in points."""

    images: np.ndarray
    held_out: np.ndarray
    labels: np.ndarray | None  # of those held out; None: the network does not know their folders
    max_drop: float


class Photos(Split):
    """Images to calibrate on: a broken one is not replaced, whatever a recipe says."""

    def fault(self, index: int) -> str:
        text = "{}: this image {}; mend or remove it, or give --calibrate a folder without it"
        return text.format(self.paths[index], self.flaw(index))


def read_calibration(folder: Path, trained: Trained, world: World, max_drop: float) -> Calibration:
    """The photos to calibrate on and those held out, in the ratio 2 to 1, of a folder with or without class folders.

    Raises `UserError` if there are fewer than `FEWEST`, or one that is taken cannot be decoded.
    """
    paths = images_at([str(folder)])
    if len(paths) < FEWEST:
        raise UserError(f"{folder}: --calibrate needs {FEWEST} images or more, there are {len(paths)}; add some")
    order = np.random.default_rng(0).permutation(len(paths)).tolist()
    calibrated = min(MOST_CALIBRATED, len(paths) * 2 // 3)
    chosen = [paths[index] for index in order[: calibrated + MOST_HELD_OUT]]
    text = "%s: %d images: calibrated on %d, compared on %d others"
    log.info(text, folder, len(paths), calibrated, len(chosen) - calibrated)
    split = Photos(chosen, np.zeros(len(chosen), np.int32), ("image",))
    batches = evaluation_batches(split, trained.recipe, world)
    images = np.concatenate([images[weights > 0] for images, _, weights in batches])
    images = images.reshape(*images.shape[:3], -1)  # grey ones come without channels
    labels = _labels_of(chosen[calibrated:], folder, trained)
    return Calibration(images[:calibrated], images[calibrated:], labels, max_drop)


def _labels_of(paths: list[str], folder: Path, trained: Trained) -> np.ndarray | None:
    """The label of each image, by the first folder below `folder`; None if the network does not know these classes."""
    parts = [Path(path).relative_to(folder).parts for path in paths]
    names = sorted({first for first, *rest in parts if rest})
    if not names or any(len(part) == 1 for part in parts):
        return None
    try:
        outputs = outputs_of(names, trained.class_names, len(trained.class_names), folder)
    except UserError as error:
        log.info("no top-1, because the class folders are not the network's: %s", error)
        return None
    label_of = dict(zip(names, outputs, strict=True))
    return np.array([label_of[first] for first, *_ in parts])


def int8_file(
    graph: Graph,
    in_float32: bytes,
    calibration: Calibration,
    normalised: Callable[[np.ndarray], np.ndarray],
    given: Callable[[np.ndarray], np.ndarray],
    to_file: Callable[[Graph], bytes],
    batch: int | None,
) -> bytes:
    """The content of the file in int8 of `graph`, whose file in float32 is `in_float32`; says in the log what it costs.

    `normalised` makes what the first layer reads of uint8 images, `given` what the file takes. `batch`: how many a file
    takes; None: any number.
    """

    def outputs_of_file(content: bytes, images: np.ndarray) -> np.ndarray:
        take_signals_back()
        return predictions(open_onnx(content), given(images), batch)

    images = normalised(calibration.images)
    expected = outputs_of_file(in_float32, calibration.held_out)
    quantised = quantise(graph, images, compute_node)
    costs = costs_of(quantised, Wiring(graph))

    def file_of(in_float: Collection[str]) -> bytes:
        return to_file(qdq_graph(graph, without(quantised, in_float, graph)))

    def drop(content: bytes) -> float:
        return drop_of(outputs_of_file(content, calibration.held_out), expected, calibration.labels)

    in_float = fewest_in_float(costs, quantised.multiply_adds, lambda names: drop(file_of(names)), calibration.max_drop)
    if in_float:  # the corrections of the biases depend on what is rounded before
        quantised = quantise(graph, images, compute_node, in_float)
    content = to_file(qdq_graph(graph, quantised))
    for line in aligned(list(_table(costs, quantised, in_float)), texts=2):
        log.info(line)
    found = outputs_of_file(content, calibration.held_out)
    for line in _report(found, expected, calibration, quantised, in_float):
        log.info(line)
    log_speeds({"float32": in_float32, "int8": content}, given(calibration.held_out[:1]), batch or 1)
    return content


def log_speeds(contents: Mapping[str, bytes], image: np.ndarray, batch: int) -> None:
    """Say how large files are, by the names of their number formats, and how fast, if onnxruntime reads them.

    `image`: (1, ...), as they take.
    """
    try:
        speeds = images_per_second([*contents.values()], np.resize(image, (batch, *image.shape[1:])))
    except NotRead:
        speeds = None
    for index, (name, content) in enumerate(contents.items()):
        text = f"{name}: {len(content) / 1e6:.2f} MB"
        if speeds:
            text += f", {speeds[index]:.0f} images/s by onnxruntime on one core of this CPU, {batch} at once"
        log.info(text)


def predictions(predict: Predict, images: np.ndarray, batch: int | None) -> np.ndarray:
    """What a file gives for images: in batches of `batch`, the last one filled up from the first image on; or, if it
    takes any number, in chunks."""
    size = batch or min(CHUNK, len(images))
    filled = np.resize(images, (-(-len(images) // size), size, *images.shape[1:]))
    return np.concatenate([predict(some) for some in filled])[: len(images)]


def without(quantised: Quantised, in_float: Collection[str], graph: Graph) -> Quantised:
    """The same numbers for the others, where some layers compute in float32."""
    wiring, layers = Wiring(graph), dict(quantised.layers)
    exact = wiring.exact_tensors(in_float)
    for name in in_float:
        source, weight, _ = wiring.nodes[name].inputs
        if source in exact:  # and has no factors any more
            layers[name] = quantised_weight(graph.constants[weight])
    activations = {name: value for name, value in quantised.activations.items() if name not in exact}
    return replace(quantised, activations=activations, layers=layers, in_float=frozenset(in_float))


def costs_of(quantised: Quantised, wiring: Wiring) -> dict[str, float]:
    """Which share of the logits' error would be spared, by estimate, if a layer alone computed in float32."""
    total = sum(quantised.noise.values()) or 1.0
    exact = {name: wiring.exact_tensors((name,)) for name in quantised.layers}
    return {
        name: sum(quantised.noise.get(tensor, 0.0) for tensor in tensors) / total for name, tensors in exact.items()
    }


def drop_of(found: np.ndarray, expected: np.ndarray, labels: np.ndarray | None) -> float:
    """Points of top-1 that `found` (images, classes) is below `expected`; without labels, of equal best classes below
    100 %."""
    wanted = expected.argmax(1) if labels is None else labels
    return 100 * float((expected.argmax(1) == wanted).mean() - (found.argmax(1) == wanted).mean())


def fewest_in_float(
    costs: dict[str, float], multiply_adds: dict[str, int], drop: Callable[[list[str]], float], max_drop: float
) -> list[str]:
    """The layers to leave in float32, the costliest first, until the drop is at most `max_drop` points.

    They have at most `LARGEST_FLOAT_SHARE` of the multiply-adds. The log says if that is not enough.
    """
    in_float: list[str] = []
    room = LARGEST_FLOAT_SHARE * sum(multiply_adds.values())
    remaining = sorted((name for name, cost in costs.items() if cost > LEAST_COST), key=lambda name: -costs[name])
    while (found := drop(in_float)) > max_drop:
        fitting = [name for name in remaining if multiply_adds[name] <= room]
        if not fitting:
            text = "warning: a drop of %.2f points, above --max_drop %g, and "
            text += "no other layer spares much in float32 within %.0f %% of the multiply-adds"
            log.warning(text, found, max_drop, 100 * LARGEST_FLOAT_SHARE)
            break
        in_float.append(fitting[0])
        remaining.remove(fitting[0])
        room -= multiply_adds[fitting[0]]
    return in_float


def _table(costs: dict[str, float], quantised: Quantised, in_float: Collection[str]) -> Iterator[tuple[str, ...]]:
    multiply_adds = sum(quantised.multiply_adds.values())
    yield "layer", "computed in", "multiply-adds", "error that float32 would spare"
    for name, cost in costs.items():
        kind, share = "float32" if name in in_float else "int8", quantised.multiply_adds[name] / multiply_adds
        yield name, kind, f"{100 * share:.1f} %", f"{100 * cost:.1f} %"


def _report(
    found: np.ndarray,
    expected: np.ndarray,
    calibration: Calibration,
    quantised: Quantised,
    in_float: Collection[str],
) -> Iterator[str]:
    total = sum(quantised.multiply_adds.values())
    share = sum(quantised.multiply_adds[name] for name in in_float) / total
    count, layers = len(calibration.held_out), len(quantised.multiply_adds)
    yield f"{len(in_float)} of {layers} layers compute in float32, {100 * share:.1f} % of the multiply-adds"
    same = (found.argmax(1) == expected.argmax(1)).mean()
    yield f"the best class is that of float32 for {100 * same:.1f} % of {count} images that were not calibrated on"
    if calibration.labels is not None:
        tops = [100 * (outputs.argmax(1) == calibration.labels).mean() for outputs in (expected, found)]
        yield f"top-1 of these images: {tops[0]:.1f} % in float32, {tops[1]:.1f} % in int8"


def images_per_second(contents: list[bytes], images: np.ndarray) -> list[float]:
    """How many images files compute in a second on one core: the median of rounds in turn. Raises `NotRead`."""
    predicts = [open_onnxruntime(content, threads=1) for content in contents]
    for predict in predicts:
        predict(images)
    rounds: list[list[float]] = []
    end = time.perf_counter() + LONGEST
    while not rounds or (len(rounds) < ROUNDS and time.perf_counter() < end):
        rounds.append([_seconds(predict, images) for predict in predicts])
    return (len(images) / np.median(rounds, axis=0)).tolist()


def _seconds(predict: Predict, images: np.ndarray) -> float:
    begin = time.perf_counter()
    predict(images)
    return time.perf_counter() - begin
