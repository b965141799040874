"""Files of every network, in each program that reads ONNX and is installed here, against the network's own logits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from mindcv_lite.checkpoints.trained import Trained, read_trained
from mindcv_lite.commands import convert
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.export.readers import READERS, Findings, Reader, check_readers, random_network, report, several_images
from mindcv_lite.models.onnx_graph import DEFAULT_OPSET
from mindcv_lite.recipe.keys import Recipe

# Each network once. The command tries all with every padding at every side.
CASES = [
    ("mobilenet_v3_small_100", "mindcv", 64),
    ("mobilenet_v3_small_075", "symmetric", 96),
    ("mobilenet_v3_large_100", "same", 65),
    ("mobilenet_v3_large_075", "mindcv", 33),
    ("mobilenet_v3_small_minimalistic_100", "same", 64),
    ("mobilenet_v3_large_minimalistic_100", "symmetric", 65),
]


@pytest.fixture(params=READERS, ids=lambda reader: reader.name)
def reader(request) -> Reader:
    for module in request.param.modules:
        if module != "pnnx":  # its module takes PyTorch; it is there if its converter is
            pytest.importorskip(module)
    if not request.param.is_installed:
        pytest.skip(f"{request.param.name} is not installed: pip install {' '.join(request.param.packages)}")
    return request.param


@pytest.fixture
def network(recipe: Callable[..., Recipe], pynative_mode: None) -> Callable[..., Trained]:
    def build(model: str, conv_padding: str, side: int) -> Trained:
        one = random_network(recipe(model=model, num_classes=10))
        return replace(one, recipe=one.recipe.with_keys(conv_padding=conv_padding, image_resize=side))

    return build


@pytest.mark.parametrize(("model", "conv_padding", "side"), CASES)
def test_a_reader_gives_the_networks_logits(reader, network, model, conv_padding, side):
    (findings,) = check_readers([network(model, conv_padding, side)], DEFAULT_OPSET, "float32", [reader])
    assert not findings.faults
    assert findings.comparisons == (8 if "uint8" in reader.takes else 4)  # with preprocessing, with softmax, 1 and 7
    assert findings.same_class == findings.images == 4 * findings.comparisons
    assert 0 < findings.worst < 1e-4


@pytest.mark.parametrize(("opset", "precision"), [(11, "float32"), (17, "float32"), (13, "float16")])
def test_a_reader_gives_them_for_other_operator_sets_and_in_float16(reader, network, opset, precision):
    findings = check_readers([network("mobilenet_v3_small_075", "mindcv", 64)], opset, precision, [reader])
    assert not findings[0].faults


def test_a_reader_gives_the_logits_of_real_weights(reader, shared, tmp_path, pynative_mode):
    convert.main([str(shared / "parity/tf_small_imagenet.safetensors"), str(tmp_path / "x.ckpt")])
    (findings,) = check_readers([read_trained(str(tmp_path / "x.ckpt"))], DEFAULT_OPSET, "float32", [reader])
    assert not findings.faults
    assert findings.worst < 1e-4


def test_random_networks_tell_images_apart(network):
    trained = network("mobilenet_v3_large_minimalistic_100", "same", 64)
    normalize: Any = Normalize(trained.recipe.augmentation.mean, trained.recipe.augmentation.std)
    logits = trained.network()(normalize(Tensor(several_images((64, 64), 3)))).asnumpy()
    assert np.ptp(logits, axis=0).max() > 0.1 * np.abs(logits).max()
    assert len(set(logits.argmax(1))) > 1


def test_a_reader_that_reads_nothing_gets_no_difference_and_a_few_of_its_faults():
    found = Findings(READERS[0], 1e-4, faults=[f"file {number}: not read" for number in range(20)])
    _, row, *faults = report([found])[:11]
    assert row.split()[-5:] == ["0", "none", "0", "of", "0"]
    assert faults == [f"onnxruntime: file {number}: not read" for number in range(8)] + [
        "onnxruntime: and 12 faults more"
    ]


def test_a_class_within_the_limit_of_the_best_is_as_good_and_any_other_a_fault():
    findings = Findings(READERS[0], limit=1e-2)
    expected = np.array([[1.0, 0.995, 0.0]])
    findings.compare("near", np.array([[0.995, 0.999, 0.0]]), expected)
    assert not findings.faults
    findings.compare("other", np.array([[0.5, 0.4, 0.8]]), expected)
    findings.compare("nothing", np.full((1, 3), np.nan), expected)
    assert [fault.split(":")[0] for fault in findings.faults] == ["other", "nothing"]
    assert (findings.comparisons, findings.images, findings.worst) == (3, 3, pytest.approx(0.8))
