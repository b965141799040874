"""A BatchNorm with the activation behind it, of the CPU kernels; its parameters are those of any
other."""

from collections.abc import Callable
from pathlib import Path

from mindspore import Tensor, dtype, nn, ops

ACTIVATIONS: dict[type[nn.Cell] | None, str] = {None: "linear", nn.ReLU: "relu", nn.HSwish: "hswish"}


class BatchNormAct2d(nn.BatchNorm2d):
    """float32 (batch, channels, height, width) -> the same.

    Where it is not trained but what comes before is, as in a frozen row, it computes with MindSpore's operators. What
    is no number stays so, where MindSpore's ReLU makes it 0.
    """

    def __init__(self, library: Path, channels: int, eps: float, momentum: float, activation: type[nn.Cell] | None):
        # pyrefly: ignore [bad-argument-count, unexpected-keyword]  (MindSpore's decorator hides the signature)
        super().__init__(channels, eps=eps, momentum=momentum)
        name = f"{library}:norm_{{}}_{ACTIVATIONS[activation]}"
        self.train_and_normalise = in_training(name)
        self.normalise = ops.Custom(name.format("evaluate"), *[lambda x, *_: x] * 2, func_type="aot")
        self.activation = activation() if activation else nn.Identity()
        self.epsilon = Tensor([eps], dtype.float32)

    def construct(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.normalise(x, self.gamma, self.beta, self.moving_mean, self.moving_variance, self.epsilon)
        if self.use_batch_statistics is not None:
            return self.activation(super().construct(x))
        # pyrefly: ignore [not-iterable]
        y, mean, variance = self.train_and_normalise(x, self.gamma, self.beta, self.epsilon)
        batch, _, height, width = x.shape
        count, share = batch * height * width, self.momentum  # of the new statistics
        ops.assign(self.moving_mean, (1 - share) * self.moving_mean + share * mean)
        # A single value has none: 0 / 0, which is no number, for MindSpore's BatchNorm too.
        unbiased = variance * (count / (count - 1)) if count > 1 else variance / 0.0
        ops.assign(self.moving_variance, (1 - share) * self.moving_variance + share * unbiased)
        return y


def in_training(name: str) -> ops.Custom:
    """x (batch, channels, height, width), gamma, beta (channels,), epsilon (1,) -> y, mean and variance of the batch,
    with the gradients of y. `name`: of the operators, but for their task."""

    def custom(task: str, outputs: Callable, bprop: Callable | None = None) -> ops.Custom:
        return ops.Custom(name.format(task), outputs, outputs, func_type="aot", bprop=bprop)

    gradient = custom("gradient", lambda dy, x, gamma, beta, *_: (x, gamma, beta))

    def bprop(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: Tensor, out: tuple, dout: tuple) -> tuple:
        _, mean, variance = out
        # pyrefly: ignore [not-iterable]
        return *gradient(dout[0], x, gamma, beta, mean, variance, epsilon), ops.zeros_like(epsilon)

    return custom("train", lambda x, gamma, beta, _: (x, gamma, beta), bprop)


def batch_norm_act(
    library: Path, channels: int, eps: float, momentum: float, activation: type[nn.Cell] | None
) -> list[nn.Cell]:
    """The BatchNorm, and an identity in place of the activation that it contains."""
    norm = BatchNormAct2d(library, channels, eps, momentum, activation)
    return [norm, nn.Identity()] if activation else [norm]
