"""The linear probe: scikit-learn's solution, on any number of ranks, and a last layer that gives it in the network."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor
from sklearn.linear_model import LogisticRegression

from mindcv_lite.checkpoints.weights import HEAD
from mindcv_lite.data.datasets.image_folder import Split, read_split
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.models.build import build_network
from mindcv_lite.training import linear_probe as probe
from mindcv_lite.training.linear_probe import Regression, best_penalty, features_of, fit_last_layer, normalise

CLASSES, WIDTH = 3, 12


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes that overlap, and their labels."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 80)
    centres = random.normal(size=(CLASSES, WIDTH))
    return (centres[labels] + 1.5 * random.normal(size=(len(labels), WIDTH))).astype(np.float32), labels


@pytest.fixture
def alone(recipe, world) -> World:
    return world(recipe())


@dataclass(frozen=True)
class Rank(World):
    """One of several threads, each of which is a rank."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    given: dict[int, np.ndarray] = field(default_factory=dict)

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        self.given[self.rank] = numbers
        self.barrier.wait()
        total = np.sum([self.given[rank] for rank in range(self.size)], 0)
        self.barrier.wait()
        return total


def on_ranks(size: int, world: World, task: Callable[[World], Any]) -> list[Any]:
    """What `task`, a function of a world, gives each rank."""
    barrier, given, results = threading.Barrier(size), {}, {}

    def work(rank: int) -> None:
        try:
            results[rank] = task(Rank(rank, size, world.settings, barrier=barrier, given=given))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(size)]


@pytest.mark.parametrize("penalty", [1.0, 0.03, 0.001])
def test_the_solution_is_that_of_scikit_learn(rows, alone, penalty):
    features, labels = rows
    solution = Regression(features, labels, np.ones(CLASSES), alone).solve(penalty)
    theirs = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-6, max_iter=1000).fit(features, labels)
    ours = features @ solution[:, :-1].T + solution[:, -1]
    expected = theirs.decision_function(features)
    difference = (ours - ours.mean(1, keepdims=True)) - (expected - expected.mean(1, keepdims=True))
    assert np.abs(difference).max() < 0.02 * np.abs(expected).max()


def test_class_weights_count_a_row_as_often_as_they_say(rows, alone):
    features, labels = rows
    often = np.concatenate([np.arange(len(labels)), *2 * [np.flatnonzero(labels == 1)]])  # those of class 1 three times
    solution = Regression(features[often], labels[often], np.ones(CLASSES), alone).solve(0.03)
    weights = np.where(np.arange(CLASSES) == 1, 3, 1) * len(labels) / len(often)
    weighted = Regression(features, labels, weights, alone)
    assert np.allclose(weighted.solve(0.03), solution, atol=2e-3)
    random = np.random.default_rng(1)
    point, direction = random.normal(size=(2, CLASSES, WIDTH + 1))
    slope = (weighted.loss(point + 1e-2 * direction) - weighted.loss(point - 1e-2 * direction)) / 2e-2
    assert slope == pytest.approx((weighted.loss_and_gradient(point)[1] * direction).sum(), rel=1e-3)


def test_many_rows_are_taken_in_parts(rows, alone, monkeypatch):
    features, labels = rows
    regression = Regression(features, labels, np.ones(CLASSES), alone)
    solution = np.random.default_rng(1).normal(size=(CLASSES, WIDTH + 1))
    loss, gradient = regression.loss_and_gradient(solution)
    right = regression.right(solution)
    monkeypatch.setattr(probe, "LOGITS_AT_ONCE", 21)  # seven rows
    assert regression.loss(solution) == pytest.approx(loss, rel=1e-6)
    assert np.allclose(regression.loss_and_gradient(solution)[1], gradient, atol=1e-6)
    assert regression.right(solution) == right


def test_the_gradient_is_that_of_the_loss(rows, alone):
    features, labels = rows
    regression = Regression(features, labels, np.ones(CLASSES), alone)
    random = np.random.default_rng(1)
    solution, direction = random.normal(size=(2, CLASSES, WIDTH + 1))
    slope = (regression.loss(solution + 1e-2 * direction) - regression.loss(solution - 1e-2 * direction)) / 2e-2
    assert slope == pytest.approx((regression.loss_and_gradient(solution)[1] * direction).sum(), rel=1e-3)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_share_the_rows_find_the_same_solution(rows, alone, size):
    features, labels = rows

    def fit(world: World) -> tuple:
        mine, own = features[world.rank :: world.size].copy(), labels[world.rank :: world.size]
        centre, scale = normalise(mine, len(labels), world)
        indices = world.rank + world.size * np.arange(len(own))
        found = best_penalty(mine, own, indices, np.ones(CLASSES), len(labels), world)
        return found, centre, scale, Regression(mine, own, np.ones(CLASSES), world).solve(found[0])

    expected, *results = fit(alone), *on_ranks(size, alone, fit)
    for found, centre, scale, solution in results:
        assert found == expected[0]
        assert np.allclose(centre, expected[1], atol=1e-6)
        assert scale == pytest.approx(expected[2], rel=1e-6)
        assert np.array_equal(solution, results[0][3])
        assert np.allclose(solution, expected[3], atol=2e-3)


