"""MindSpore's optimizers by their recipe names, and which parameters weight decay spares."""

from collections.abc import Callable, Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from mindcv_lite import recipe
from mindcv_lite.errors import UserError

OPTIMIZERS: dict[str, Callable[..., nn.Optimizer]] = {
    "sgd": lambda groups, rate, o: nn.SGD(groups, rate, o.momentum, nesterov=o.use_nesterov),
    # On the CPU nn.Momentum passes over use_nesterov without a word; nn.SGD does it everywhere.
    "momentum": lambda groups, rate, o: (
        nn.SGD(groups, rate, o.momentum, nesterov=True) if o.use_nesterov else nn.Momentum(groups, rate, o.momentum)
    ),
    "adam": lambda groups, rate, o: nn.Adam(groups, rate, eps=o.eps, use_nesterov=o.use_nesterov),
    "adamw": lambda groups, rate, o: nn.AdamWeightDecay(groups, rate, eps=o.eps),
    "rmsprop": lambda groups, rate, o: nn.RMSProp(groups, rate, momentum=o.momentum, epsilon=o.eps),
    "adagrad": lambda groups, rate, o: nn.Adagrad(groups, learning_rate=rate),
    "lamb": lambda groups, rate, o: nn.Lamb(groups, rate, eps=o.eps),
}

# What weight decay spares, by the endings of MindSpore's parameter names (gamma and beta are BatchNorm's).
SPARED = {"disable": (), "auto": ("gamma", "beta"), "norm_and_bias": ("gamma", "beta", "bias")}


def peak_rate(settings: recipe.Optimizer, batch_size: int, devices: int) -> float:
    """The peak learning rate of a run: lr, in proportion to the global batch if the recipe names a base_batch_size."""
    base = settings.base_batch_size
    return settings.lr * batch_size * devices / base if base else settings.lr


class RateTable(LearningRateSchedule):
    """The learning rate of each update, looked up by the optimizer's own step count."""

    def __init__(self, rate: Callable[[int], float], updates: int):
        super().__init__()
        self.rates = Tensor(np.array([rate(step) for step in range(updates)], np.float32))
        self.last = updates - 1

    def construct(self, global_step: Tensor) -> Tensor:
        return ops.gather(self.rates, ops.minimum(global_step, self.last), 0)


def build_optimizer(
    parameters: Sequence[Parameter], settings: recipe.Optimizer, rate: RateTable, target: str
) -> nn.Optimizer:
    """The optimizer of a recipe over the trainable `parameters`. Raises `UserError` if `target` does not have it."""
    if settings.opt not in OPTIMIZERS:
        raise UserError(
            f"opt is {settings.opt}, which MindSpore's nn does not have; use one of {', '.join(OPTIMIZERS)}"
        )
    if settings.opt == "lamb" and target == "CPU":
        raise UserError("opt is lamb, which MindSpore does not have on the CPU; use adamw")
    return OPTIMIZERS[settings.opt](decay_groups(parameters, settings), rate, settings)


def decay_groups(parameters: Sequence[Parameter], settings: recipe.Optimizer) -> list[dict]:
    """`parameters` with the weight decay of each, in MindSpore's form; their order stays."""
    spared = SPARED[settings.weight_decay_filter]
    decayed = [parameter for parameter in parameters if not parameter.name.endswith(spared)]
    others = [parameter for parameter in parameters if parameter.name.endswith(spared)]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]] + [{"order_params": list(parameters)}]
