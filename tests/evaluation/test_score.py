"""Counts of a batch and scores of a folder, on one rank or three, against NumPy in float64."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from PIL import Image
from scipy.special import expit, log_softmax, softmax

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.pipeline import Batches
from mindcv_lite.data.sharding import shard
from mindcv_lite.device.ranks import World
from mindcv_lite.device.settings import settings_for
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.evaluation import score as evaluation
from mindcv_lite.evaluation.score import EvaluationStep, Score, evaluate, gathered

pytestmark = pytest.mark.usefixtures("graph_mode")

GREY = {"in_channels": 1, "mean": "[127.5]", "std": "[16]"}


class Pixels(nn.Cell):
    """The pixels of an image are its logits."""

    def construct(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1)


def counts_by_hand(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, loss: str = "CE") -> np.ndarray:
    """Images, right in top-1, right in top-5, sum of the losses; of equal logits the first is predicted."""
    logits = logits.astype(np.float64)
    right = np.argsort(-logits, axis=1, kind="stable")[:, :5] == labels[:, None]
    targets = np.eye(logits.shape[1])[labels]
    if loss == "CE":
        losses = -(targets * log_softmax(logits, 1)).sum(1)
    else:
        losses = -(targets * np.log(expit(logits)) + (1 - targets) * np.log(expit(-logits))).mean(1)
    return np.array([weights.sum(), weights @ right[:, 0], weights @ right.any(1), weights @ losses])


# ------------------------------------------------------------------------------------------------- counts of a batch


@pytest.mark.parametrize(
    ("classes", "levels"),
    [*[(classes, 256) for classes in (40, 6, 5, 3, 1)], (12, 3), (4, 2)],
)
def test_counts_equal_numpys_with_few_classes_with_ties_and_with_weights_of_zero(recipe, classes, levels):
    step = EvaluationStep(Pixels(), recipe(**GREY))
    random = np.random.default_rng(classes)
    for _ in range(3):
        pixels = random.integers(0, levels, (64, 1, classes), np.uint8)  # few levels make equal logits
        if levels == 256:  # and here there are none
            pixels[:, 0] = random.permuted(np.tile(np.arange(256), (64, 1)), axis=1)[:, :classes]
        labels = random.integers(0, classes, 64, np.int32)
        weights = (random.random(64) < 0.7).astype(np.float32)
        counts = step(Tensor(pixels), Tensor(labels), Tensor(weights))[0].asnumpy()
        expected = counts_by_hand((pixels[:, 0] - 127.5) / 16, labels, weights)
        assert counts.dtype == np.float32
        assert np.array_equal(counts[:3], expected[:3])
        np.testing.assert_allclose(counts[3], expected[3], rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_recipes_without_label_smoothing(recipe):
    step = EvaluationStep(Pixels(), recipe(loss="BCE", label_smoothing=0.3, **GREY))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 7), np.uint8)
    labels, weights = np.arange(8, dtype=np.int32) % 7, np.ones(8, np.float32)
    counts = step(Tensor(pixels), Tensor(labels), Tensor(weights))[0].asnumpy()
    expected = counts_by_hand((pixels[:, 0] - 127.5) / 16, labels, weights, "BCE")
    np.testing.assert_allclose(counts, expected, rtol=1e-5)


@pytest.mark.parametrize("classes", [7, 3])
def test_a_network_that_gives_nan_is_right_about_nothing(recipe, classes):
    class NotANumber(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            return ops.sqrt(-1.0 - ops.abs(x.reshape(x.shape[0], -1)))

    pixels, labels = np.zeros((6, 1, classes), np.uint8), np.arange(6, dtype=np.int32) % classes
    counts, *_ = EvaluationStep(NotANumber(), recipe(**GREY))(
        Tensor(pixels), Tensor(labels), Tensor(np.ones(6, np.float32))
    )
    assert np.array_equal(counts.asnumpy()[:3], [6, 0, 0])


def test_a_batch_of_filling_alone_counts_nothing(recipe):
    step = EvaluationStep(Pixels(), recipe(**GREY))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 7), np.uint8)
    counts = step(Tensor(pixels), Tensor(np.zeros(8, np.int32)), Tensor(np.zeros(8, np.float32)))[0].asnumpy()
    assert np.array_equal(counts, np.zeros(4))


def test_logits_in_float16_are_counted_in_float32(recipe):
    class Half(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], -1).half()

    pixels = np.random.default_rng(0).integers(0, 256, (64, 1, 7), np.uint8)
    labels, weights = np.arange(64, dtype=np.int32) % 7, np.ones(64, np.float32)
    counts = EvaluationStep(Half(), recipe(**GREY))(Tensor(pixels), Tensor(labels), Tensor(weights))[0].asnumpy()
    logits = ((pixels[:, 0] - 127.5) / 16).astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(counts, counts_by_hand(logits, labels, weights), rtol=1e-5)


# ------------------------------------------------------------------------------------------------ scores of a folder

COUNT, CLASSES = 23, 8
COLOURS = np.random.default_rng(5).integers(0, 256, (COUNT, 3), np.uint8)
LABELS = np.random.default_rng(6).integers(0, CLASSES, COUNT, np.int32)
MIXTURE = np.random.default_rng(7).normal(0, 1, (3, CLASSES)).astype(np.float32)


class ColourNetwork(nn.Cell):
    """Logits by the mean colour of an image, and others in training."""

    def __init__(self):
        super().__init__()
        self.mixture = Tensor(MIXTURE)

    def construct(self, x: Tensor) -> Tensor:
        logits = x.mean((2, 3)).matmul(self.mixture)
        return -logits if self.training else logits


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Split:
    """Each of one colour, which no resize changes."""
    folder = tmp_path_factory.mktemp("colours")
    paths = [str(folder / f"{number}.png") for number in range(COUNT)]
    for path, colour in zip(paths, COLOURS, strict=True):
        Image.fromarray(np.broadcast_to(colour, (40, 48, 3))).save(path)
    return Split(paths, LABELS, tuple("abcdefgh"))


@pytest.fixture(scope="module")
def step_of(recipe) -> Callable[..., EvaluationStep]:
    """One compiled graph for each batch size."""
    step = EvaluationStep(ColourNetwork(), recipe())
    return lambda: step


def expected_counts(recipe: Any) -> np.ndarray:
    return counts_by_hand(logits_by_hand(recipe), LABELS, np.ones(COUNT))


def logits_by_hand(recipe: Any) -> np.ndarray:
    colours = (COLOURS - np.array(recipe.augmentation.mean)) / np.array(recipe.augmentation.std)
    return colours @ MIXTURE


def hits_by_hand(recipe: Any) -> np.ndarray:
    """Images of each class that are right in top-1."""
    right = logits_by_hand(recipe).argmax(1) == LABELS
    return np.bincount(LABELS[right], minlength=CLASSES)


@dataclass(frozen=True)
class RankOfMany(World):
    """A rank whose sum over all ranks is known beforehand; it keeps what it was asked to add up."""

    total: np.ndarray = field(default_factory=lambda: np.array([COUNT, *[0.0] * (3 + CLASSES)]))
    asked: list = field(default_factory=list)

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        self.asked.append(np.array(numbers))
        return self.total


@pytest.mark.parametrize("batch_size", [4, 23, 32])
def test_a_score_counts_every_image_once_whatever_the_batch_size(images, recipe, world, step_of, batch_size):
    given = recipe(batch_size=batch_size)
    score = evaluate(step_of(), images, given, world(given))
    seen, top1, top5, loss = expected_counts(given)
    assert score.images == seen == COUNT
    assert (score.top1, score.top5) == (top1 / COUNT, top5 / COUNT)
    assert 0 < top1 < top5 < COUNT
    assert score.loss == pytest.approx(loss / COUNT, rel=1e-5)
    assert score.images_per_second > 0


@pytest.mark.parametrize("batch_size", [4, 32])
def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_have_images(
    images, recipe, world, step_of, batch_size
):
    given = recipe(batch_size=batch_size)
    logits = logits_by_hand(given)
    some = np.flatnonzero(~np.isin(LABELS, [2, CLASSES - 1]))  # two classes have none, one of them the last
    few = Split([images.paths[index] for index in some], LABELS[some], images.class_names)
    for split, indices in ((images, np.arange(COUNT)), (few, some)):
        right = logits.argmax(1)[indices] == LABELS[indices]
        score = evaluate(step_of(), split, given, world(given))
        assert score.balanced_accuracy == pytest.approx(recall_score(LABELS[indices], right))
        assert score.balanced_accuracy != pytest.approx(score.top1)


def recall_score(labels: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([right[labels == label].mean() for label in set(labels.tolist())]))


@pytest.mark.parametrize(("small", "unbalanced"), [(4, False), (2, False), (1, True)])
def test_classes_are_unbalanced_if_one_has_more_than_twice_the_images_of_another(
    images, recipe, world, step_of, small, unbalanced
):
    given, labels = recipe(batch_size=32), np.array([3] * 4 + [5] * small, np.int32)
    split = Split(images.paths[: len(labels)], labels, images.class_names)
    assert evaluate(step_of(), split, given, world(given)).unbalanced == unbalanced


def test_a_network_in_training_is_scored_in_evaluation_mode(images, recipe, world, step_of):
    given, step = recipe(batch_size=32), step_of()
    expected = evaluate(step, images, given, world(given))
    step.set_train()
    assert evaluate(step, images, given, world(given)).top1 == expected.top1


@pytest.mark.parametrize("batch_size", [4, 32])
def test_the_counts_of_three_ranks_add_up_to_those_of_one(images, recipe, world, step_of, batch_size):
    given = recipe(batch_size=batch_size)
    ranks = [RankOfMany(rank, 3, world(given, rank, 3).settings) for rank in range(3)]
    for rank in ranks:
        evaluate(step_of(), images, given, rank)
    shares = [counts for rank in ranks for counts in rank.asked]
    assert len(shares) == 3  # each asks once
    assert {share[0] for share in shares} <= {7.0, 8.0}
    counts, hits = np.split(np.sum(shares, axis=0), [4])
    np.testing.assert_allclose(counts, expected_counts(given), rtol=1e-5)
    assert np.array_equal(hits, hits_by_hand(given))


def test_the_score_is_that_of_all_ranks(images, recipe, world, step_of):
    given = recipe(batch_size=32)
    hits = np.bincount(LABELS, minlength=CLASSES) // 2
    rank = RankOfMany(1, 3, world(given, 1, 3).settings, total=np.array([COUNT, 10.0, 20.0, 46.0, *hits]))
    score = evaluate(step_of(), images, given, rank)
    assert (score.top1, score.top5, score.loss) == (10 / COUNT, 20 / COUNT, 2.0)
    assert score.balanced_accuracy == pytest.approx(np.mean(hits / np.bincount(LABELS)))


def test_a_network_of_so_few_classes_has_no_top5(images, recipe, world, step_of, monkeypatch):
    given = recipe(batch_size=32)
    assert evaluate(step_of(), images, given, world(given)).top5 is not None
    monkeypatch.setattr(evaluation, "BEST", CLASSES)
    assert evaluate(step_of(), images, given, world(given)).top5 is None


def test_an_image_that_was_not_counted_is_an_error(images, recipe, world, step_of, monkeypatch):
    given = recipe(batch_size=4)
    batches = evaluation.evaluation_batches

    class WithoutTheFirst(Batches):
        def __iter__(self):
            return itertools.islice(super().__iter__(), 1, None)

    def without_the_first(*arguments):
        given = batches(*arguments)
        given.__class__ = WithoutTheFirst
        return given

    monkeypatch.setattr(evaluation, "evaluation_batches", without_the_first)
    with pytest.raises(RuntimeError, match=r"evaluation counted 19 of 23 images"):
        evaluate(step_of(), images, given, world(given))


@pytest.mark.parametrize("batch_size", [4, 32])
def test_the_predictions_that_are_kept_are_each_images_and_sum_up_to_the_score(
    images, recipe, world, step_of, batch_size
):
    given = recipe(batch_size=batch_size)
    score = evaluate(step_of(), images, given, world(given), keep=True)
    alone = evaluate(step_of(), images, given, world(given))
    assert (score.top1, score.top5, score.loss) == (alone.top1, alone.top5, alone.loss)
    assert alone.predictions is None
    kept = score.predictions
    assert kept is not None
    logits = logits_by_hand(given)
    best = np.argsort(-logits, 1)[:, :5]
    assert np.array_equal(kept.labels, LABELS)
    assert np.array_equal(kept.outputs, best)
    np.testing.assert_allclose(kept.probabilities, np.take_along_axis(softmax(logits, 1), best, 1), rtol=1e-4)
    np.testing.assert_allclose(kept.losses, -log_softmax(logits, 1)[np.arange(COUNT), LABELS], rtol=1e-4)
    assert (kept.top1.mean(), kept.top5.mean()) == (score.top1, score.top5)
    assert kept.losses.mean() == pytest.approx(score.loss, rel=1e-6)


@pytest.mark.parametrize(("count", "batch_size", "size"), [(23, 4, 3), (1, 4, 3), (24, 4, 2), (5, 3, 1)])
def test_predictions_of_all_ranks_come_in_the_order_of_the_images(recipe, count, batch_size, size):
    shares = [shard(np.arange(count), batch_size, rank, size, drop_remainder=False)[0] for rank in range(size)]
    rows = [np.repeat(share[:, None], 12, axis=1).astype(np.float32) for share in shares]  # image i predicts i
    world = GatheredWorld(0, size, settings_for(recipe(), "CPU"), of_ranks=np.stack([each.ravel() for each in rows]))
    images = Split([str(number) for number in range(count)], np.arange(count, dtype=np.int32), ("a",))
    kept = gathered(rows[0], images, world)
    assert kept.ranks.tolist() == kept.predicted.tolist() == list(range(count))


@dataclass(frozen=True)
class GatheredWorld(World):
    """A rank that knows what all ranks hold."""

    of_ranks: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        assert np.array_equal(numbers, self.of_ranks[self.rank])
        return self.of_ranks


@pytest.mark.parametrize("failure", [UserError("no image"), TrainingError("no disk")])
def test_a_rank_whose_images_cannot_be_read_does_not_leave_the_others_waiting(
    images, recipe, world, step_of, monkeypatch, failure
):
    monkeypatch.setattr(evaluation, "evaluation_batches", lambda *arguments: _Broken(failure))
    given = recipe(batch_size=4)
    rank = RankOfMany(0, 2, world(given, 0, 2).settings)
    with pytest.raises(type(failure), match=str(failure)):
        evaluate(step_of(), images, given, rank)
    assert len(rank.asked) == 1


class _Broken:
    """Batches of which not one can be read."""

    def __init__(self, failure: Exception):
        self.failure = failure

    def __len__(self) -> int:
        return 2

    def __iter__(self):
        raise self.failure


def test_a_score_reads_as_shares_and_loss():
    score = Score(0.68071, 0.8777, 1.23456, 50_000, 1e4, 0.5, balanced_accuracy=0.54321, unbalanced=False)
    assert str(score) == "top-1 68.07%, top-5 87.77%, loss 1.2346"
    assert str(replace(score, unbalanced=True)) == f"{score}, balanced accuracy 54.32%"
    assert str(replace(score, top5=None)) == "top-1 68.07%, loss 1.2346"
