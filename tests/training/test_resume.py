"""A state holds every number that a run goes on from, and is refused by any other run."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.datasets.paths import Paths
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import TrainingError, UserError
from mindcv_lite.recipe.keys import KEYS, MAY_CHANGE
from mindcv_lite.runs.state import State, find_state, save_state
from mindcv_lite.training.optimizers import RateTable, build_optimizer
from mindcv_lite.training.resume import (
    MOMENTS,
    NOISE,
    RANKS,
    find_common_state,
    fixed_facts,
    names_and_labels,
    numbers_of,
    put_back,
    require_same_run,
    require_same_start,
)
from mindcv_lite.training.train_step import TrainStep
from tests.training.networks import NormAndDense

IMAGES = Split(["x/a/1.jpg", "x/a/2.jpg", "x/b/1.jpg"], np.array([0, 0, 1], np.int32), ("a", "b"))
KEYS_OF_ALL = {"ema": True, "loss_scale_type": "dynamic", "loss_scale": 2.0**120, "std": "[0.01, 0.01, 0.01]"}


@pytest.fixture
def step_of(recipe, world, graph_mode) -> Callable[..., TrainStep]:
    def step_of(seed: int = 0, **keys: Any) -> TrainStep:
        given, network = recipe(num_classes=2, **keys), NormAndDense(seed)
        optimizer = build_optimizer(network.trainable_params(), given, RateTable(lambda step: 0.1, 9), "CPU")
        step = TrainStep(network, optimizer, given, world(given), steps_per_epoch=100)
        step.set_train()
        return step

    return step_of


@pytest.fixture
def alone(recipe, world) -> World:
    return world(recipe())


def run(step: TrainStep, count: int) -> list[float]:
    random, losses = np.random.default_rng(int(step.step.asnumpy())), []
    for _ in range(count):
        images = Tensor(random.integers(0, 256, (4, 2, 2, 3), np.uint8))
        losses.append(float(step(images, Tensor([0, 1, 1, 0]), Tensor(np.ones(4, np.float32))).asnumpy()))
    return losses


def bits_of(step: TrainStep) -> dict[str, bytes]:
    return {parameter.name: parameter.asnumpy().tobytes() for parameter in step.get_parameters()}


def test_a_state_on_disk_put_back_gives_all_the_same_bits_and_the_same_steps_after_it(step_of, alone, tmp_path):
    step, other = step_of(0, **KEYS_OF_ALL), step_of(1, **KEYS_OF_ALL)
    run(step, 9)  # of which the scale makes the first ones overflow
    save_state(tmp_path, numbers_of(step, alone), {"card": {}})
    before = bits_of(step)
    assert {"ema.norm.moving_mean", "moments.dense.weight", "global_step"} <= before.keys()
    changed = {name for name, bits in bits_of(other).items() if bits != before[name]}
    assert {"dense.weight", "norm.moving_variance", "ema.dense.weight", "moments.dense.weight"} <= changed
    assert step.loss_scale.asnumpy() < 2.0**120
    assert int(step.optimizer.global_step.asnumpy()[0]) > 0

    state = find_state(True, tmp_path)
    assert state
    put_back(other, state, alone)
    assert bits_of(other) == before
    assert run(other, 3) == run(step, 3)
    assert bits_of(other) == bits_of(step)


def test_each_rank_gets_its_own_statistics_and_loss_back_and_the_shared_numbers(step_of, alone):
    step = step_of()
    run(step, 2)
    state = State("x.ckpt", numbers_of(step, alone), {})
    own = state.numbers[RANKS]
    assert own.shape == (1, 3 + 3 + 1)  # mean, variance, loss_sum
    two = replace(state, numbers=state.numbers | {RANKS: np.concatenate([own, own + 1])})
    second = step_of(1)
    put_back(second, two, World(1, 2, alone.settings))
    assert np.array_equal(second.network.norm.moving_mean.asnumpy(), step.network.norm.moving_mean.asnumpy() + 1)
    assert second.loss_sum.asnumpy() == pytest.approx((own + 1)[0, -1])
    assert np.array_equal(second.network.dense.weight.asnumpy(), step.network.dense.weight.asnumpy())


def test_a_state_that_lacks_or_has_a_number_too_much_names_it(step_of, alone):
    step = step_of()
    numbers = numbers_of(step, alone)
    for changed in (
        {name: value for name, value in numbers.items() if name != "dense.bias"},
        numbers | {"dense.biased": numbers["dense.bias"]},
    ):
        before = bits_of(step)
        with pytest.raises(UserError, match=r"x\.ckpt: does not fit this version of the program: 'dense\.bias"):
            put_back(step, State("x.ckpt", changed, {}), alone)
        assert bits_of(step) == before


# ------------------------------------------------------------------------------------------------------ the same run


def state_with(fixed: dict[str, Any]) -> State:
    return State("x.state.ckpt", {}, {"fixed": json.loads(json.dumps(fixed))})  # as it comes out of a file


def test_every_free_key_is_a_key():
    assert KEYS.keys() >= MAY_CHANGE


def test_a_run_is_the_same_as_itself(recipe, world):
    given = recipe(mean="[1, 2, 3]", freeze=2)
    fixed = fixed_facts(given, IMAGES, world(given))
    require_same_run(state_with(fixed), fixed)


def test_free_keys_may_differ_and_each_of_the_others_is_named(recipe, world):
    given = recipe(teacher="teacher.ckpt")
    then = state_with(fixed_facts(given, IMAGES, world(given)))
    for name in KEYS:
        now = fixed_facts(given.with_keys(**{name: "another"}), IMAGES, world(given))
        if name in MAY_CHANGE:
            require_same_run(then, now)
        else:
            with pytest.raises(UserError, match=rf"state of another run: {name} was .*, is another; give the earlier"):
                require_same_run(then, now)


def test_a_state_that_is_older_than_a_key_had_its_default(recipe, world):
    fixed = fixed_facts(recipe(), IMAGES, world(recipe()))
    older = state_with({name: value for name, value in fixed.items() if name not in ("mixup", "re_scale")})
    require_same_run(older, fixed)
    with pytest.raises(UserError, match=r"another run: mixup was 0\.0, is 0\.2;"):
        require_same_run(older, fixed | {"mixup": 0.2})


@pytest.mark.parametrize(
    ("keys", "draws"),
    [
        ({"drop_rate": 0.2}, True),
        ({"drop_rate": 0}, False),
        ({"drop_rate": 0, "re_prob": 0.1}, False),
        ({"drop_rate": 0, "re_prob": 0.1, "re_value": "random"}, True),
        ({"drop_rate": 0, "re_value": "random"}, False),
    ],
)
def test_a_state_whose_noise_came_from_another_hash_is_refused_where_the_run_draws_noise(recipe, world, keys, draws):
    fixed = fixed_facts(recipe(**keys), IMAGES, world(recipe()))
    older = {name: value for name, value in fixed.items() if name != NOISE}  # earlier versions did not say
    for then in (older, fixed | {NOISE: "of the future"}) if draws else ():
        with pytest.raises(
            UserError, match=r"^x\.state\.ckpt: another version of this program drew the masks of dropout"
        ):
            require_same_run(state_with(then), fixed)
    if not draws:
        require_same_run(state_with(older), fixed)


def test_a_state_whose_moments_were_not_corrected_is_refused_with_adamw_alone(recipe, world):
    for opt in ("adamw", "adam"):
        fixed = fixed_facts(recipe(opt=opt), IMAGES, world(recipe()))
        older = state_with({name: value for name, value in fixed.items() if name != MOMENTS})
        if opt == "adam":
            require_same_run(older, fixed)
        else:
            with pytest.raises(UserError, match=r"another version of this program did not correct the bias of adamw"):
                require_same_run(older, fixed)


def test_all_that_differs_is_named_with_both_values(recipe, world):
    given = recipe(lr=0.1)
    then = state_with(fixed_facts(given, IMAGES, world(given)))
    other = given.with_keys(lr=0.2, mean=(1.0, 2.0, 3.0))
    with pytest.raises(UserError) as error:
        require_same_run(then, fixed_facts(other, IMAGES, world(given, 0, 2)))
    text = str(error.value)
    assert text.startswith("x.state.ckpt is the state of another run: ")
    for said in ("lr was 0.1, is 0.2", "mean was [123.675, 116.28, 103.53], is [1.0, 2.0, 3.0]"):
        assert said in text
    assert "number of devices was 1, is 2; give the earlier values, or start afresh without --resume" in text


@pytest.mark.parametrize(
    "images",
    [
        Split(IMAGES.paths[:2], IMAGES.labels[:2], IMAGES.class_names),
        Split(["x/a/1.jpg", "x/a/3.jpg", "x/b/1.jpg"], IMAGES.labels, IMAGES.class_names),
        Split(IMAGES.paths, IMAGES.labels, ("a", "c")),
        Split(IMAGES.paths, np.array([0, 1, 1], np.int32), IMAGES.class_names),
    ],
    ids=["fewer", "another name", "another class", "moved to another class"],
)
def test_other_images_are_another_run(recipe, world, images):
    given = recipe()
    then = state_with(fixed_facts(given, IMAGES, world(given)))
    with pytest.raises(UserError, match=r"another run: training images was 3 \(hash .*\), is [23] \(hash .*\);"):
        require_same_run(then, fixed_facts(given, images, world(given)))


def test_the_same_images_elsewhere_are_the_same_run(recipe, world):
    given = recipe()
    moved = Split([f"/elsewhere/{path}" for path in IMAGES.paths], IMAGES.labels, IMAGES.class_names)
    require_same_run(state_with(fixed_facts(given, IMAGES, world(given))), fixed_facts(given, moved, world(given)))


def test_the_hash_of_the_images_is_that_of_all_lines_at_once():
    paths = [f"x/{number % 3}/\udcff{number}.jpg" for number in range(20_001)]  # more than two parts
    images = Split(Paths(paths), np.arange(len(paths), dtype=np.int32) % 3, ("a", "é", "c"))
    lines = "\n".join(["a", "é", "c", *(path[4:] for path in paths)])
    content = lines.encode("utf-8", "surrogateescape") + images.labels.tobytes()
    assert names_and_labels(images) == hashlib.sha256(content).hexdigest()[:8]


class RankBeside(World):
    """Rank 0 of two, beside one whose numbers are off by `off`."""

    off = 0

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        return np.stack([numbers, numbers + np.array([0, self.off])]).astype(np.float32)


def test_ranks_that_start_from_other_weights_are_told(step_of, alone, monkeypatch):
    step, beside = step_of(), RankBeside(0, 2, alone.settings)
    step.step.set_data(Tensor(2**24 + 1, step.step.dtype))  # more than float32 counts
    require_same_start(step, beside)
    monkeypatch.setattr(RankBeside, "off", 1)
    with pytest.raises(TrainingError, match="the ranks do not start from the same weights; ckpt_path, or"):
        require_same_start(step, beside)


class RankWithoutState(World):
    """Rank 0 of two, beside one that found no state."""

    def sum(self, numbers: np.ndarray) -> np.ndarray:
        return numbers

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        return np.stack([numbers, 0 * numbers]).astype(np.float32)


def test_ranks_that_do_not_find_the_same_state_are_told_before_they_go_separate_ways(tmp_path, alone, recipe):
    beside = RankWithoutState(0, 2, alone.settings)
    output = recipe(resume=True, ckpt_save_dir=tmp_path).output
    assert find_common_state(output, beside) is None
    save_state(tmp_path, {}, {"step": 0})
    with pytest.raises(UserError, match="the ranks do not find the same state to go on from; ckpt_path, or"):
        find_common_state(output, beside)
    found = find_common_state(output, alone)
    assert found
    assert found.facts == {"step": 0}


def test_a_state_from_before_exif_was_followed_is_taken_either_way_and_a_line_says_what_changes(recipe, world, log):
    for follow_exif in (True, False):
        fixed = fixed_facts(recipe(follow_exif=follow_exif), IMAGES, world(recipe()))
        require_same_run(state_with({name: value for name, value in fixed.items() if name != "follow_exif"}), fixed)
    assert len(log.messages) == 1
    assert log.messages[0].endswith("as is done from now on; --follow_exif False goes on as before")


def test_facts_of_earlier_versions_are_read_by_their_new_names(recipe, world):
    fixed = fixed_facts(recipe(), IMAGES, world(recipe()))
    earlier = {"training photos" if name == "training images" else name: value for name, value in fixed.items()}
    require_same_run(state_with(earlier), fixed)


def test_without_a_teacher_its_keys_are_free(recipe, world):
    then = state_with(fixed_facts(recipe(), IMAGES, world(recipe())) | {"teacher_share": 0.5})  # an earlier default
    require_same_run(then, fixed_facts(recipe(), IMAGES, world(recipe())))
