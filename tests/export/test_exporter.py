"""Exported files, run by onnxruntime and MindSpore, against the network and the logits of other projects."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import Tensor, nn
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from PIL import Image

from mindcv_lite.checkpoints.model_card import CARD_KEYS
from mindcv_lite.checkpoints.trained import Trained, read_trained
from mindcv_lite.checkpoints.weights import Weights
from mindcv_lite.commands import convert
from mindcv_lite.data.transforms.decode_augment import evaluation_transforms
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.export import readers
from mindcv_lite.export.exporter import export, require_same, sample_images
from mindcv_lite.export.mindir_files import mindir_file
from mindcv_lite.export.onnx_files import newest_opset, open_onnx
from mindcv_lite.models import onnx_graph
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.build import build_network
from mindcv_lite.models.folding import fold_norms
from mindcv_lite.models.onnx_graph import network_graph
from mindcv_lite.recipe.keys import Recipe, size_of

SMALLEST = "mobilenet_v3_small_075"
CLASSES = ("cat", "Gänseblümchen", "<b>", "", "\udcff")


@pytest.fixture
def random_network(recipe: Callable[..., Recipe], pynative_mode: None) -> Callable[..., Trained]:
    """A network of random numbers whose BatchNorms have the statistics of some images, so that images matter to it."""

    def build(model: str = SMALLEST, side: int | tuple[int, int] = 33, **keys: Any) -> Trained:
        size = side if isinstance(side, int) else list(side)
        wanted = recipe(model=model, image_resize=size, num_classes=len(CLASSES), bn_momentum=0, drop_rate=0, **keys)
        random, network = np.random.default_rng(0), build_network(wanted.model, "O0")
        for name, parameter in network.parameters_dict().items():
            shape, is_gain = parameter.shape, name.endswith(("gamma", "moving_variance"))
            value = random.uniform(0.5, 2, shape) if is_gain else random.normal(size=shape)
            parameter.set_data(Tensor((value * np.prod(shape[1:], initial=1.0) ** -0.5).astype(np.float32)))
        network.set_train(True)(Tensor(random_images(random, 7, wanted.model.in_channels, side)))
        return Trained(Weights("random.ckpt", network.parameters_dict(), None), wanted, CLASSES)

    return build


def random_images(random: np.random.Generator, count: int, channels: int, side: int | tuple[int, int]) -> np.ndarray:
    """Normalised images of noise, unlike each other in brightness and contrast, float32."""
    brightness, contrast = random.normal(size=(2, count, channels, 1, 1))
    return (brightness + contrast * random.normal(size=(count, channels, *size_of(side)))).astype(np.float32)


def run(path: Path, images: np.ndarray) -> np.ndarray:
    (predictions,) = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"images": images})
    return np.asarray(predictions)


def require_close(found: np.ndarray, expected: np.ndarray) -> None:
    # float32 against float32 with another order of summation: 1e-5 of the largest at most. What the padding of one
    # side decides, or an epsilon of 1e-5 for 1e-3, moves them by more than 1e-3.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# ------------------------------------------------------------------------------------------------------------- ONNX

# SAME is symmetric at every stride from 97 on (97, 49, 25, ...) and not at all of them from 96, 90, 75, 64 and 50.
CASES = [
    ("mobilenet_v3_small_100", "mindcv", 96),
    ("mobilenet_v3_small_100", "same", 90),
    ("mobilenet_v3_small_100", "symmetric", 97),
    ("mobilenet_v3_small_075", "same", 64),
    ("mobilenet_v3_small_075", "mindcv", 1),
    ("mobilenet_v3_large_100", "mindcv", 97),
    ("mobilenet_v3_large_075", "symmetric", 50),
    ("mobilenet_v3_small_timm_050", "same", (40, 97)),
    ("mobilenet_v3_small_035", "mindcv", (97, 50)),
    ("mobilenet_v3_small_minimalistic_100", "same", 75),
    ("mobilenet_v3_large_minimalistic_100", "mindcv", 33),
]


@pytest.mark.parametrize(("model", "conv_padding", "side"), CASES)
def test_an_onnx_file_gives_the_networks_logits_for_any_number_of_images(
    random_network, tmp_path, model, conv_padding, side
):
    trained = random_network(model, side, conv_padding=conv_padding)
    export(trained, tmp_path / "x.onnx")
    images = random_images(np.random.default_rng(1), 7, 3, side)
    expected = trained.network()(Tensor(images)).asnumpy()
    assert np.ptp(expected, axis=0).max() > 0.1 * np.abs(expected).max(), "the images do not matter to this network"
    require_close(run(tmp_path / "x.onnx", images), expected)
    require_close(run(tmp_path / "x.onnx", images[:1]), expected[:1])


@pytest.mark.parametrize("name", ["mindcv_small", "torchvision_small", "timm_small", "tf_small_imagenet"])
@pytest.mark.usefixtures("pynative_mode")
def test_an_onnx_file_of_anothers_weights_gives_the_logits_of_that_project(shared, tmp_path, name):
    (source,) = (shared / "parity").glob(f"{name}.*")
    if source.suffix != ".ckpt":  # MindCV's is read as it is, without a model card
        convert.main([str(source), str(tmp_path / "x.ckpt")])
        source = tmp_path / "x.ckpt"
    export(read_trained(str(source)), tmp_path / "x.onnx")
    require_close(
        run(tmp_path / "x.onnx", np.load(shared / "parity/input.npy")), np.load(shared / f"parity/logits_{name}.npy")
    )


@pytest.mark.parametrize("model", dict.fromkeys(model for model, *_ in CASES))
def test_the_graph_has_onnx_own_activations_and_no_batch_norm_and_all_shapes(random_network, tmp_path, model):
    export(random_network(model), tmp_path / "x.onnx")
    file = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(file, full_check=True)
    kinds = [node.op_type for node in file.graph.node]
    rows, activation = VARIANTS[model].rows, VARIANTS[model].activation
    assert "BatchNormalization" not in kinds
    hard_swishes = sum(part.activation == "hswish" for _, parts in VARIANTS[model].bottlenecks() for part in parts)
    if activation == "hswish":
        hard_swishes += 3  # stem, last convolution, hidden layer
    assert kinds.count("HardSigmoid") == sum(row.squeeze for row in rows) + hard_swishes
    assert "HardSwish" not in kinds, "MindSpore Lite's converter does not know it"
    known = {value.name: value.type.tensor_type.shape.dim for value in (*file.graph.value_info, *file.graph.output)}
    for node in file.graph.node:
        batch, *others = known[node.output[0]]
        assert batch.dim_param == "batch"
        assert all(dim.dim_value for dim in others)
    assert (file.ir_version, [(entry.domain, entry.version) for entry in file.opset_import]) == (7, [("", 13)])


@pytest.mark.parametrize("opset", [onnx_graph.DEFAULT_OPSET, 17])
@pytest.mark.parametrize("model", ["mobilenet_v3_small_100", "mobilenet_v3_large_minimalistic_100"])
def test_the_graph_has_what_the_pickiest_reader_wants_and_nothing_that_one_misreads(random_network, model, opset):
    trained = random_network(model)
    parameters = {name: value.asnumpy() for name, value in trained.weights.parameters.items()}
    graph = network_graph(trained.recipe, parameters, False, False, opset)
    convolutions = [node for node in graph.nodes if node.operator == "Conv"]
    for node in convolutions:
        assert set(node.attributes) == {"kernel_shape", "strides", "pads", "dilations", "group"}
        assert node.attributes["kernel_shape"] == [*graph.constants[node.inputs[1]].shape[2:]]
    for node in graph.nodes:  # with beta, OpenCV would take the Mul behind it for a HardSwish
        if node.operator == "HardSigmoid":
            assert node.attributes == {"alpha": 1 / 6}
    assert len(convolutions) > 30


@pytest.mark.parametrize("opset", [11, 13, 14, newest_opset()])
def test_a_file_of_another_operator_set_gives_the_same_logits(random_network, tmp_path, caplog, opset):
    trained = random_network()
    with caplog.at_level("INFO"):
        export(trained, tmp_path / "x.onnx", include_preprocess=True, opset=opset)  # compares
    file = onnx.load(tmp_path / "x.onnx")
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", opset)]
    assert file.ir_version == onnx.helper.find_min_ir_version_for(file.opset_import)
    assert ("HardSwish" in {node.op_type for node in file.graph.node}) == (opset >= 14)
    unread = f"does not read this file of operator set {opset}: onnx's own reference runs it"
    try:
        onnxruntime.InferenceSession(tmp_path / "x.onnx")
        assert unread not in caplog.text
    except Fail:  # onnxruntime 1.23 reads up to 23
        assert unread in caplog.text


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_file_of_a_fixed_batch_takes_that_many_images(random_network, tmp_path, batch):
    trained = random_network(side=64)
    export(trained, tmp_path / "x.onnx", batch=batch)
    images = random_images(np.random.default_rng(1), 7, 3, 64)[:batch]
    require_close(run(tmp_path / "x.onnx", images), trained.network()(Tensor(images)).asnumpy())
    (given,) = onnxruntime.InferenceSession(tmp_path / "x.onnx").get_inputs()
    assert given.shape == [batch, 3, 64, 64]
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run(tmp_path / "x.onnx", np.concatenate([images, images]))


@pytest.mark.parametrize("include_preprocess", [False, True])
def test_a_file_in_float16_is_half_as_large_and_nearly_the_same(random_network, tmp_path, include_preprocess):
    trained = random_network()
    for precision in ("float32", "float16"):
        export(trained, tmp_path / f"{precision}.onnx", include_preprocess, precision=precision)
    sizes = [(tmp_path / f"{precision}.onnx").stat().st_size for precision in ("float32", "float16")]
    assert sizes[1] < 0.55 * sizes[0]
    session = onnxruntime.InferenceSession(tmp_path / "float16.onnx")
    kinds = [value.type for value in (*session.get_inputs(), *session.get_outputs())]
    assert kinds == ["tensor(uint8)" if include_preprocess else "tensor(float16)", "tensor(float16)"]
    images = sample_images((33, 33), 3)
    if not include_preprocess:
        normalize: Any = Normalize(trained.recipe.augmentation.mean, trained.recipe.augmentation.std)
        images = normalize(Tensor(images)).asnumpy()
    expected = run(tmp_path / "float32.onnx", images)
    found = run(tmp_path / "float16.onnx", images if include_preprocess else images.astype(np.float16))
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_weights_that_float16_cannot_hold_are_refused_by_a_sentence(random_network, tmp_path):
    trained = random_network()
    weight = trained.weights.parameters["classifier.3.weight"]
    weight.set_data(weight * 1e5)
    with pytest.raises(UserError, match=r"x\.onnx: not written, because in float16 .*: leave out --precision float16"):
        export(trained, tmp_path / "x.onnx", precision="float16")
    assert not list(tmp_path.iterdir())
    export(trained, tmp_path / "x.onnx")


@pytest.mark.parametrize("in_channels", [1, 3])
def test_with_preprocessing_and_softmax_raw_images_give_the_same_classes(random_network, tmp_path, in_channels):
    mean, std = ([100.0, 120.0, 140.0], [50.0, 60.0, 70.0]) if in_channels == 3 else ([33.0], [78.0])
    trained = random_network(in_channels=in_channels, mean=mean, std=std)
    export(trained, tmp_path / "plain.onnx")
    export(trained, tmp_path / "x.onnx", include_preprocess=True, softmax=True)
    images = np.random.default_rng(1).integers(0, 256, (7, 33, 33, in_channels), np.uint8)
    normalised = ((images - np.array(mean)) / std).transpose(0, 3, 1, 2).astype(np.float32)
    logits = run(tmp_path / "plain.onnx", normalised)
    probabilities = run(tmp_path / "x.onnx", images)
    assert np.array_equal(probabilities.argmax(1), logits.argmax(1))
    exponentials = np.exp(logits.astype(np.float64))
    require_close(probabilities, exponentials / exponentials.sum(1, keepdims=True))
    outputs = [onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").get_outputs()[0] for name in ("plain", "x")]
    assert [output.name for output in outputs] == ["logits", "probabilities"]


def test_the_metadata_say_what_the_network_is_and_what_its_outputs_mean(random_network, tmp_path):
    trained = random_network(bn_eps=1e-3, interpolation="bicubic")
    export(trained, tmp_path / "x.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "x.onnx").get_modelmeta().custom_metadata_map
    assert set(found) == {*CARD_KEYS, "class_names", "mindcv_lite"}
    assert (found["model"], found["interpolation"], found["conv_padding"]) == (SMALLEST, "bicubic", "mindcv")
    assert json.loads(found["class_names"]) == list(CLASSES)
    assert json.loads(found["mean"]) == [123.675, 116.28, 103.53]
    assert (float(found["bn_eps"]), float(found["crop_pct"]), int(found["image_resize"])) == (1e-3, 0.875, 33)


# ------------------------------------------------------------------------------------------------------------ MINDIR


def test_a_mindir_file_takes_raw_images_of_any_number_and_has_the_metadata(random_network, tmp_path):
    trained = random_network(in_channels=1, mean=[33.0], std=[78.0])
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    export(trained, tmp_path / "x.mindir", include_preprocess=True, softmax=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.mindir"]
    export(trained, tmp_path / "x.onnx", include_preprocess=True, softmax=True)
    for name, value in (("class_names", json.dumps(CLASSES)), ("image_resize", "33")):
        # The bytes of an entry of a protobuf map: 1 is the name, 2 the value, each with its length before it.
        entry = b"\x0a%c%s\x12%c%s" % (len(name), name.encode(), len(value), value.encode())
        assert entry in (tmp_path / "x.mindir").read_bytes()
    cell: Any = nn.GraphCell(mindspore.load(str(tmp_path / "x.mindir")))
    images = np.random.default_rng(1).integers(0, 256, (7, 33, 33, 1), np.uint8)
    expected = run(tmp_path / "x.onnx", images)
    require_close(cell(Tensor(images)).asnumpy(), expected)
    require_close(cell(Tensor(images[:1])).asnumpy(), expected[:1])


@pytest.mark.parametrize("batch", [None, 2])
def test_a_mindir_file_without_additions_gives_the_networks_logits(random_network, tmp_path, batch):
    trained = random_network(conv_padding="same")
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    export(trained, tmp_path / "x.mindir", batch=batch)
    cell: Any = nn.GraphCell(mindspore.load(str(tmp_path / "x.mindir")))
    images = random_images(np.random.default_rng(1), 2, 3, 33)
    require_close(cell(Tensor(images)).asnumpy(), trained.network()(Tensor(images)).asnumpy())


def test_a_temporary_folder_whose_name_mindspore_refuses_is_named(monkeypatch, tmp_path):
    (tmp_path / "a b").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a b"))
    with pytest.raises(UserError, match=r"a b/.*: MindSpore takes no such name; set TMPDIR"):
        mindir_file(nn.ReLU(), np.zeros((1, 2), np.float32), {})
    assert not list((tmp_path / "a b").iterdir())


# ------------------------------------------------------------------------------------------------------------ resizing


def as_validation(recipe: Recipe, image: np.ndarray) -> np.ndarray:
    """An image (height, width, channels) through the transforms of validation, from its file on."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    row = np.frombuffer(encoded.getvalue(), np.uint8)
    for transform in evaluation_transforms(recipe.augmentation, recipe.model.in_channels):
        row = transform(row)
    return row


