"""Teachers see the student's pixels and predict its classes; what is learned from them is what NumPy works out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn
from scipy.special import log_softmax, softmax

from mindcv_lite.benchmark.subjects import build_step
from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.checkpoints.trained import read_trained
from mindcv_lite.checkpoints.weights import read_weights
from mindcv_lite.data.datasets.classes import NAMES, WNIDS
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.pipeline import draws
from mindcv_lite.data.transforms.batch_transforms import Preparation
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.models.build import build_network
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.checkpoint_saver import save_weights
from mindcv_lite.runs.state import State
from mindcv_lite.training.distillation import TEACHERS, Teacher, Teachers, read_teachers
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.resume import fixed_facts, numbers_of, require_same_run
from mindcv_lite.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("graph_mode", "three_rows")

CLASSES, SIDE, BATCH, RATE = 5, 2, 4, 0.1
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
LABELS = np.array([0, 4, 2, 2], np.int32)
WEIGHTS = np.array([4 / 3, 0, 4 / 3, 4 / 3], np.float32)


class Layer(nn.Cell):
    """Logits of an image by one dense layer."""

    def __init__(self, seed: int, outputs: int = CLASSES, side: int = SIDE):
        super().__init__()
        weight = np.random.default_rng(seed).normal(0, 0.5, (outputs, 3 * side**2)).astype(np.float32)
        self.dense = nn.Dense(weight.shape[1], outputs, Tensor(weight), Tensor(np.zeros(outputs, np.float32)))

    def construct(self, x: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        return self.dense(x.reshape(x.shape[0], -1))


@pytest.fixture
def of_layers(recipe, tmp_path) -> Callable[..., Teachers]:
    """Teachers of a dense layer each."""

    def of_layers(student: Recipe, *layers: Layer, **keys: Any) -> Teachers:
        path = tmp_path / "layer"
        path.write_text("")
        own = recipe(image_resize=SIDE, **keys)
        teachers = [Teacher(str(path), layer, own, student.augmentation) for layer in layers]
        return Teachers(teachers, student.loss.teacher_temperature, CLASSES)

    return of_layers


def step_of(student: Recipe, network: nn.Cell, teachers: Teachers | None, alone: World) -> TrainStep:
    optimizer = build_optimizer(network.trainable_params(), student, RateTable(lambda _: RATE, 9), "CPU")
    step = TrainStep(network, optimizer, student, alone, 100, teachers)
    step.set_train()
    return step


def logits_of(layer: Layer, images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) @ layer.dense.weight.asnumpy().astype(np.float64).T


# ---------------------------------------------------------------------------------------------------------- the formula

OTHER = {"mean": "[10, 120, 200]", "std": "[100, 50, 20]"}


@pytest.mark.parametrize(
    ("keys", "seeds", "of_teacher"),
    [
        ({}, (1,), {}),
        ({"teacher_temperature": 0.5, "teacher_share": 0.9, "label_smoothing": 0.1}, (1, 2), {}),
        ({"teacher_share": 1}, (1, 2, 3), OTHER),
        ({"mixup": 0.5, "re_prob": 1, "re_value": 0.5}, (1,), OTHER),
    ],
    ids=["one", "two", "other mean and std", "mixed and erased"],
)
def test_loss_and_update_equal_those_worked_out_by_hand(recipe, world, of_layers, keys, seeds, of_teacher):
    given = recipe(num_classes=CLASSES, image_resize=SIDE, weight_decay=0, momentum=0, **keys)
    layers, share, t = [Layer(seed) for seed in seeds], given.loss.teacher_share, given.loss.teacher_temperature
    step = step_of(given, Layer(0), of_layers(given, *layers, **of_teacher), world(given))
    drawn = tuple(map(Tensor, next(draws(given.augmentation, BATCH, seed=3))))
    before = step.network.dense.weight.asnumpy().astype(np.float64)
    loss = step(Tensor(IMAGES), Tensor(LABELS), Tensor(WEIGHTS), *drawn)

    seed = Tensor(1, mindspore.int32)
    x, targets = (each.asnumpy() for each in Preparation(given)(Tensor(IMAGES), Tensor(LABELS), drawn, seed))
    own = recipe(**of_teacher).augmentation
    levels = x * np.reshape(given.augmentation.std, (3, 1, 1)) + np.reshape(given.augmentation.mean, (3, 1, 1))
    seen = (levels - np.reshape(own.mean, (3, 1, 1))) / np.reshape(own.std, (3, 1, 1))
    soft = np.mean([softmax(logits_of(layer, seen) / t, 1) for layer in layers], axis=0)
    logits = logits_of(Layer(0), x)
    hard_losses = -(targets * log_softmax(logits, 1)).sum(1)
    soft_losses = t**2 * (soft * (np.log(soft) - log_softmax(logits / t, 1))).sum(1)
    expected = (((1 - share) * hard_losses + share * soft_losses) * WEIGHTS).mean()
    assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-5)
    slopes = (1 - share) * (softmax(logits, 1) - targets) + share * t * (softmax(logits / t, 1) - soft)
    gradient = (slopes * WEIGHTS[:, None] / BATCH).T @ x.reshape(BATCH, -1)
    np.testing.assert_allclose(step.network.dense.weight.asnumpy(), before - RATE * gradient, rtol=0, atol=1e-6)


def test_a_student_that_predicts_as_its_teacher_has_nothing_to_learn_from_it(recipe, world, of_layers):
    given = recipe(num_classes=CLASSES, image_resize=SIDE, weight_decay=0, teacher_share=1)
    step = step_of(given, Layer(0), of_layers(given, Layer(0)), world(given))
    loss = step(Tensor(IMAGES), Tensor(LABELS), Tensor(WEIGHTS))
    assert abs(float(loss.asnumpy())) < 1e-5
    assert np.abs(step.network.dense.weight.asnumpy() - Layer(0).dense.weight.asnumpy()).max() < 1e-6


def test_a_teacher_that_is_sure_and_outputs_without_images_give_a_finite_loss(recipe, world, of_layers):
    given = recipe(num_classes=CLASSES, image_resize=SIDE, weight_decay=0, teacher_share=1, teacher_temperature=1)
    sure = Layer(1, outputs=CLASSES - 2)
    sure.dense.weight.set_data(Tensor(1000 * sure.dense.weight.asnumpy()))
    step = step_of(given, Layer(0), of_layers(given, sure), world(given))
    loss = float(step(Tensor(IMAGES), Tensor(LABELS), Tensor(WEIGHTS)).asnumpy())
    x = Preparation(given)(Tensor(IMAGES), Tensor(LABELS), (), Tensor(1))[0].asnumpy()
    best = logits_of(sure, x).argmax(1)
    losses = -log_softmax(logits_of(Layer(0), x), 1)[np.arange(BATCH), best]  # over all outputs
    assert loss == pytest.approx((losses * WEIGHTS).mean(), rel=1e-5)


# -------------------------------------------------------------------------------------------------- what a teacher sees


class Nothing(nn.Cell):
    """What it is shown."""

    def construct(self, x: Tensor) -> Tensor:
        return x


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """(..., side, side) -> another side, bilinear between the centres of pixels."""
    centre = (np.arange(side) + 0.5) * image.shape[-1] / side - 0.5
    low = np.clip(np.floor(centre), 0, image.shape[-1] - 1).astype(int)
    high, share = np.minimum(low + 1, image.shape[-1] - 1), np.maximum(centre, 0) - np.clip(np.floor(centre), 0, None)
    rows = image[..., low, :] * (1 - share)[:, None] + image[..., high, :] * share[:, None]
    return rows[..., low] * (1 - share) + rows[..., high] * share


def test_a_teacher_of_rectangles_sees_the_square_image_of_the_student_in_its_own_shape(recipe):
    student, own = recipe(image_resize=8).augmentation, recipe(image_resize="[8, 12]")
    x = Tensor(np.ones((2, 3, 8, 8), np.float32))
    assert Teacher("", Nothing(), own, student)(x).shape == (2, 3, 8, 12)


@pytest.mark.parametrize("side", [8, 12, 5, 16])
def test_a_teacher_sees_the_pixels_of_the_student_by_its_own_mean_std_and_size(recipe, tmp_path, side):
    student, own = recipe(image_resize=8).augmentation, recipe(image_resize=side, **OTHER)
    levels = np.random.default_rng(1).uniform(0, 255, (2, 3, 8, 8))
    x = (levels - np.reshape(student.mean, (3, 1, 1))) / np.reshape(student.std, (3, 1, 1))
    seen = Teacher("", Nothing(), own, student)(Tensor(x.astype(np.float32))).asnumpy()
    back = seen * np.reshape(own.augmentation.std, (3, 1, 1)) + np.reshape(own.augmentation.mean, (3, 1, 1))
    np.testing.assert_allclose(back, resized(levels, side), rtol=0, atol=1e-3)


# ------------------------------------------------------------------------------------------------------ out of its file


@pytest.fixture
def teacher_file(recipe, tmp_path) -> Callable[..., Path]:
    """Write a checkpoint of a narrow network with these class names, whose predictions differ."""

    def teacher_file(name: str, class_names: tuple[str, ...] | None, **keys: Any) -> Path:
        outputs = keys.pop("num_classes", len(class_names or ()))
        given = recipe(model="mobilenet_v3_small_075", num_classes=outputs, **keys)
        mindspore.set_seed(1)
        network = build_network(given.model, "O0")
        weights = {each.name: each.asnumpy() for each in network.get_parameters()}
        weights["classifier.3.bias"] = np.random.default_rng(1).normal(scale=2, size=outputs).astype(np.float32)
        # As if it had learned to tell images apart: freshly drawn, the next layer sees less and less of them.
        weights |= {name: value / 10 for name, value in weights.items() if name.endswith("moving_variance")}
        save_weights(tmp_path / name, weights, model_card(given, ()) | {"class_names": class_names})
        return tmp_path / name

    return teacher_file


X = Tensor(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))


def predictions(path: Path, student: Recipe, class_names: tuple[str, ...], world: Any) -> np.ndarray:
    teachers = read_teachers(student.with_keys(teacher=str(path)), class_names, world(student))
    assert teachers
    teachers.set_train()  # as a step does with all its cells
    return teachers(X).asnumpy()


def test_classes_are_matched_by_name_whatever_their_order(recipe, world, teacher_file):
    given = recipe(num_classes=3)
    path = teacher_file("t.ckpt", ("c", "a", "b"))
    in_order, as_named = (predictions(path, given, names, world) for names in (("c", "a", "b"), ("a", "b", "c")))
    assert np.ptp(in_order, axis=1).min() > 0.1
    np.testing.assert_allclose(as_named, in_order[:, [1, 2, 0]], rtol=0, atol=1e-6)


def test_a_teacher_predicts_as_in_evaluation_while_its_student_trains(recipe, world, teacher_file):
    path = teacher_file("t.ckpt", ("a", "b", "c"))
    logits = read_trained(str(path)).network()(X).asnumpy()
    assert np.ptp(logits, axis=0).max() > 1e-2  # another image, other logits
    found = predictions(path, recipe(num_classes=3, teacher_temperature=1), ("a", "b", "c"), world)
    np.testing.assert_allclose(found, softmax(logits, 1), rtol=0, atol=1e-6)


def test_a_teacher_of_imagenet_teaches_some_of_its_classes(recipe, world, teacher_file):
    names = ("n01440764", "n02012849", "n01491361")  # outputs 0, 134 and 3
    whole = predictions(teacher_file("t.ckpt", None, num_classes=1000), recipe(num_classes=1000), WNIDS, world)[
        :, [0, 134, 3]
    ]
    some = predictions(teacher_file("t.ckpt", NAMES), recipe(num_classes=3), names, world)
    np.testing.assert_allclose(some, whole / whole.sum(1, keepdims=True), rtol=1e-3, atol=0)


def test_nothing_of_a_teacher_is_trained_averaged_or_kept_in_a_state(recipe, world, teacher_file):
    path = teacher_file("t.ckpt", ("c", "a", "b"))
    given = recipe(num_classes=3, ema=True).with_keys(teacher=(str(path), str(path)))
    alone = world(given)
    step = step_of(given, Layer(0, 3, 32), read_teachers(given, ("a", "b", "c"), alone), alone)
    of_teachers = {each.name: each for each in step.get_parameters() if each.name.startswith(TEACHERS)}
    assert len(of_teachers) == 2 * len(read_weights(str(path)).parameters)
    before = {name: each.asnumpy().copy() for name, each in of_teachers.items()}
    images = RANDOM.integers(0, 256, (BATCH, 32, 32, 3), np.uint8)
    for _ in range(2):
        step(Tensor(images), Tensor(LABELS % 3), Tensor(WEIGHTS))
    for name, each in of_teachers.items():
        assert np.array_equal(each.asnumpy(), before[name]), name  # their moving statistics, too
    assert not [name for name in numbers_of(step, alone) if TEACHERS in name]
    assert not [each for each in step.trainable_params() if TEACHERS in each.name]


# ------------------------------------------------------------------------------------------------- resume, and mistakes

SPLIT = Split(["x/a/1.jpg", "x/b/1.jpg"], np.array([0, 1], np.int32), ("a", "b"))


def test_a_run_goes_on_with_the_files_of_its_teachers_alone(recipe, world):
    def facts(*hashes: str) -> dict[str, Any]:
        return fixed_facts(recipe(), SPLIT, world(recipe()), hashes)

    def state(fixed: dict[str, Any]) -> State:
        return State("x.state.ckpt", {}, {"fixed": json.loads(json.dumps(fixed))})

    older = {name: value for name, value in facts().items() if "teacher" not in name}
    require_same_run(state(older), facts())
    require_same_run(state(facts("1f", "2e")), facts("1f", "2e"))
    for then, now in ((facts("1f"), facts("2e")), (facts("1f"), facts()), (older, facts("1f"))):
        with pytest.raises(UserError, match=r"another run: hash of the teacher's file was (1f|None), is (2e|1f|None);"):
            require_same_run(state(then), now)


@pytest.mark.parametrize(
    ("class_names", "keys", "sentence"),
    [
        (
            ("a", "c"),
            {},
            " cannot teach these classes: images/train: class 'c' is missing and class 'b' is unknown; expected the 2 "
            "classes that the network is trained for",
        ),
        (
            WNIDS,
            {},
            " cannot teach these classes: images/train: class 'a' is unknown; name all classes by wnid (n01440764), or "
            "all by index (0 to 999), or all by name (tench)",
        ),
        (
            None,
            {"num_classes": 2},
            " cannot teach: it does not name its 2 classes, and a teacher's are matched by name; use a checkpoint that "
            "train.py has written",
        ),
        (
            ("a", "b"),
            {"in_channels": 1, "mean": "[0]", "std": "[1]"},
            " cannot teach: its in_channels is 1, the recipe's 3, and a teacher sees the images of the network that it "
            "teaches",
        ),
    ],
    ids=["other classes", "ImageNet's", "no names", "grey"],
)
def test_a_teacher_that_cannot_teach_these_images_is_refused(
    recipe, world, teacher_file, refusal, class_names, keys, sentence
):
    path = teacher_file("t.ckpt", class_names, **keys)
    given = recipe(data_dir="images", num_classes=2, teacher=path)
    assert refusal(read_teachers, given, ("a", "b"), world(given)) == f"{path}{sentence}"


def test_the_benchmark_has_no_classes_to_match_without_images(recipe, world, refusal):
    given = recipe(num_classes=2, teacher="t.ckpt")
    assert "no images here, whose classes it could be matched with" in refusal(build_step, given, world(given), 1)
