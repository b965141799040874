"""The exponential moving average of the weights, which often scores better than the weights themselves."""

from pathlib import Path

from mindspore import Parameter, ParameterTuple, Tensor, dtype, nn, ops

from mindcv_lite.cpu_kernels import moving_average


class MovingAverage(nn.Cell):
    """An average of all parameters of `network`, statistics included, that each update moves by a share of 1 - decay.

    As TensorFlow's ExponentialMovingAverage with num_updates (the paper's), the first updates move it further, so
    that a short run does not average over its random start.
    """

    def __init__(self, network: nn.Cell, decay: float, cpu_kernels: Path | None = None):
        """`cpu_kernels`: the compiled library that moves all at once, on a CPU that has one."""
        super().__init__(auto_prefix=False)
        self.decay = Tensor(decay, dtype.float32)
        self.names = [parameter.name for parameter in network.get_parameters()]
        self.weights = ParameterTuple(network.get_parameters())
        self.averages = self.weights.clone("ema", init="same")
        self.each = ops.HyperMap()
        for average in self.averages:
            average.requires_grad = False
        self.all_moved = moving_average.operator(cpu_kernels, len(self.names)) if cpu_kernels else None

    # pyrefly: ignore [bad-override]
    def construct(self, updates: Tensor) -> tuple[Tensor, ...]:
        """`updates`: made so far, the last one included; int32 (1,)."""
        updates = updates.float().reshape(())
        decay = ops.minimum(self.decay, (1 + updates) / (10 + updates))
        share = 1 - decay
        if self.all_moved is not None:
            return self.each(ops.assign, self.averages, self.all_moved(share.reshape(1), *self.averages, *self.weights))
        return self.each(ops.partial(move, share), self.averages, self.weights)

    def of(self) -> dict[str, Parameter]:
        """The averages by the names of what they average."""
        return dict(zip(self.names, self.averages, strict=True))


def move(share: Tensor, average: Parameter, weight: Parameter) -> Tensor:
    # Written so that an average of what does not move, does not move by a bit either.
    return ops.assign_add(average, share * (weight - average))
