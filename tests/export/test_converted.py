"""Folders for OpenVINO, ncnn and LiteRT, read by these programs, against the network's own logits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from mindcv_lite.checkpoints.trained import Trained
from mindcv_lite.commands.export import CONVERTERS
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.errors import TrainingError
from mindcv_lite.export import converted
from mindcv_lite.export.converted import FORMATS, Converted, Predict, open_ncnn, open_openvino
from mindcv_lite.export.exporter import export
from mindcv_lite.export.onnx_files import open_onnx
from mindcv_lite.export.readers import random_network, several_images
from mindcv_lite.export.tflite_files import open_tflite
from mindcv_lite.models.onnx_graph import HARD_SWISH_OPSET
from mindcv_lite.program import is_installed
from mindcv_lite.recipe.keys import Recipe

CLASSES = ("cat", "Gänseblümchen", "<b>")
FILES = {
    "openvino": ["model.bin", "model.json", "model.xml"],
    "ncnn": ["model.json", "model.ncnn.bin", "model.ncnn.param"],
    "tflite": ["model.json", "model.tflite"],
}


@pytest.fixture
def network(recipe: Callable[..., Recipe], pynative_mode: None) -> Callable[..., Trained]:
    def build(model: str = "mobilenet_v3_small_075", **keys: Any) -> Trained:
        one = random_network(recipe(model=model, num_classes=len(CLASSES)))
        return replace(one, recipe=one.recipe.with_keys(**keys), class_names=CLASSES)

    return build


def opened(form: str, folder: Path) -> Predict:
    """By the files alone, as their user would."""
    if form == "openvino":
        return open_openvino(folder / "model.xml")
    if form == "ncnn":
        return open_ncnn({path.name: path.read_bytes() for path in folder.glob("model.ncnn.*")})
    predict = open_tflite((folder / "model.tflite").read_bytes())
    return lambda images: predict(images if images.dtype == np.uint8 else images.transpose(0, 2, 3, 1).copy())


def images_of(trained: Trained) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images as uint8 and normalised, and their logits."""
    raw = several_images(trained.recipe.augmentation.input_size, 3)
    normalize: Any = Normalize(trained.recipe.augmentation.mean, trained.recipe.augmentation.std)
    normalised = normalize(Tensor(raw))
    return raw, normalised.asnumpy(), trained.network()(normalised).asnumpy()


def require_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("model", "side"), [("mobilenet_v3_small_075", 64), ("mobilenet_v3_large_minimalistic_100", 33)]
)
@pytest.mark.parametrize("form", FORMATS)
def test_the_files_give_the_networks_logits_and_the_card_lies_beside_them(network, tmp_path, form, model, side):
    for name in CONVERTERS[form]:
        if not is_installed(name):
            pytest.skip(f"{name} is not installed: pip install {name}")
    trained = network(model, image_resize=side)
    batch = 1 if form == "ncnn" else None
    export(trained, tmp_path / "out", batch=batch, opset=HARD_SWISH_OPSET, form=form)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES[form]
    _, normalised, logits = images_of(trained)
    predict = opened(form, tmp_path / "out")
    require_close(predict(normalised[:1]), logits[:1])
    require_close(predict(normalised), logits)
    card = json.loads((tmp_path / "out/model.json").read_text())
    assert (card["class_names"], card["image_resize"]) == ([*CLASSES], side)
    shape = [side, side, 3] if form == "tflite" else [3, side, side]
    assert (card["input"], card["input_type"]) == ([batch or "batch", *shape], "float32")


@pytest.mark.parametrize("form", ["openvino", "tflite"])
@pytest.mark.parametrize("batch", [None, 7])
def test_the_files_normalise_and_give_probabilities_where_that_is_asked_for(network, tmp_path, form, batch):
    pytest.importorskip(CONVERTERS[form][0])
    trained = network(image_resize=[40, 64], conv_padding="symmetric")
    export(trained, tmp_path, True, True, batch, HARD_SWISH_OPSET, form=form)
    raw, _, logits = images_of(trained)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    require_close(opened(form, tmp_path)(raw), exponentials / exponentials.sum(1, keepdims=True))


def test_openvinos_files_resize_too(network, tmp_path):
    pytest.importorskip("openvino")
    trained = network(image_resize=40)
    export(trained, tmp_path, True, opset=HARD_SWISH_OPSET, include_resize=True, form="openvino")
    export(trained, tmp_path / "x.onnx", True, include_resize=True)
    predict, expected = opened("openvino", tmp_path), open_onnx((tmp_path / "x.onnx").read_bytes())
    for size in ((45, 45), (90, 61)):
        images = several_images(size, 3)
        np.testing.assert_allclose(
            predict(images), expected(images), rtol=0, atol=0.02 * np.abs(expected(images)).max()
        )
    assert json.loads((tmp_path / "model.json").read_text())["input"] == ["batch", "height", "width", 3]


def test_openvinos_file_holds_the_card(network, tmp_path):
    openvino = pytest.importorskip("openvino")
    export(network(image_resize=33), tmp_path, form="openvino")
    model = openvino.Core().read_model(tmp_path / "model.xml")
    assert json.loads(model.get_rt_info(["model_info", "class_names"]).astype(str)) == [*CLASSES]


@pytest.mark.parametrize("pads", ["mindcv", "symmetric", "same"])
def test_weights_lie_in_a_tflite_file_where_floats_may_be_read(network, tmp_path, pads):
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    export(network(image_resize=64, conv_padding=pads), tmp_path, opset=HARD_SWISH_OPSET, form="tflite")
    content = (tmp_path / "model.tflite").read_bytes()
    assert content[4:8] == b"TFL3"
    model = schema.Model.GetRootAsModel(content, 0)
    buffers = [model.Buffers(index) for index in range(1, model.BuffersLength())]
    assert {buffer._tab.Vector(buffer._tab.Offset(4)) % 16 for buffer in buffers} == {0}
    padded = any(
        model.OperatorCodes(i).BuiltinCode() == schema.BuiltinOperator.PAD for i in range(model.OperatorCodesLength())
    )
    assert padded == (pads != "same")  # SAME needs no operator of its own


@pytest.mark.parametrize(("status", "said"), [(3, "no such operator"), (0, "done, but wrote nothing")])
def test_why_pnnx_failed_is_told(tmp_path, monkeypatch, status, said):
    program = tmp_path / "pnnx"
    program.write_text(f"#!/bin/sh\necho {said} >&2\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setattr(converted, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    with pytest.raises(TrainingError, match=f"pnnx failed with status {status}: {said}"):
        converted.pnnx_files(b"", (3, 33, 33))


@pytest.mark.parametrize("there", [False, True])
def test_files_that_predict_otherwise_are_not_written(network, tmp_path, monkeypatch, there):
    def wrong(given: converted.Network) -> Converted:
        return Converted({"model.x": b""}, lambda images: np.zeros((len(images), 3)), [3, 33, 33])

    monkeypatch.setitem(FORMATS, "openvino", wrong)
    if there:
        (tmp_path / "out").mkdir()
    with pytest.raises(TrainingError, match=r"out: not written, because for openvino its predictions would differ"):
        export(network(image_resize=33), tmp_path / "out", form="openvino")
    assert [*tmp_path.rglob("*")] == ([tmp_path / "out"] if there else [])
