"""One training step as one graph: normalise, forward, loss, gradients, mean over devices, update."""

from mindspore import Parameter, Tensor, amp, dtype, nn, ops

from mindcv_lite.data.normalize import Normalize
from mindcv_lite.device import World
from mindcv_lite.recipe import Precision, Recipe
from mindcv_lite.training.losses import LOSSES, soft_targets


class TrainStep(nn.Cell):
    """images uint8 (batch, height, width, channels), labels int32 (batch,), weights float32 (batch,) -> loss.

    The device keeps count, so that one that runs a whole epoch on its own reports the same as one that does not:
    `loss_sum` since the epoch began, and in `broken_step` the first step whose loss was not finite (-1: none).
    """

    def __init__(self, network: nn.Cell, optimizer: nn.Optimizer, recipe: Recipe, world: World, steps_per_epoch: int):
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.normalize = Normalize(recipe.augmentation.mean, recipe.augmentation.std)
        self.loss = LOSSES[recipe.loss.loss]
        self.label_smoothing = recipe.loss.label_smoothing
        self.gradients = ops.value_and_grad(self.scaled_loss, None, optimizer.parameters, has_aux=True)
        self.mean_over_devices = (
            nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=world.size) if world.size > 1 else None
        )
        self.scaler = loss_scaler(recipe.precision)
        self.skips_overflow = recipe.precision.loss_scale_type == "dynamic" or recipe.precision.drop_overflow_update
        self.steps_per_epoch = steps_per_epoch
        self.loss_sum = counter(0.0, "loss_sum")
        self.skipped = counter(0, "skipped")
        self.step = counter(0, "step")
        self.broken_step = counter(-1, "broken_step")

    def scaled_loss(self, images: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(self.normalize(images)).float()  # (batch, classes)
        targets = soft_targets(labels, logits.shape[1], self.label_smoothing)
        loss = (self.loss(logits, targets) * weights).mean()
        return self.scaler.scale(loss), loss

    def construct(self, images: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        (_, loss), gradients = self.gradients(images, labels, weights)
        if self.mean_over_devices is not None:
            gradients = self.mean_over_devices(gradients)
        gradients = self.scaler.unscale(gradients)
        loss = self.count(loss)
        if self.skips_overflow:
            finite = amp.all_finite(gradients)
            self.scaler.adjust(finite)
            if finite:
                loss = ops.depend(loss, self.optimizer(gradients))
            else:
                loss = ops.depend(loss, ops.assign_add(self.skipped, 1))
        else:
            loss = ops.depend(loss, self.optimizer(gradients))
        return loss

    def count(self, loss: Tensor) -> Tensor:
        broken = ops.logical_and(ops.logical_not(ops.isfinite(loss)), self.broken_step < 0)
        loss = ops.depend(loss, ops.assign(self.broken_step, ops.select(broken, self.step, self.broken_step)))
        begins = self.step % self.steps_per_epoch == 0
        loss_sum = ops.select(begins, ops.zeros_like(loss), self.loss_sum) + loss
        loss = ops.depend(loss, ops.assign(self.loss_sum, loss_sum))
        return ops.depend(loss, ops.assign_add(self.step, 1))


def counter(start: float, name: str) -> Parameter:
    """A number that the graph itself keeps."""
    kind = dtype.float32 if isinstance(start, float) else dtype.int32
    return Parameter(Tensor(start, kind), name=f"train_step.{name}", requires_grad=False)


def loss_scaler(precision: Precision) -> amp.LossScaler:
    """Fixed, or halved on overflow and doubled after 2000 updates without one."""
    if precision.loss_scale_type == "dynamic":
        return amp.DynamicLossScaler(precision.loss_scale, scale_factor=2, scale_window=2000)
    return amp.StaticLossScaler(precision.loss_scale)