@pytest.mark.parametrize(
    ("side", "interpolation", "crop_pct"),
    [(33, "bilinear", 0.875), ((48, 33), "bicubic", 1.0)],
)
@pytest.mark.usefixtures("pynative_mode")
def test_a_file_resizes_and_crops_any_image_as_validation_does(recipe, tmp_path, side, interpolation, crop_pct):
    size = side if isinstance(side, int) else list(side)
    keys = {"image_resize": size, "interpolation": interpolation, "crop_pct": crop_pct}
    trained = readers.random_network(recipe(model=SMALLEST, num_classes=len(CLASSES), **keys))
    export(trained, tmp_path / "x.onnx", include_preprocess=True, include_resize=True)
    content = (tmp_path / "x.onnx").read_bytes()
    prepare, predict = open_onnx(content, output="prepared"), open_onnx(content)
    random = np.random.default_rng(1)
    for size in ((50, 70), (333, 80), (64, 64), (31, 30), (20, 90), (101, 151)):
        images = random.integers(0, 256, (2, *size, 3), np.uint8)
        prepared = prepare(images).transpose(0, 2, 3, 1)
        expected = np.stack([as_validation(trained.recipe, image) for image in images])
        # Of noise, a row too many or the next row would be another picture. OpenCV rounds its weights to 1/2048.
        off = np.abs(prepared - expected)
        assert (off.max() <= 1, (off > 0).mean() < 0.2) == (True, True), size
        normalize: Any = Normalize(trained.recipe.augmentation.mean, trained.recipe.augmentation.std)
        logits = trained.network()(normalize(Tensor(prepared.astype(np.uint8)))).asnumpy()
        require_close(predict(images), logits)


