"""From the network that is trained to the one that is scored and saved, on the device, in one graph."""

import mindspore
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindcv_lite.device import World


class Publish(nn.Cell):
    """Copy the trained weights to the published network; of BatchNorm statistics, the mean over all ranks.

    The mean also replaces each rank's own statistics, so that all ranks go on from the same network. It is a graph
    because a device that runs whole epochs on its own may not see what the host writes into parameters.

    `parameters`: the published parameters by the names they have in a checkpoint.
    """

    def __init__(self, trained: nn.Cell, published: nn.Cell, world: World):
        super().__init__(auto_prefix=False)
        self.parameters: dict[str, Parameter] = published.parameters_dict()
        published.update_parameters_name("published.")  # the graph holds both networks, and wants unique names
        names = [parameter.name for parameter in trained.get_parameters()]
        weights = [name for name in names if not is_statistic(name)]
        statistics = [name for name in names if is_statistic(name)]
        of_trained = trained.parameters_dict()
        self.weights = ParameterTuple(of_trained[name] for name in weights)
        self.statistics = ParameterTuple(of_trained[name] for name in statistics)
        self.published_weights = ParameterTuple(self.parameters[name] for name in weights)
        self.published_statistics = ParameterTuple(self.parameters[name] for name in statistics)
        self.sum_over_ranks = ops.AllReduce() if world.size > 1 else ops.identity
        self.size = world.size

    def construct(self) -> Tensor:
        done = Tensor(0, mindspore.int32)
        for weight, target in zip(self.weights, self.published_weights):  # noqa: B905  (graphs know no strict=)
            done = ops.depend(done, ops.assign(target, weight))
        for statistic, target in zip(self.statistics, self.published_statistics):  # noqa: B905
            mean = ops.div(self.sum_over_ranks(statistic), self.size)
            done = ops.depend(done, ops.assign(target, mean))
            done = ops.depend(done, ops.assign(statistic, mean))
        return done


def is_statistic(name: str) -> bool:
    """Whether a parameter is one of the statistics that a BatchNorm gathers, not a trained weight."""
    return name.endswith(("moving_mean", "moving_variance"))
