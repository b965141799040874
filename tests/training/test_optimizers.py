"""Two updates of each optimizer against its formula in NumPy, and which parameters decay."""

from collections.abc import Callable
from typing import Any, NamedTuple

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindcv_lite.errors import UserError
from mindcv_lite.models.block_tables import VARIANTS
from mindcv_lite.models.build import layer_of
from mindcv_lite.models.mobilenetv3 import MobileNetV3
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.training.optimizers import (
    AT_ONCE,
    OPTIMIZERS,
    RateTable,
    build_optimizer,
    parameter_groups,
    peak_rate,
)

pytestmark = pytest.mark.usefixtures("graph_mode")

RATES = (0.1, 0.03, 0.2)
START = np.array([1.0, -2.0, 3.0, 0.5], np.float32)
GRADIENTS = np.array([[0.5, 0.25, -1.0, 1e-3], [-0.25, 0.5, -0.5, 2e-3]], np.float32)
DECAY = 0.01


@pytest.fixture(scope="module")
def recipe_of(recipe) -> Callable[..., Recipe]:
    def build(opt: str, **keys: Any) -> Recipe:
        return recipe(opt=opt, lr=RATES[0], **{"weight_decay": DECAY, "eps": 1e-3} | keys)

    return build


def rate_table(rates: tuple[float, ...] = RATES) -> RateTable:
    return RateTable(lambda steps: np.array(rates)[steps], len(rates))


def parameter(name: str = "classifier.3.weight", value: np.ndarray = START) -> Parameter:
    return Parameter(Tensor(value), name=name)


# Each formula: (settings, weights, gradient, rate, number of the update from 1, state) -> weights; decay is L2's, that
# is, part of the gradient, unless the formula says otherwise.


def with_momentum(o, w, g, rate, t, state):
    g = g + DECAY * w
    v = state["v"] = o.momentum * state.get("v", 0.0) + g
    return w - rate * (g + o.momentum * v if o.use_nesterov else v)


def adam(o, w, g, rate, t, state):
    g = g + DECAY * w
    m = state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    rate = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)  # as the paper: epsilon is added before the correction
    return w - rate * (0.9 * m + 0.1 * g if o.use_nesterov else m) / (np.sqrt(v) + o.eps)


def adamw(o, w, g, rate, t, state):
    """Decoupled decay."""
    m = state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    rate = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return w - rate * (m / (np.sqrt(v) + o.eps) + DECAY * w)


def rmsprop(o, w, g, rate, t, state):
    """As TensorFlow's: the mean square starts at 1, epsilon is inside the root, the rate inside the momentum."""
    g = g + DECAY * w
    s = state["s"] = 0.9 * state.get("s", 1.0) + 0.1 * g**2
    v = state["v"] = o.momentum * state.get("v", 0.0) + rate * g / np.sqrt(s + o.eps)
    return w - v


def adagrad(o, w, g, rate, t, state):
    g = g + DECAY * w
    s = state["s"] = state.get("s", 0.1) + g**2
    return w - rate * g / np.sqrt(s)


class Case(NamedTuple):
    opt: str
    formula: Callable
    keys: dict[str, Any] = {}  # noqa: RUF012  (never changed)


CASES = [
    Case("sgd", with_momentum),
    Case("sgd", with_momentum, {"momentum": 0.0}),
    Case("sgd", with_momentum, {"use_nesterov": True}),
    Case("momentum", with_momentum),
    Case("momentum", with_momentum, {"momentum": 0.5}),
    Case("momentum", with_momentum, {"use_nesterov": True}),
    Case("adam", adam),
    Case("adam", adam, {"use_nesterov": True}),
    Case("adam", adam, {"eps": 1e-10}),
    Case("adamw", adamw),
    Case("rmsprop", rmsprop),
    Case("rmsprop", rmsprop, {"momentum": 0.0}),
    Case("adagrad", adagrad),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case.opt, *map(str, case.keys)]))
def test_two_updates_follow_the_formula_with_the_rate_of_each(case, recipe_of):
    given, weight = recipe_of(case.opt, **case.keys), parameter()
    optimizer = build_optimizer([weight], given, rate_table(), "CPU")
    expected, state = START.astype(np.float64), {}
    for number, gradient in enumerate(GRADIENTS):
        optimizer((Tensor(gradient),))
        expected = case.formula(
            given.optimizer, expected, gradient.astype(np.float64), RATES[number], number + 1, state
        )
        np.testing.assert_allclose(weight.asnumpy(), expected, rtol=1e-5, atol=1e-6)  # float32


def test_every_optimizer_that_the_cpu_has_has_a_formula_here():
    assert {case.opt for case in CASES} == set(OPTIMIZERS) - {"lamb"}


def test_lamb_is_refused_on_the_cpu_where_mindspore_lacks_it(recipe_of):
    with pytest.raises(UserError, match="opt is lamb, which MindSpore does not have on the CPU"):
        build_optimizer([parameter()], recipe_of("lamb"), rate_table(), "CPU")


