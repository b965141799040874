"""From the network that is trained to the one that is scored and saved, on the device, in one graph."""

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindcv_lite.device.ranks import World
from mindcv_lite.models.build import moving_statistics
from mindcv_lite.training.ema import MovingAverage


class EvalCopy(nn.Cell):
    """Copy the trained weights, or their average, to the network that is scored and saved; moving statistics as their
    mean over the ranks.

    The mean also replaces each rank's own statistics, so that all ranks go on from the same network. It is a graph
    because a device that runs whole epochs on its own may not see what the host writes into parameters.

    `parameters`: its parameters by the names they have in a checkpoint.
    """

    def __init__(self, trained: nn.Cell, average: MovingAverage | None, eval_network: nn.Cell, world: World):
        super().__init__(auto_prefix=False)
        self.parameters: dict[str, Parameter] = eval_network.parameters_dict()
        eval_network.update_parameters_name("eval_network.")  # the graph holds both networks, and wants unique names
        source = average.of() if average else trained.parameters_dict()
        statistics = moving_statistics(trained) if world.size > 1 else []  # one rank's are their own mean
        means = [statistic.name for statistic in statistics]
        copies = [name for name in self.parameters if name not in means]
        self.copied = ParameterTuple(source[name] for name in copies)
        self.copies = ParameterTuple(self.parameters[name] for name in copies)
        self.averaged = ParameterTuple(source[name] for name in means)
        self.means = ParameterTuple(self.parameters[name] for name in means)
        self.others = ParameterTuple(statistics if average else [])  # of the trained network, not copied
        self.sum_over_ranks = ops.AllReduce() if world.size > 1 else ops.identity
        self.size = float(world.size)
        self.each = ops.HyperMap()

    def construct(self) -> Tensor:
        done = self.copied[-1].sum()  # a device may leave out what a constant waits for
        done = ops.depend(done, self.each(ops.assign, self.copies, self.copied))  # too many for a loop
        for statistic, target in zip(self.averaged, self.means):  # noqa: B905  (graphs know no strict=)
            mean = self.mean_over_ranks(statistic)
            done = ops.depend(done, ops.assign(target, mean))
            done = ops.depend(done, ops.assign(statistic, mean))
        for statistic in self.others:
            done = ops.depend(done, ops.assign(statistic, self.mean_over_ranks(statistic)))
        return done

    def mean_over_ranks(self, statistic: Parameter) -> Tensor:
        # pyrefly: ignore [unsupported-operation]  (MindSpore does not say what its primitives return)
        return self.sum_over_ranks(statistic) / self.size
