"""Programs that run exported files: each is compared with MindSpore's logits."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mindspore import Tensor, nn

from mindcv_lite.checkpoints.trained import Trained
from mindcv_lite.checkpoints.weights import Weights
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.export.converted import channels_last, open_ncnn, open_openvino, pnnx_files
from mindcv_lite.export.exporter import metadata_of, sample_images
from mindcv_lite.export.int8 import Calibration, drop_of, predictions
from mindcv_lite.export.onnx_files import Predict, compute_node, onnx_file, open_onnx, open_onnxruntime
from mindcv_lite.export.qdq_graph import qdq_graph
from mindcv_lite.export.quantisation import quantise
from mindcv_lite.export.tflite_files import open_tflite, tflite_file
from mindcv_lite.files import scratch_folder
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.build import build_network
from mindcv_lite.models.onnx_graph import Graph, network_graph
from mindcv_lite.program import is_installed, version_of
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.text_tables import aligned

PADDINGS = ("mindcv", "symmetric", "same")
SIDES = (64, 96, 224, 225)
BATCHES = (1, 7)
MOST_FAULTS = 8  # of a reader, in the report
# Largest difference from MindSpore, as a share of the largest number. In float16 it is that of the logits: their
# exponentials, the probabilities, differ by more.
LIMITS = {"float32": 1e-4, "float16": 5e-2}


class Case(NamedTuple):
    """A file to read, and which images it takes: `images` -> `expected`, of MindSpore."""

    path: Path
    name: str
    graph: Graph
    precision: str  # float32, float16 or int8
    images: np.ndarray
    expected: np.ndarray


class Reader(NamedTuple):
    """A program that reads our files. `open` gives what it predicts for a batch of images of the case."""

    name: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]  # what pip installs
    open: Callable[[Case], Predict]
    takes: tuple[str, ...] = ("float32", "uint8", "float16", "int8")  # kinds of images and of weights

    @property
    def is_installed(self) -> bool:
        return all(map(is_installed, self.modules))

    def can_take(self, case: Case) -> bool:
        return {case.images.dtype.name, case.precision} <= {*self.takes}


def _opencv(case: Case) -> Predict:
    import cv2

    network = cv2.dnn.readNetFromONNX(str(case.path))

    def predict(images: np.ndarray) -> np.ndarray:
        network.setInput(images)
        return network.forward()

    return predict


def _litert(case: Case) -> Predict:
    predict = open_tflite(tflite_file(case.graph, channels_last(case.images)))
    return lambda images: predict(channels_last(images))


READERS = (
    Reader("onnxruntime", ("onnxruntime",), ("onnxruntime",), lambda case: open_onnxruntime(case.path.read_bytes())),
    Reader("OpenCV", ("cv2",), ("opencv-python-headless",), _opencv),
    Reader("OpenVINO", ("openvino",), ("openvino",), lambda case: open_openvino(case.path)),
    Reader(
        "ncnn",
        ("ncnn", "pnnx"),
        ("ncnn", "pnnx"),
        lambda case: open_ncnn(pnnx_files(case.path.read_bytes(), case.images.shape[1:])),
        takes=("float32",),
    ),
    Reader("LiteRT", ("ai_edge_litert",), ("ai-edge-litert",), _litert, takes=("float32", "uint8")),
)
OTHER_WHEELS = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")}


@dataclass
class Findings:
    """What came of comparing one reader. `worst`: its largest difference, as a share of the largest number."""

    reader: Reader
    limit: float
    comparisons: int = 0
    images: int = 0
    same_class: int = 0
    worst: float = 0.0
    faults: list[str] = field(default_factory=list)

    def compare(self, what: str, found: np.ndarray, expected: np.ndarray) -> None:
        """Count a batch; a difference above the limit is a fault, and so is another best class.

        It is the same class where two are nearer to each other than the limit.
        """
        largest = np.abs(expected).max()
        off = np.abs(found.astype(np.float64) - expected).max() / largest
        at_best = np.take_along_axis(expected, found.argmax(1)[:, None], 1)[:, 0]
        same = at_best >= expected.max(1) - self.limit * largest
        self.comparisons += 1
        self.images += len(found)
        self.same_class += int(same.sum())
        self.worst = max(self.worst, off)
        if not (off <= self.limit and same.all()):
            self.faults.append(f"{what}: off by {off:.1e} of the largest number, {same.sum()} of {len(found)} classes")


def check_readers(networks: Iterable[Trained], opset: int, precision: str, readers: Sequence[Reader]) -> list[Findings]:
    """Let each reader run files of all networks: with and without preprocessing and softmax, one image and several."""
    findings = [Findings(reader, LIMITS[precision]) for reader in readers]
    logging.disable(logging.INFO)  # how many parameters each network took
    try:
        for trained in networks:
            with scratch_folder() as folder:
                for case in _cases(trained, folder, opset, precision):
                    _run_all(findings, case, partial(_compare, case))
    finally:
        logging.disable(logging.NOTSET)
    return findings


def check_int8(trained: Trained, calibration: Calibration, opset: int, readers: Sequence[Reader]) -> list[Findings]:
    """Let each reader that takes int8 run the file in int8 on the images that it was not calibrated on.

    It is compared with onnxruntime without its optimisations, which computes with the rounded numbers in float32. Two
    integer kernels round in other places, so a fault is a drop of more than `calibration.max_drop` points.
    """
    findings = [Findings(reader, calibration.max_drop) for reader in readers]
    with scratch_folder() as folder:
        case = _int8_case(trained, calibration, folder, opset)
        _run_all(findings, case, partial(_compare_int8, case, calibration))
    return findings


def _run_all(findings: Iterable[Findings], case: Case, compare: Callable[[Findings, Predict], None]) -> None:
    """Let each reader that can take the case read and run it; what it cannot is a fault."""
    for found in findings:
        if not found.reader.can_take(case):
            continue
        try:
            compare(found, found.reader.open(case))
        except Exception as error:  # each reader has its own
            found.faults.append(f"{case.name}: not read: {' '.join(str(error).split())[-200:]}")


def _compare(case: Case, findings: Findings, predict: Predict) -> None:
    for count in BATCHES:
        findings.compare(f"{case.name}, batch {count}", predict(case.images[:count]), case.expected[:count])


def _compare_int8(case: Case, calibration: Calibration, findings: Findings, predict: Predict) -> None:
    found = predictions(predict, case.images, None)
    findings.comparisons, findings.images = 1, len(found)
    findings.same_class = int((found.argmax(1) == case.expected.argmax(1)).sum())
    findings.worst = float(np.abs(found - case.expected).max() / np.abs(case.expected).max())
    if not (drop := drop_of(found, case.expected, calibration.labels)) <= calibration.max_drop or np.isnan(found).any():
        findings.faults.append(f"{case.name}: a drop of {drop:.2f} points, above --max_drop {calibration.max_drop:g}")


def _int8_case(trained: Trained, calibration: Calibration, folder: Path, opset: int) -> Case:
    recipe = trained.recipe
    normalize: nn.Cell = Normalize(recipe.augmentation.mean, recipe.augmentation.std)
    calibrated, images = (normalize(Tensor(raw)).asnumpy() for raw in (calibration.images, calibration.held_out))
    parameters = {name: parameter.asnumpy() for name, parameter in trained.network().parameters_dict().items()}
    graph = network_graph(recipe, parameters, False, False, opset)
    graph = qdq_graph(graph, quantise(graph, calibrated, compute_node))
    path = folder / "network.onnx"
    path.write_bytes(onnx_file(graph, images, metadata_of(trained)))
    expected = predictions(open_onnx(path.read_bytes(), optimised=False), images, None)
    return Case(path, f"{recipe.model.model}, int8", graph, "int8", images, expected)


def _cases(trained: Trained, folder: Path, opset: int, precision: str) -> Iterator[Case]:
    """The files of a network."""
    recipe, network = trained.recipe, trained.network()
    normalize: nn.Cell = Normalize(recipe.augmentation.mean, recipe.augmentation.std)
    raw = several_images(recipe.augmentation.input_size, recipe.model.in_channels)
    normalised = normalize(Tensor(raw))
    logits = network(normalised).asnumpy().astype(np.float64)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    parameters = {name: parameter.asnumpy() for name, parameter in network.parameters_dict().items()}
    what = f"{recipe.model.model}, {recipe.model.conv_padding}, {recipe.augmentation.image_resize}"
    for include_preprocess in (False, True):
        images = raw if include_preprocess else normalised.asnumpy().astype(precision)
        for softmax in (False, True):
            graph = network_graph(recipe, parameters, include_preprocess, softmax, opset, precision)
            path = folder / f"network_{include_preprocess:d}{softmax:d}.onnx"
            path.write_bytes(onnx_file(graph, images, metadata_of(trained)))
            name = what + ", --include_preprocess" * include_preprocess + ", --softmax" * softmax
            expected = exponentials / exponentials.sum(1, keepdims=True) if softmax else logits
            yield Case(path, name, graph, precision, images, expected)


def several_images(size: tuple[int, int], channels: int) -> np.ndarray:
    """The sample images, and these as negatives and darker: uint8 (7, *size, channels)."""
    images = sample_images(size, channels)
    return np.concatenate([images, 255 - images[1:], images[1:] // 3])


def report(findings: Sequence[Findings]) -> list[str]:
    """A table of the readers, what each did wrong, and how those are installed that are not."""
    rows = [("reader", "version", "comparisons", "largest difference", "same best class")]
    for found in (found for found in findings if found.comparisons or found.faults):
        versions = [version_of(name, *OTHER_WHEELS.get(name, ())) for name in found.reader.packages]
        same = f"{found.same_class} of {found.images}"
        worst = f"{found.worst:.1e}" if found.comparisons else "none"
        rows.append((found.reader.name, " ".join(versions), str(found.comparisons), worst, same))
    lines = [*aligned(rows, texts=2)]
    for found in findings:
        lines += [f"{found.reader.name}: {fault}" for fault in found.faults[:MOST_FAULTS]]
        if more := len(found.faults[MOST_FAULTS:]):
            lines.append(f"{found.reader.name}: and {more} faults more")
        if missing := [kind for kind in ("uint8", "float16", "int8") if kind not in found.reader.takes]:
            lines.append(f"{found.reader.name}: not tried with {', '.join(missing)}, which it does not take")
    tried = [found.reader for found in findings]
    for reader in READERS:
        if reader not in tried:
            lines.append(f"{reader.name}: not installed: pip install {' '.join(reader.packages)}")
    return lines


# ------------------------------------------------------------------------------------------------- networks to be read


def at_all_sides(trained: Trained) -> Iterator[Trained]:
    for side in SIDES:
        yield replace(trained, recipe=trained.recipe.with_keys(image_resize=side))


def random_networks(recipe: Recipe) -> Iterator[Trained]:
    """Every network with every padding at every side, of random weights."""
    for model in VARIANTS:
        one = random_network(recipe.with_keys(model=model, num_classes=1000))
        for conv_padding in PADDINGS:
            yield from at_all_sides(replace(one, recipe=one.recipe.with_keys(conv_padding=conv_padding)))


def random_network(recipe: Recipe) -> Trained:
    """Random weights to which images matter: BatchNorms have the statistics of some, logits their mean at 0."""
    random, classes = np.random.default_rng(0), tuple(map(str, range(recipe.model.num_classes or 0)))
    network = build_network(recipe.with_keys(bn_momentum=0.0, drop_rate=0.0).model, "O0")
    parameters = network.parameters_dict()
    for name, parameter in parameters.items():
        shape, is_gain = parameter.shape, name.endswith(("gamma", "moving_variance"))
        value = random.uniform(0.5, 2, shape) if is_gain else random.normal(size=shape)
        parameter.set_data(Tensor((value * np.prod(shape[1:], initial=1.0) ** -0.5).astype(np.float32)))
    normalize: nn.Cell = Normalize(recipe.augmentation.mean, recipe.augmentation.std)
    images = normalize(Tensor(several_images((SIDES[1], SIDES[1]), recipe.model.in_channels)))
    network.set_train(True)(images)
    for name, parameter in parameters.items():
        if name.endswith("moving_variance"):  # a channel that hardly varied here would blow up what it gets later
            parameter.set_data(Tensor(np.maximum(parameter.asnumpy(), parameter.asnumpy().mean() / 10)))
    bias = parameters["classifier.3.bias"]
    bias.set_data(bias - network.set_train(False)(images).mean(0))
    return Trained(Weights(f"random weights of {recipe.model.model}", parameters, None), recipe, classes)