def test_an_epsilon_of_zero_is_refused_by_the_recipe(recipe):
    with pytest.raises(UserError, match="eps"):
        recipe(opt="adam", eps=0)


@pytest.mark.parametrize("opt", ["sgd", "momentum"])
def test_nesterov_without_momentum_is_refused_by_the_recipe(recipe, opt):
    with pytest.raises(UserError, match="momentum"):
        recipe(opt=opt, momentum=0, use_nesterov=True)


# ------------------------------------------------------------------------------------------------------------- rates


def test_update_n_uses_rate_n_and_updates_beyond_the_last_keep_its_rate(recipe_of):
    weight = parameter()
    optimizer = build_optimizer([weight], recipe_of("sgd", momentum=0.0, weight_decay=0.0), rate_table(), "CPU")
    taken, before = [], START.astype(np.float64)
    for _ in range(5):
        optimizer((Tensor(np.ones(4, np.float32)),))
        taken.append((before - weight.asnumpy()).mean())
        before = weight.asnumpy().astype(np.float64)
    assert taken == pytest.approx([*RATES, RATES[-1], RATES[-1]], abs=1e-6)
    assert optimizer.global_step.asnumpy() == [5]


@pytest.mark.parametrize(
    ("base", "accumulated", "devices", "peak"),
    [(None, 1, 8, 0.77), (600, 1, 8, 0.77), (600, 1, 1, 0.09625), (600, 4, 2, 0.77), (600, 2, 1, 0.1925)],
)
def test_the_peak_rate_is_in_proportion_to_the_global_batch_if_a_base_is_given(
    recipe, base, accumulated, devices, peak
):
    given = recipe(lr=0.77, **({"base_batch_size": base} if base else {}))
    assert peak_rate(given.optimizer, 75 * accumulated * devices, updates=10) == pytest.approx(peak)


@pytest.mark.parametrize(("updates", "peak"), [(1, 0.02), (10, 0.2), (29, 0.58), (30, 0.6), (31, 0.6), (10**6, 0.6)])
def test_the_peak_rate_of_a_short_run_is_in_proportion_to_its_updates(recipe, updates, peak):
    given = recipe(lr=0.3, base_batch_size=16, base_updates=30)
    assert peak_rate(given.optimizer, 32, updates) == pytest.approx(peak)


def test_a_table_of_more_rates_than_are_computed_at_once_has_the_rate_of_each_update():
    calls = []

    def rate(steps: np.ndarray) -> np.ndarray:
        calls.append(len(steps))
        return 1.0 / (1 + steps)

    updates = 2 * AT_ONCE + 3
    expected = (1.0 / np.arange(1, updates + 1)).astype(np.float32)
    assert np.array_equal(RateTable(rate, updates).learning_rates.asnumpy()[:updates], expected)
    assert calls == [AT_ONCE, AT_ONCE, 3]


# ------------------------------------------------------------------------------------------------- rates by the layer

LAYER_DECAY = 0.8


def test_every_parameter_of_a_network_is_trained_with_the_rate_of_its_layer(recipe_of):
    model, head = "mobilenet_v3_small_075", 13
    # weight_decay_filter: groups by decay and by layer cross; weights of zero make the decay itself nothing.
    keys = {"layer_decay": LAYER_DECAY, "momentum": 0.0, "weight_decay_filter": "auto"}
    given = recipe_of("sgd", model=model, **keys)
    parameters = MobileNetV3(VARIANTS[model], num_classes=5).trainable_params()
    for each in parameters:
        each.set_data(Tensor(np.zeros(each.shape, np.float32)))
    optimizer = build_optimizer(parameters, given, rate_table(), "CPU")
    assert [each.name for each in optimizer.parameters] == [each.name for each in parameters]
    optimizer(tuple(Tensor(np.ones(each.shape, np.float32)) for each in parameters))
    scales = set()
    for each in parameters:
        scale = LAYER_DECAY ** (head - layer_of(each.name, model))
        np.testing.assert_allclose(each.asnumpy(), -RATES[0] * scale, rtol=1e-6, err_msg=each.name)
        scales.add(scale)
    assert len(scales) == head + 1


LAYERS = {  # of the small network: name and the number of layers above
    "features.0.weight": 13,
    "features.4.layers.0.weight": 11,
    "features.14.weight": 1,
    "classifier.3.weight": 0,
}


