"""Dropout against the same hash in NumPy's uint32."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.mobilenetv3 import Dropout, MobileNetV3

pytestmark = pytest.mark.usefixtures("pynative_mode")

SHAPE = (64, 1024)
X = np.random.default_rng(0).normal(1, 0.1, SHAPE).astype(np.float32)  # no zeros of its own


def dropped(p: float, seed: int, x: np.ndarray = X) -> np.ndarray:
    return Dropout(p)(Tensor(x), Tensor(seed, mindspore.int32)).asnumpy()


def hashed(x: np.ndarray) -> np.ndarray:
    """The hash in uint32, whose products wrap around and whose shifts have no sign."""
    for factor in (0x526B2A1D, 0x225E4A4B):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def kept(p: float, seed: int) -> np.ndarray:
    position = np.arange(np.prod(SHAPE), dtype=np.uint32).reshape(SHAPE)
    draw = hashed(hashed(hashed(position)) ^ hashed(np.array([seed], np.int64).astype(np.uint32)))
    return (draw & np.uint32(2**31 - 1)) >= np.uint32(int(p * 2**31))


@pytest.mark.parametrize("seed", [0, 1, 123_456_789, 2**31 - 1, -(2**31)])  # a count of steps may wrap
@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_the_mask_is_that_of_the_hash_and_what_is_kept_is_scaled_up(p, seed):
    mask = kept(p, seed)
    np.testing.assert_allclose(dropped(p, seed), np.where(mask, X / (1 - p), 0), rtol=1e-6)
    assert (~mask).mean() == pytest.approx(p, abs=0.01)  # five standard errors of 65536 draws


def test_a_graph_draws_the_same_mask():
    expected = dropped(0.3, 7)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    assert np.array_equal(dropped(0.3, 7), expected)


def test_the_same_seed_gives_the_same_bits_and_masks_of_other_seeds_are_independent():
    assert np.array_equal(dropped(0.5, 3), dropped(0.5, 3))
    for other in (4, 5, 1027):  # a step on, two, and so far that the positions of another row would do
        share = (kept(0.5, 3) == (dropped(0.5, other) != 0)).mean()
        assert share == pytest.approx(0.5, abs=0.01)


def test_every_row_and_every_channel_loses_its_share():
    zeros = np.mean([dropped(0.2, seed) == 0 for seed in range(16)], axis=0)
    np.testing.assert_allclose(zeros.mean(1), 0.2, atol=5 * np.sqrt(0.16 / (16 * SHAPE[1])))  # five standard errors
    np.testing.assert_allclose(zeros.mean(0), 0.2, atol=5 * np.sqrt(0.16 / (16 * SHAPE[0])))


def test_a_share_of_zero_is_the_identity():
    assert np.array_equal(dropped(0.0, 5), X)


def test_float16_stays_float16():
    assert dropped(0.2, 5, X.astype(np.float16)).dtype == np.float16


def test_a_network_drops_by_its_seed_and_without_one_not_at_all():
    images = Tensor(np.random.default_rng(1).normal(size=(4, 3, 32, 32)).astype(np.float32))
    network = MobileNetV3(VARIANTS["mobilenet_v3_small_075"], num_classes=5, drop_rate=0.5)
    network.set_train()  # BatchNorm by the batch, so that fresh weights give logits of some size

    def logits(*seed: int) -> np.ndarray:
        return network(images, *(Tensor(each, mindspore.int32) for each in seed)).asnumpy()

    expand, activation, _, classify = network.classifier
    hidden = activation(expand(network.features(images).mean((2, 3)))).asnumpy()
    weight, bias = classify.weight.asnumpy(), classify.bias.asnumpy()
    np.testing.assert_allclose(logits(), hidden @ weight.T + bias, rtol=1e-3, atol=1e-6)  # float32 in another order
    assert np.abs(logits()).max() > 1e-3
    dropped_hidden = dropped(0.5, 1, hidden)
    np.testing.assert_allclose(logits(1), dropped_hidden @ weight.T + bias, rtol=1e-3, atol=1e-6)
    assert np.array_equal(logits(1), logits(1))
    assert np.abs(logits(1) - logits()).max() > 1e-4
    assert np.abs(logits(1) - logits(2)).max() > 1e-4