def test_a_penalty_is_chosen_that_suits_the_rows(rows, alone):
    features, labels = rows
    indices = np.arange(len(labels))
    weak, right = best_penalty(features, labels, indices, np.ones(CLASSES), len(labels), alone)
    shuffled = np.random.default_rng(2).permutation(labels)  # nothing can be learned from
    strong, _ = best_penalty(features, shuffled, indices, np.ones(CLASSES), len(labels), alone)
    assert weak < strong == probe.PENALTIES[0]
    assert 0.7 < right < 1


def test_two_images_are_enough(rows, alone):
    features, labels = rows[0][[0, -1]], np.array([0, 1])
    penalty, right = best_penalty(features, labels, np.arange(2), np.ones(2), 2, alone)
    assert penalty in probe.PENALTIES
    assert right == 0  # each was held out where the other one is all that is known
    solution = Regression(features, labels, np.ones(2), alone).solve(penalty)
    assert ((features @ solution[:, :-1].T + solution[:, -1]).argmax(1) == labels).all()


def test_features_have_mean_0_and_variance_1_even_where_all_are_the_same(rows, alone):
    features = rows[0].copy()
    centre, scale = normalise(features, len(features), alone)
    assert np.allclose(features.mean(0), 0, atol=1e-6)
    assert features.var() == pytest.approx(1, rel=1e-5)
    assert np.allclose(features * scale + centre, rows[0], atol=1e-5)
    features = np.full((4, 2), 7, np.float32)
    assert normalise(features, 4, alone)[1] == 1
    assert (features == 0).all()


@pytest.fixture
def images(image_folder) -> Split:
    return read_split(str(image_folder({"train": {"a": 9, "b": 8, "c": 6}})), "train")


def test_the_network_gives_what_the_regression_gives(images, recipe, world, graph_mode, log):
    given = recipe(num_classes=3, freeze="backbone")
    network = build_network(given.model, "O0")
    before = {name: each.asnumpy().copy() for name, each in network.parameters_dict().items()}
    fit_last_layer(network, images, given, world(given))
    after = {name: each.asnumpy() for name, each in network.parameters_dict().items()}
    assert [name for name in before if not np.array_equal(before[name], after[name])] == list(HEAD)

    asked: list[str] = []
    graphs: Any = SimpleNamespace(takes=asked.append)  # which keep none
    features, labels = features_of(network, images, given, replace(world(given), graphs=graphs))
    assert {*asked} == {"Inference"}, "the graph is not kept for the next start"
    assert features.shape == (23, network.parameters_dict()[HEAD[0]].shape[1])
    assert labels.tolist() == images.labels.tolist()
    weight, bias = (after[name] for name in HEAD)
    assert ((features @ weight.T + bias).argmax(1) == labels).all()  # plain colours
    assert "of 23 images" in log.text
    hidden = Tensor(features[:2])
    assert np.allclose(network.classifier[3](hidden).asnumpy(), features[:2] @ weight.T + bias, atol=1e-4)


def test_with_balanced_sampling_all_classes_count_the_same(images, recipe, world, pynative_mode, monkeypatch):
    counted = []

    def best(features: np.ndarray, labels: np.ndarray, indices: np.ndarray, class_weights: np.ndarray, *_: Any) -> Any:
        counted.append(class_weights)
        return 1.0, 0.5

    monkeypatch.setattr(probe, "best_penalty", best)
    for keys in ({"sampling": "balanced"}, {"class_weights": "balanced"}, {}):
        given = recipe(num_classes=3, **keys)
        fit_last_layer(build_network(given.model, "O0"), images, given, world(given))
    sampled, weighted, natural = counted
    assert np.allclose(sampled, 23 / 3 / np.array([9, 8, 6]))
    assert np.array_equal(sampled, weighted)
    assert np.array_equal(natural, np.ones(3))


def test_an_image_that_cannot_be_decoded_is_named(images, recipe, world, graph_mode):
    given = recipe(num_classes=3)
    with open(images.paths[3], "wb") as file:
        file.write(b"no image")
    with pytest.raises(UserError, match=f"{images.paths[3]}: this image cannot be decoded"):
        fit_last_layer(build_network(given.model, "O0"), images, given, world(given))
