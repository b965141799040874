"""The evaluation copy: the weights or their averages, to the bit, and statistics as the mean over ranks."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_lite.device.ranks import World
from mindcv_lite.training.ema import MovingAverage
from mindcv_lite.training.eval_copy import EvalCopy

pytestmark = pytest.mark.usefixtures("graph_mode")

STATISTICS = ["norm.moving_mean", "norm.moving_variance"]
WEIGHTS = ["norm.gamma", "norm.beta", "dense.weight", "dense.bias"]


class Small(nn.Cell):
    """Statistics and weights enough."""

    def __init__(self):
        super().__init__()
        # pyrefly: ignore [bad-argument-count]  (MindSpore's decorator hides the signature)
        self.norm = nn.BatchNorm2d(3)
        self.dense = nn.Dense(3, 2)


class OtherRank(nn.Cell):
    """Stands for the sum over two ranks, of which the other has numbers greater by 2."""

    def construct(self, x: Tensor) -> Tensor:
        return x + (x + 2)


def values(parameters: dict) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in parameters.items()}


def fill(parameters: dict, seed: int) -> None:
    random = np.random.default_rng(seed)
    for parameter in parameters.values():
        parameter.set_data(Tensor(random.normal(size=parameter.shape).astype(np.float32)))


def made(averages: bool, world: World) -> tuple[EvalCopy, nn.Cell, MovingAverage | None]:
    """(evaluation copy, trained network, its averages or None), all of different numbers."""
    trained, eval_network = Small(), Small()
    average = MovingAverage(trained, 0.9) if averages else None
    eval_copy = EvalCopy(trained, average, eval_network, world)
    fill(trained.parameters_dict(), 0)
    fill(eval_copy.parameters, 1)
    if average:
        fill(average.of(), 2)
    return eval_copy, trained, average


averages = pytest.mark.parametrize("averages", [False, True], ids=["weights", "averages"])


@pytest.fixture
def parts(averages, recipe, world) -> tuple:
    return made(averages, world(recipe()))


@pytest.fixture
def two_ranks(recipe, world, monkeypatch) -> World:
    monkeypatch.setattr(ops, "AllReduce", OtherRank)
    return world(recipe(), size=2)


@averages
def test_the_evaluation_copy_is_the_average_if_there_is_one_else_the_weights(parts):
    eval_copy, trained, average = parts
    source = average.of() if average else trained.parameters_dict()
    before, trained_before = values(source), values(trained.parameters_dict())
    eval_copy()
    after = values(eval_copy.parameters)
    assert sorted(after) == sorted(STATISTICS + WEIGHTS)  # the names of a checkpoint
    for name in after:
        assert np.array_equal(after[name], before[name]), name
        assert np.array_equal(source[name].asnumpy(), before[name]), name  # and training goes on unmoved
        assert np.array_equal(trained.parameters_dict()[name].asnumpy(), trained_before[name]), name


@averages
def test_the_evaluation_copy_stays_when_training_goes_on(parts):
    eval_copy, trained, average = parts
    eval_copy()
    before = values(eval_copy.parameters)
    for parameters in (trained.parameters_dict(), average.of() if average else {}):
        fill(parameters, 3)
    assert all(np.array_equal(eval_copy.parameters[name].asnumpy(), before[name]) for name in before)
    eval_copy()
    assert not any(np.array_equal(eval_copy.parameters[name].asnumpy(), before[name]) for name in before)


@averages
def test_statistics_become_the_mean_over_ranks_and_weights_stay(averages, two_ranks):
    eval_copy, trained, average = made(averages, two_ranks)
    groups = [trained.parameters_dict(), *([average.of()] if average else [])]
    before = [values(group) for group in groups]
    eval_copy()
    for group, old in zip(groups, before, strict=True):
        for name in STATISTICS:
            np.testing.assert_allclose(group[name].asnumpy(), old[name] + 1, rtol=1e-6, atol=1e-6)
        for name in WEIGHTS:
            assert np.array_equal(group[name].asnumpy(), old[name]), name
    for name, parameter in groups[-1].items():
        assert np.array_equal(eval_copy.parameters[name].asnumpy(), parameter.asnumpy()), name


def test_statistics_of_a_frozen_norm_are_no_mean_but_copied_to_the_bit(two_ranks):
    trained, eval_network = Small(), Small()
    trained.norm.use_batch_statistics = False
    eval_copy = EvalCopy(trained, None, eval_network, two_ranks)
    fill(trained.parameters_dict(), 0)
    before = values(trained.parameters_dict())
    eval_copy()
    for name in STATISTICS + WEIGHTS:
        assert np.array_equal(trained.parameters_dict()[name].asnumpy(), before[name]), name
        assert np.array_equal(eval_copy.parameters[name].asnumpy(), before[name]), name