@pytest.mark.parametrize("opt", sorted(set(OPTIMIZERS) - {"lamb"}))
def test_every_optimizer_scales_its_updates_by_the_layer(recipe_of, opt):
    def weights_after_each_update(**keys: float) -> list[np.ndarray]:
        weights = [parameter(name, START / 10) for name in LAYERS]
        # Without decay the gradient does not depend on the weights, so that an update is in proportion to its rate.
        optimizer = build_optimizer(weights, recipe_of(opt, weight_decay=0.0, **keys), rate_table(), "CPU")
        values = [np.stack([each.asnumpy() for each in weights])]
        for gradient in GRADIENTS:
            optimizer(tuple(Tensor(gradient) for _ in weights))
            values.append(np.stack([each.asnumpy() for each in weights]))
        return values

    plain = np.diff(weights_after_each_update(), axis=0)
    scaled = np.diff(weights_after_each_update(layer_decay=LAYER_DECAY), axis=0)
    assert np.abs(plain).max((1, 2)).min() > 5e-3
    shares = np.array([LAYER_DECAY**above for above in LAYERS.values()])[:, None]
    np.testing.assert_allclose(scaled, shares * plain, rtol=1e-4, atol=2e-7)  # float32 near 0.3


# ------------------------------------------------------------------------------------------------------------- decay

KINDS = {  # by their names in MindCV: what a filter spares
    "features.0.weight": (),
    "features.1.gamma": ("auto", "norm_and_bias"),
    "features.1.beta": ("auto", "norm_and_bias"),
    "features.3.layers.3.conv_reduce.bias": ("norm_and_bias",),
    "classifier.3.weight": (),
    "classifier.3.bias": ("norm_and_bias",),
}


@pytest.mark.parametrize("opt", ["momentum", "adamw"])
@pytest.mark.parametrize("weight_decay_filter", ["disable", "auto", "norm_and_bias"])
def test_a_filter_spares_its_kinds_of_parameters_from_decay(weight_decay_filter, opt, recipe_of):
    parameters = [parameter(name) for name in KINDS]
    given = recipe_of(opt, weight_decay_filter=weight_decay_filter)
    optimizer = build_optimizer(parameters, given, rate_table(), "CPU")
    optimizer(tuple(Tensor(np.zeros(4, np.float32)) for _ in parameters))
    for name, spares in KINDS.items():
        weight = next(parameter for parameter in parameters if parameter.name == name).asnumpy()
        # The rate that MindSpore multiplies both by is that of adamw's first update, whose moments start from 0.
        rate = RATES[0] * (np.sqrt(0.001) / 0.1 if opt == "adamw" else 1)
        factor = 1 if weight_decay_filter in spares else 1 - rate * DECAY
        np.testing.assert_allclose(weight, factor * START, rtol=1e-6, err_msg=name)


def test_the_order_of_the_parameters_stays_so_that_each_gets_its_own_gradient(recipe_of):
    parameters = [parameter(name) for name in KINDS]
    given = recipe_of("sgd", momentum=0.0, weight_decay_filter="auto", weight_decay=1e-8)
    optimizer = build_optimizer(parameters, given, rate_table(), "CPU")
    assert [each.name for each in optimizer.parameters] == list(KINDS)
    optimizer(tuple(Tensor(np.full(4, index, np.float32)) for index in range(len(parameters))))
    for index, weight in enumerate(parameters):
        np.testing.assert_allclose(weight.asnumpy(), START - RATES[0] * index, atol=1e-6)


@pytest.mark.parametrize(("weight_decay_filter", "decayed"), [("disable", 142), ("auto", 74), ("norm_and_bias", 54)])
def test_filters_know_all_parameters_of_the_network(weight_decay_filter, decayed, recipe_of):
    parameters = MobileNetV3(VARIANTS["mobilenet_v3_small_100"]).trainable_params()
    given = recipe_of("momentum", weight_decay_filter=weight_decay_filter)
    groups = parameter_groups(parameters, given)
    numbers = {group["weight_decay"]: len(group["params"]) for group in groups[:-1]}
    # 142 trainable: 34 BatchNorms of two, 9 squeeze-excites of two biases, 2 dense layers of one.
    assert numbers == ({DECAY: decayed} if decayed == 142 else {DECAY: decayed, 0.0: 142 - decayed})


def test_no_decay_at_all_is_allowed(recipe_of):
    weight = parameter()
    optimizer = build_optimizer([weight], recipe_of("momentum", weight_decay=0.0), rate_table(), "CPU")
    optimizer((Tensor(np.zeros(4, np.float32)),))
    assert np.array_equal(weight.asnumpy(), START)


@pytest.mark.parametrize("opt", sorted(set(OPTIMIZERS) - {"lamb"}))
def test_optimizer_state_has_names_that_no_weight_has(opt, recipe_of):
    optimizer = build_optimizer([parameter("features.0.weight")], recipe_of(opt), rate_table(), "CPU")
    names = [each.name for each in optimizer.get_parameters()]
    assert len(names) == len(set(names))
    assert [name for name in names if name.startswith(("features.", "classifier."))] == ["features.0.weight"]


def test_graph_mode_is_on():
    assert mindspore.get_context("mode") == mindspore.GRAPH_MODE
