"""Noise against the statistics of what it should be; the hash itself is tested with dropout."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor
from scipy.stats import kstest

from mindcv_lite.noise import normal

pytestmark = pytest.mark.usefixtures("pynative_mode")

SEEDS = Tensor(np.array([7, 8, 9], np.int32).reshape(3, 1, 1, 1))


def test_the_noise_of_each_seed_is_normal_and_independent():
    noise = normal((3, 64, 64), SEEDS).asnumpy()
    assert noise.shape == (3, 3, 64, 64)
    for image in noise:
        assert kstest(image.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise.reshape(9, -1)) - np.eye(9)).max() < 0.08  # five standard errors of 4096 pairs
    neighbours = noise[..., 1:].ravel(), noise[..., :-1].ravel()
    assert abs(np.corrcoef(*neighbours)[0, 1]) < 0.03


def test_the_same_seed_gives_the_same_noise_in_a_graph_too():
    expected = normal((1, 8, 8), SEEDS).asnumpy()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)

    @mindspore.jit
    def graph(seeds: Tensor) -> Tensor:
        return normal((1, 8, 8), seeds)

    np.testing.assert_allclose(graph(SEEDS).asnumpy(), expected, rtol=1e-5, atol=1e-6)
