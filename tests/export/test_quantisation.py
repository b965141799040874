"""Networks in int8: the file computes what NumPy rounds, and the ranges are chosen well."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from mindcv_lite.export import int8, quantisation
from mindcv_lite.export.int8 import (
    costs_of,
    drop_of,
    fewest_in_float,
    images_per_second,
    log_speeds,
    predictions,
    without,
)
from mindcv_lite.export.onnx_files import compute_node, onnx_file, open_onnx
from mindcv_lite.export.qdq_graph import qdq_graph
from mindcv_lite.export.quantisation import Activation, Quantised, best_range, factors_of, quantise
from mindcv_lite.models.onnx_graph import Graph, Wiring, add_floats, add_normalize

CARD = {"model": "small", "mindcv_lite": "0"}
SIDE, WIDTH, CLASSES = 16, 8, 5
RANDOM = np.random.default_rng


def network(opset: int = 13, spread: float = 1.0, preprocess: bool = False) -> Graph:
    """Stem, two bottlenecks of which one has squeeze-excite and both have a shortcut, hidden layer, logits.

    `spread`: the largest ratio between the channels behind an activation; the layer after takes it back.
    """
    random, scales = RANDOM(0), np.geomspace(1, spread, WIDTH)
    graph = Graph({}, (SIDE, SIDE), opset)

    def layer(name: str, *shape: int, before: Any = 1.0, after: Any = 1.0) -> None:
        after = np.broadcast_to(after, shape[0])
        weight = random.normal(size=shape) * np.prod(shape[1:]) ** -0.5 * 1.5
        graph.constants[f"{name}.weight"] = (weight * before * after.reshape(-1, *[1] * (len(shape) - 1))).astype("f4")
        graph.constants[f"{name}.bias"] = (random.normal(size=shape[0]) * after).astype("f4")

    layer("features.0", WIDTH, 3, 3, 3)
    x = add_normalize(graph, add_floats(graph, "images"), (128.0,) * 3, (60.0,) * 3) if preprocess else "images"
    x = graph.activation("hswish", "features.2", graph.convolution("features.0", x, stride=2))
    for name, kind in (("features.3", "relu"), ("features.4", "hswish")):
        layer(f"{name}.expand", WIDTH, WIDTH, 1, 1, after=scales if kind == "relu" else 1.0)
        layer(f"{name}.depthwise", WIDTH, 1, 3, 3, before=1 / scales.reshape(-1, 1, 1, 1) if kind == "relu" else 1.0)
        layer(f"{name}.project", WIDTH, WIDTH, 1, 1)
        y = graph.activation(kind, f"{name}.1", graph.convolution(f"{name}.expand", x))
        y = graph.activation(kind, f"{name}.2", graph.convolution(f"{name}.depthwise", y, group=WIDTH))
        if kind == "hswish":
            layer(f"{name}.reduce", WIDTH // 2, WIDTH, 1, 1)
            layer(f"{name}.widen", WIDTH, WIDTH // 2, 1, 1)
            s = graph.convolution(f"{name}.reduce", graph.add("GlobalAveragePool", f"{name}.mean", y))
            s = graph.convolution(f"{name}.widen", graph.add("Relu", f"{name}.relu", s))
            y = graph.add("Mul", f"{name}.excited", y, graph.hard_sigmoid(f"{name}.gate", s))
            graph.size = (SIDE // 2, SIDE // 2)
        x = graph.add("Add", name, x, graph.convolution(f"{name}.project", y))
    layer("classifier.0", WIDTH, WIDTH)
    layer("classifier.3", CLASSES, WIDTH)
    x = graph.add("Flatten", "flattened", graph.add("GlobalAveragePool", "mean_of_features", x))
    x = graph.activation("hswish", "classifier.1", graph.layer("Gemm", "classifier.0", x, transB=1))
    graph.add("Gemm", "logits", x, "classifier.3.weight", "classifier.3.bias", transB=1)
    return graph


def photos(count: int = 48) -> np.ndarray:
    """Images of noise, unlike each other in brightness and contrast, normalised: float32 (count, 3, height, width)."""
    random = RANDOM(1)
    brightness, contrast = random.normal(size=(2, count, 3, 1, 1))
    return (brightness + contrast * random.normal(size=(count, 3, SIDE, SIDE))).astype(np.float32)


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(((found - exact) ** 2).mean() / exact.var())


def logits_of(graph: Graph, images: np.ndarray) -> np.ndarray:
    return open_onnx(onnx_file(graph, images, CARD))(images)


@pytest.mark.parametrize(
    ("opset", "in_float"),
    [(13, ()), (17, ()), (13, ("features.0", "features.3.depthwise", "features.4.project", "classifier.0", "logits"))],
)
def test_onnxruntime_computes_what_was_rounded_in_numpy(opset, in_float):
    graph, images = network(opset), photos()
    exact, quantised = logits_of(graph, images), quantise(graph, images, compute_node, in_float)
    found = logits_of(qdq_graph(graph, quantised), images)
    # Both are one rounding here and there apart; a scale, a zero point or a bias of another channel is far more.
    assert error(found, quantised.logits) < 1e-4
    assert 1e-7 < error(quantised.logits, exact) < 3e-3


def test_a_layer_in_float32_has_int8_weights_a_float_bias_and_nothing_rounded_that_it_alone_reads():
    graph, images = network(), photos()
    names = ("features.0", "features.3.depthwise")
    walked = quantise(graph, images, compute_node, names)
    assert {"images", "features.0", "features.3.1"}.isdisjoint(walked.activations)
    for quantised in (walked, without(quantise(graph, images, compute_node), names, graph)):
        constants = qdq_graph(graph, quantised).constants
        for name in graph.constants:
            is_float = name.removesuffix(".bias") in names
            assert constants[name].dtype == (np.int8 if name.endswith("weight") else "f4" if is_float else np.int32)
        found = logits_of(qdq_graph(graph, quantised), images)
        assert error(found, logits_of(graph, images)) < 3e-3


def test_a_file_that_normalises_rounds_the_normalised_images():
    graph = network(preprocess=True)
    images = RANDOM(0).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
    quantised = quantise(graph, (images.transpose(0, 3, 1, 2) / np.float32(60) - np.float32(128 / 60)), compute_node)
    assert error(logits_of(qdq_graph(graph, quantised), images), logits_of(graph, images)) < 0.02
    assert "normalised" in quantised.activations
    assert "images" not in quantised.activations


def test_weights_are_int8_biases_int32_and_every_activation_uint8_with_one_scale():
    import onnx  # after MindSpore 2.7, whose protobuf it shares

    graph, images = network(), photos(8)
    content = onnx_file(qdq_graph(graph, quantise(graph, images, compute_node)), images, CARD)
    file = onnx.load_from_string(content)
    kinds = {array.name: array.data_type for array in file.graph.initializer}
    for name in graph.constants:
        assert kinds[name] == (onnx.TensorProto.INT8 if name.endswith("weight") else onnx.TensorProto.INT32)
    quantizers = [node for node in file.graph.node if node.op_type == "QuantizeLinear"]
    shapes = {array.name: array.dims for array in file.graph.initializer}
    assert quantizers
    for node in quantizers:
        assert not shapes[node.input[1]]
        assert kinds[node.input[2]] == onnx.TensorProto.UINT8


def test_a_dead_channel_keeps_its_bias_although_its_weights_are_next_to_nothing():
    graph, images = network(), photos()
    graph.constants["features.3.expand.weight"][2] *= 1e-12
    graph.constants["features.3.expand.bias"][2] = 3
    exact, quantised = logits_of(graph, images), quantise(graph, images, compute_node)
    assert error(logits_of(qdq_graph(graph, quantised), images), exact) < 3e-3


def test_channels_a_thousandfold_apart_cost_less_with_factors_than_without(monkeypatch):
    graph, images = network(spread=1000), photos()
    exact = logits_of(graph, images)
    with_factors = error(quantise(graph, images, compute_node).logits, exact)
    monkeypatch.setattr(quantisation, "factors_of", lambda x, gain: np.ones(x.shape[1]))
    without = error(quantise(graph, images, compute_node).logits, exact)
    assert with_factors < 3e-3
    assert without > 3 * with_factors


def test_the_mean_of_each_logit_stays_where_it_is():
    graph, images = network(), photos()
    found, exact = quantise(graph, images, compute_node).logits, logits_of(graph, images)
    np.testing.assert_allclose(found.mean(0), exact.mean(0), atol=1e-4)


def test_a_range_leaves_out_a_rare_extreme_unless_its_channel_matters():
    x = RANDOM(0).normal(size=(1000, 2)).astype(np.float32)
    x[0, 1] = 60
    tops = []
    for gain in (np.array([1, 1e-6]), np.array([1e-6, 1])):
        scale, zero = best_range(x, gain)
        tops.append(scale * (255 - zero))
    assert tops[0] < 7
    assert tops[1] > 50
    assert Activation(scale, zero, np.ones(2)).rounded(np.zeros((1, 2), np.float32)).tolist() == [[0, 0]]


@pytest.mark.parametrize("x", [np.zeros((4, 3, 2, 2)), -np.ones((4, 3, 2, 2)), np.full((4, 3, 2, 2), 1e-20)])
def test_a_tensor_without_variety_has_a_range_too(x):
    factors = factors_of(x, np.ones(3))
    scale, zero = best_range(x / factors.reshape(1, -1, 1, 1), np.ones(3))
    np.testing.assert_allclose(Activation(scale, zero, factors).rounded(x), x, atol=0.01)


# --------------------------------------------------------------------------------------------- which layers stay float


def test_the_costliest_layers_stay_in_float32_until_the_drop_is_small(log):
    costs, multiply_adds = (
        {"a": 0.1, "b": 0.3, "c": 0.2, "d": 0.001, "e": 0.0},
        {"a": 1, "b": 50, "c": 5, "d": 1, "e": 43},
    )
    assert fewest_in_float(costs, multiply_adds, lambda names: 5 - len(names), 5) == []
    assert fewest_in_float(costs, multiply_adds, lambda names: 5 - len(names), 4) == ["c"]  # b is half of the network
    assert "--max_drop" not in log.text
    assert fewest_in_float(costs, multiply_adds, lambda names: 5 - len(names), 1) == ["c", "a"]
    assert "a drop of 3.00 points, above --max_drop 1" in log.text


def test_a_drop_is_of_top_1_or_else_of_equal_best_classes():
    exact, found = np.eye(4, 3), np.eye(4, 3)[[0, 1, 0, 0]]
    assert drop_of(found, exact, None) == 25
    assert drop_of(found, exact, np.array([0, 0, 0, 0])) == -25  # the mistake was lucky


def test_the_last_batch_is_filled_up_and_cut_off_and_speed_is_of_images():
    seen = []
    images = np.arange(5, dtype=np.float32)[:, None]
    assert (predictions(lambda some: seen.append(len(some)) or some, images, 2) == images).all()
    assert seen == [2, 2, 2]
    graph = network()
    content = onnx_file(graph, photos(2), CARD)
    assert min(images_per_second([content, content], photos(2))) > 1


def test_large_batches_are_timed_for_a_while_and_once_at_least(monkeypatch):
    counts = []
    monkeypatch.setattr(int8, "open_onnxruntime", lambda *_, **__: counts.append)
    monkeypatch.setattr(int8, "LONGEST", 0.0)
    images_per_second([b"", b""], photos(2))
    assert len(counts) == 4  # one to warm up and one to time, of two files
    monkeypatch.setattr(int8, "LONGEST", 60.0)
    images_per_second([b"", b""], photos(2))
    assert len(counts) == 4 + 2 + 2 * int8.ROUNDS


@pytest.mark.parametrize("error", [errors.Fail, errors.NotImplemented])
def test_what_onnxruntime_does_not_read_is_run_by_onnx_and_gets_no_speed(monkeypatch, caplog, error):
    content = onnx_file(network(), photos(2), CARD)
    expected = open_onnx(content)(photos(2))

    def refuse(*_, **__):
        raise error("too new")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with caplog.at_level("INFO"):
        log_speeds({"int8": content}, photos(1), 2)
        found = open_onnx(content)(photos(2))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    size, by_whom = caplog.messages
    assert size == f"int8: {len(content) / 1e6:.2f} MB"
    assert by_whom.endswith("does not read this file of operator set 13: onnx's own reference runs it")


def test_costs_are_of_what_would_not_be_rounded():
    graph = network()
    quantised: Quantised = quantise(graph, photos(8), compute_node)
    costs = costs_of(quantised, Wiring(graph))
    noise = {name: value / sum(quantised.noise.values()) for name, value in quantised.noise.items()}
    assert costs["features.0"] == pytest.approx(noise["features.0"] + noise["images"])
    assert costs["features.3.depthwise"] == pytest.approx(noise["features.3.1"])
    assert costs["features.4.project"] == 0  # what it reads and gives is rounded for others too