def test_a_file_that_resizes_otherwise_is_not_written(random_network, tmp_path, monkeypatch):
    monkeypatch.setitem(onnx_graph.RESIZES, "bilinear", onnx_graph.RESIZES["bicubic"])
    with pytest.raises(TrainingError, match=r"x\.onnx: not written, because the images that it resizes would differ"):
        export(random_network(), tmp_path / "x.onnx", include_preprocess=True, include_resize=True)
    assert not list(tmp_path.iterdir())


def test_a_resize_that_onnx_has_not_is_refused(random_network, tmp_path):
    with pytest.raises(UserError, match=r"random\.ckpt: its images are resized by area, .* leave out --include_resize"):
        export(random_network(interpolation="area"), tmp_path / "x.onnx", True, include_resize=True)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------ faults


def test_a_file_that_would_predict_otherwise_is_not_written(random_network, tmp_path, monkeypatch):
    def damaged(parameters: dict[str, np.ndarray], bn_eps: float) -> dict[str, np.ndarray]:
        folded = fold_norms(parameters, bn_eps)
        folded["features.6.layers.3.weight"] = folded["features.6.layers.3.weight"][..., ::-1].copy()
        return folded

    monkeypatch.setattr(onnx_graph, "fold_norms", damaged)
    with pytest.raises(
        TrainingError, match=r"x\.onnx: not written, because its predictions would differ from MindSpore's"
    ):
        export(random_network(side=64), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [1.002, np.nan])
