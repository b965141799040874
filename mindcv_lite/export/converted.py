"""The network of an ONNX file as other programs read it: for OpenVINO, ncnn and LiteRT, a folder of files each."""

import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindcv_lite.errors import TrainingError
from mindcv_lite.export.onnx_files import Predict
from mindcv_lite.export.tflite_files import open_tflite, tflite_file
from mindcv_lite.files import scratch_folder
from mindcv_lite.models.onnx_graph import Graph


class Converted(NamedTuple):
    """Files by name. `predict`: what their program says of images of the ONNX file. `shape`: of one image in them."""

    files: dict[str, bytes]
    predict: Predict
    shape: list[int | str]


class Network(NamedTuple):
    """What is converted: the content of an ONNX file and its graph, images that it takes, and how many at once."""

    content: bytes
    graph: Graph
    images: np.ndarray
    batch: int | None
    metadata: Mapping[str, str]


def _openvino(network: Network) -> Converted:
    """The card is in the file, as `model_info`. `convert_model` would do the same and report it to Intel."""
    import openvino

    core = openvino.Core()
    with scratch_folder() as folder:
        onnx, xml = folder / "network.onnx", folder / "model.xml"
        onnx.write_bytes(network.content)
        model: Any = core.read_model(onnx)
        for name, value in network.metadata.items():
            model.set_rt_info(value, ["model_info", name])
        openvino.save_model(model, xml, compress_to_fp16=False)
        files = {path.name: path.read_bytes() for path in (xml, xml.with_suffix(".bin"))}
        predict = open_openvino(xml)
    return Converted(files, predict, network.graph.shape_of(network.images))


def open_openvino(path: Path) -> Predict:
    """What OpenVINO predicts for a batch of images, by an ONNX file or one of its own."""
    import openvino

    # By itself it computes in bfloat16 where the processor can.
    network = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: network([images])[0]


def _ncnn(network: Network) -> Converted:
    files = pnnx_files(network.content, network.images.shape[1:])
    return Converted(files, open_ncnn(files), network.graph.shape_of(network.images))


def pnnx_files(content: bytes, shape: tuple[int, ...]) -> dict[str, bytes]:
    """The files of ncnn by pnnx, for images of `shape`. Raises `TrainingError` if pnnx fails."""
    package: Any = find_spec("pnnx")  # importing it takes PyTorch; the converter is a program of its own
    sides = ",".join(map(str, (1, *shape)))
    command = [Path(package.origin).with_name("pnnx"), "model.onnx", f"inputshape=[{sides}]f32", "fp16=0"]
    with scratch_folder() as folder:
        (folder / "model.onnx").write_bytes(content)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        paths = [folder / f"model.ncnn.{kind}" for kind in ("param", "bin")]
        if done.returncode or not all(path.is_file() for path in paths):
            said = " ".join((done.stderr or done.stdout).split())
            raise TrainingError(f"pnnx failed with status {done.returncode}: {said[-200:]}")
        return {path.name: path.read_bytes() for path in paths}


def open_ncnn(files: Mapping[str, bytes]) -> Predict:
    """What ncnn predicts for images, which it takes one by one."""
    import ncnn

    network = ncnn.Net()
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    with scratch_folder() as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        network.load_param(f"{folder}/model.ncnn.param")
        network.load_model(f"{folder}/model.ncnn.bin")

    def predict_one(image: np.ndarray) -> np.ndarray:
        extractor = network.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        return np.array(extractor.extract("out0")[1])

    return lambda images: np.stack([predict_one(image) for image in images])


def _tflite(network: Network) -> Converted:
    """Images (batch, channels, height, width) become (batch, height, width, channels)."""
    given = channels_last(network.images)
    content = tflite_file(network.graph, given, network.batch)
    predict = open_tflite(content)
    return Converted({"model.tflite": content}, lambda images: predict(channels_last(images)), [*given.shape[1:]])


def channels_last(images: np.ndarray) -> np.ndarray:
    """Normalised images as TFLite wants them; uint8 ones lie so already."""
    return images if images.dtype == np.uint8 else np.ascontiguousarray(images.transpose(0, 2, 3, 1))


FORMATS = {"openvino": _openvino, "ncnn": _ncnn, "tflite": _tflite}
