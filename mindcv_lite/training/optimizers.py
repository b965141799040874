"""MindSpore's optimizers by their recipe names, and which parameters weight decay spares."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from mindcv_lite.errors import UserError
from mindcv_lite.models.build import layer_names, layer_of
from mindcv_lite.models.quantised import LOG_SCALE
from mindcv_lite.recipe.keys import Optimizer, Recipe

# MindSpore's class of each, and its own settings.
OPTIMIZERS: dict[str, Callable[[Optimizer], tuple[type[Any], dict[str, float | bool]]]] = {
    "sgd": lambda o: (nn.SGD, {"momentum": o.momentum, "nesterov": o.use_nesterov}),
    # On the CPU nn.Momentum passes over use_nesterov without a word; nn.SGD does it everywhere.
    "momentum": lambda o: (
        (nn.SGD, {"momentum": o.momentum, "nesterov": True})
        if o.use_nesterov
        else (nn.Momentum, {"momentum": o.momentum})
    ),
    "adam": lambda o: (nn.Adam, {"eps": o.eps, "use_nesterov": o.use_nesterov}),
    "adamw": lambda o: (nn.AdamWeightDecay, {"eps": o.eps}),
    "rmsprop": lambda o: (nn.RMSProp, {"momentum": o.momentum, "epsilon": o.eps}),
    "adagrad": lambda o: (nn.Adagrad, {}),
    "lamb": lambda o: (nn.Lamb, {"eps": o.eps}),
}

RATES = "learning_rates"  # what the names of their parameters end in
AT_ONCE = 2**16  # rates that are computed at once: millions in float64 take hundreds of MB
# What weight decay spares, by the endings of MindSpore's parameter names (gamma and beta are BatchNorm's).
SPARED = {"disable": (), "auto": ("gamma", "beta"), "norm_and_bias": ("gamma", "beta", "bias")}


def peak_rate(settings: Optimizer, global_batch: int, updates: int) -> float:
    """The peak learning rate of a run: lr, in proportion to the global batch if the recipe names a base_batch_size, and
    to the updates of the run if they are fewer than its base_updates."""
    rate = settings.lr
    if base := settings.base_batch_size:
        rate *= global_batch / base
    if base := settings.base_updates:
        rate *= min(1.0, updates / base)
    return rate


def layer_share(layer: int, recipe: Recipe) -> float:
    """The share of the rate that a layer of the network is trained with: `layer_decay` for each layer above it."""
    head = len(layer_names(recipe.model.model)) - 1
    return (recipe.optimizer.layer_decay or 1.0) ** (head - layer)


class RateTable(LearningRateSchedule):
    """The learning rate of each update, looked up by the optimizer's own step count.

    `rate`: of an array of updates, counted from 0.
    """

    def __init__(self, rate: Callable[[np.ndarray], np.ndarray | float], updates: int):
        super().__init__()
        rates = np.empty(updates, np.float32)
        for first in range(0, updates, AT_ONCE):
            part = rates[first : first + AT_ONCE]
            part[:] = rate(np.arange(first, first + len(part)))
        # A parameter, of one of few lengths: a graph that was kept serves another schedule, too.
        self.length = max(2**10, 2 ** math.ceil(math.log2(updates)))
        padded = np.pad(rates, (0, self.length - updates), "edge")
        self.learning_rates = Parameter(Tensor(padded), RATES, requires_grad=False)

    def construct(self, global_step: Tensor) -> Tensor:
        return ops.gather(self.learning_rates, ops.minimum(global_step, self.length - 1), 0)

    def times(self, factor: Callable[[np.ndarray], np.ndarray]) -> "RateTable":
        """The table with each rate times the factor of its update."""
        rates = self.learning_rates.asnumpy()
        return RateTable(lambda updates: rates[updates] * factor(updates), self.length)


def _bias_correction(update: np.ndarray) -> np.ndarray:
    """The factor of Adam's rate that makes up for moments that start from 0, in their efficient order (Kingma and Ba
    2015, https://arxiv.org/abs/1412.6980, section 2); updates are counted from 0.

    MindSpore multiplies weight decay by the same rate, so that it too begins weaker.
    """
    count = update + 1
    return np.sqrt(1 - 0.999**count) / (1 - 0.9**count)


class LayerRates:
    """Comes before an optimizer's class: the rate of each parameter is a share of one, which is looked up once.

    MindSpore would look it up for each parameter, and take as long to compile that as all else of the step.
    """

    rate: RateTable
    shares: tuple[float, ...]  # of the parameters, in their order
    each: ops.HyperMap

    def get_lr(self) -> tuple[Tensor, ...]:
        # pyrefly: ignore [missing-attribute]  (the optimizer's)
        rate = self.rate(self.global_step).reshape(())
        return self.each(ops.partial(times, rate), self.shares)


def times(rate: Tensor, share: float) -> Tensor:
    return rate * share


def build_optimizer(parameters: Sequence[Parameter], recipe: Recipe, rate: RateTable, target: str) -> nn.Optimizer:
    """The optimizer of a recipe over the trainable `parameters`. Raises `UserError` if `target` does not have it."""
    settings = recipe.optimizer
    if settings.opt == "lamb" and target == "CPU":
        raise UserError("opt is lamb, which MindSpore does not have on the CPU; use adamw")
    if settings.opt == "adamw":  # MindSpore leaves its first updates up to 6.6 times too long
        rate = rate.times(_bias_correction)
    kind, options = OPTIMIZERS[settings.opt](settings)
    groups = parameter_groups(parameters, recipe)
    if not settings.layer_decay:
        return kind(groups, learning_rate=rate, **options)
    for group in groups[:-1]:
        group["lr"] = rate  # so that MindSpore takes a rate for each parameter
    optimizer = type(kind.__name__, (LayerRates, kind), {})(groups, learning_rate=rate, **options)
    optimizer.rate, optimizer.each = rate, ops.HyperMap()
    optimizer.shares = tuple(layer_share(layer_of(each.name, recipe.model.model), recipe) for each in parameters)
    return optimizer


def parameter_groups(parameters: Sequence[Parameter], recipe: Recipe) -> list[dict]:
    """`parameters` with the weight decay of each, in MindSpore's form; their order stays."""
    spared = SPARED[recipe.optimizer.weight_decay_filter]
    groups: dict[float, list[Parameter]] = {}
    for parameter in parameters:
        decay = 0.0 if parameter.name.endswith((*spared, LOG_SCALE)) else recipe.optimizer.weight_decay
        groups.setdefault(decay, []).append(parameter)
    return [{"params": members, "weight_decay": decay} for decay, members in groups.items()] + [
        {"order_params": list(parameters)}
    ]