def test_predictions_may_differ_by_a_thousandth_of_the_largest(wrong):
    expected = np.array([[0.1, -5.0]])
    require_same(np.array([[0.1, -5.004]]), expected, Path("x.onnx"))
    require_same(np.zeros((1, 2)), np.zeros((1, 2)), Path("x.onnx"))
    with pytest.raises(TrainingError):
        require_same(expected * wrong, expected, Path("x.onnx"))


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(np.nan, r"'classifier\.3\.weight' is not finite"), (3e38, "its predictions are not finite")],
)
def test_weights_whose_predictions_are_not_finite_are_the_users_to_mend(random_network, tmp_path, number, sentence):
    trained = random_network()
    weight = trained.weights.parameters["classifier.3.weight"]
    weight.set_data(Tensor(np.full(weight.shape, number, np.float32)))
    with pytest.raises(UserError, match=rf"random\.ckpt: {sentence}"):
        export(trained, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "channels"), [((1, 1), 1), ((97, 50), 3)])
def test_the_images_of_the_comparison_are_the_same_each_time_and_use_the_whole_range(size, channels):
    images = sample_images(size, channels)
    assert images.shape == (3, *size, channels)
    assert np.array_equal(images, sample_images(size, channels))
    if min(size) > 1:
        assert all(np.ptp(image) > 200 for image in images)
        noise, smooth, _ = np.abs(np.diff(images.astype(int), axis=2)).mean(axis=(1, 2, 3))
        assert smooth < 10 < noise


def test_the_graph_normalises_as_the_cell_does_that_trains(pynative_mode):
    """The one in the file divides, the one on the device multiplies: both by the same deviations."""
    images = sample_images((5, 5), 3)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    cell: Any = Normalize(mean, std)
    found = onnx_graph.Graph({}, (5, 5))
    onnx_graph.add_normalize(found, onnx_graph.add_floats(found, "images"), mean, std)
    ours = (images.transpose(0, 3, 1, 2) - found.constants["mean"]) / found.constants["std"]
    np.testing.assert_allclose(cell(Tensor(images)).asnumpy(), ours, atol=1e-5)
