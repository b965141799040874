"""One training step as one graph: normalise, forward, loss, gradients; after some steps, an update by their mean."""

from mindspore import Parameter, ParameterTuple, Tensor, amp, dtype, jit_class, nn, ops

from mindcv_lite.data.sharding import noise_seed
from mindcv_lite.data.transforms.batch_transforms import Preparation
from mindcv_lite.device.ranks import World
from mindcv_lite.losses import LOSSES, distillation
from mindcv_lite.recipe.keys import Precision, Recipe
from mindcv_lite.training.distillation import Teachers
from mindcv_lite.training.ema import MovingAverage


class TrainStep(nn.Cell):
    """images uint8 (batch, height, width, channels), labels int32 (batch,), weights float32 (batch,), and what the host
    drew for augmentation -> loss.

    The device keeps count, so that one that runs a whole epoch on its own reports the same as one that does not:
    `loss_sum` since the epoch began, and in `broken_step` the first step whose loss was not finite (-1: none).
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Optimizer,
        recipe: Recipe,
        world: World,
        steps_per_epoch: int,
        teachers: Teachers | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.prepare = Preparation(recipe, world.cpu_kernels)
        self.loss = LOSSES[recipe.loss.loss]
        self.teachers = teachers
        self.share, self.temperature = recipe.loss.teacher_share, recipe.loss.teacher_temperature
        self.gradients = ops.value_and_grad(self.scaled_loss, None, optimizer.parameters, has_aux=True)
        self.accumulate = Accumulation(optimizer, recipe.optimizer.gradient_accumulation_steps, steps_per_epoch)
        self.mean_over_devices = (
            nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=world.size) if world.size > 1 else None
        )
        self.sum_over_ranks = ops.AllReduce() if world.size > 1 else None
        self.scaler = loss_scaler(recipe.precision)
        # A scaler is no cell, and a graph that was kept finds the parameters of its cell only: others hold any number.
        self.loss_scale = self.scaler.scale_value
        if isinstance(self.scaler, amp.DynamicLossScaler):
            self.steps_without_overflow = self.scaler.counter
        self.skips_overflow = recipe.precision.loss_scale_type == "dynamic" or recipe.precision.drop_overflow_update
        self.clip = Clip(recipe.optimizer.clip_value) if recipe.optimizer.clip_grad else None
        decay, kernels = recipe.optimizer.ema_decay, world.cpu_kernels
        self.average = MovingAverage(network, decay, kernels) if recipe.optimizer.ema else None
        self.steps_per_epoch = steps_per_epoch
        self.first_seed, self.rank, self.size = noise_seed(recipe.system.seed), world.rank, world.size
        self.loss_sum = counter(0.0, "loss_sum")
        self.skipped = counter(0, "skipped")
        self.step = counter(0, "step")
        self.broken_step = counter(-1, "broken_step")

    def scaled_loss(
        self, images: Tensor, targets: Tensor, soft: Tensor, weights: Tensor, seed: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = self.network(images, seed).float()  # (batch, classes)
        losses = self.loss(logits, targets)  # (batch,)
        if self.teachers is not None:
            losses = losses * (1 - self.share) + distillation(logits, soft, self.temperature) * self.share
        loss = (losses * weights).mean()
        return self.scaler.scale(loss), loss

    def construct(self, images: Tensor, labels: Tensor, weights: Tensor, *drawn: Tensor) -> Tensor:
        seed = self.step * self.size + self.rank + self.first_seed
        images, targets = self.prepare(images, labels, drawn, seed)
        # Out of what is differentiated: a teacher has no gradients.
        soft = targets if self.teachers is None else self.teachers(images)
        (_, loss), gradients = self.gradients(images, targets, soft, weights, seed)
        if self.accumulate.steps == 1:
            loss = self.update(loss, gradients)
        else:
            position = self.step % self.steps_per_epoch
            loss = ops.depend(loss, self.accumulate.add(gradients, position))
            if self.accumulate.is_whole(position):
                loss = self.update(loss, self.accumulate.mean(position))
        return self.count(loss)

    @property
    def steps_done(self) -> int:
        """Since the run began; waits for the device."""
        return int(self.step.asnumpy())

    def update(self, loss: Tensor, gradients: tuple[Tensor, ...]) -> Tensor:
        if self.mean_over_devices is not None:
            gradients = self.mean_over_devices(gradients)
        gradients = self.scaler.unscale(gradients)
        if self.skips_overflow:
            finite = self.on_all_ranks(amp.all_finite(gradients))
            self.scaler.adjust(finite)
            if finite:  # noqa: SIM108  (a graph takes branches, not choices)
                loss = self.update_weights(loss, gradients)
            else:
                loss = ops.depend(loss, ops.assign_add(self.skipped, 1))
        else:
            loss = self.update_weights(loss, gradients)
        return loss

    def on_all_ranks(self, holds: Tensor) -> Tensor:
        """Some Ascends find an overflow in a register of their own, not in the gradients that all have in common."""
        if self.sum_over_ranks is None:
            return holds
        return self.sum_over_ranks(1.0 - holds.float()) == 0

    def update_weights(self, loss: Tensor, gradients: tuple[Tensor, ...]) -> Tensor:
        if self.clip is not None:
            gradients = self.clip(gradients)
        loss = ops.depend(loss, self.optimizer(gradients))
        if self.average is not None:
            loss = ops.depend(loss, self.average(self.optimizer.global_step))
        return loss

    def count(self, loss: Tensor) -> Tensor:
        broken = ops.logical_and(ops.logical_not(ops.isfinite(loss)), self.broken_step < 0)
        loss = ops.depend(loss, ops.assign(self.broken_step, ops.select(broken, self.step, self.broken_step)))
        begins = self.step % self.steps_per_epoch == 0
        loss_sum = ops.select(begins, ops.zeros_like(loss), self.loss_sum) + loss
        loss = ops.depend(loss, ops.assign(self.loss_sum, loss_sum))
        return ops.depend(loss, ops.assign_add(self.step, 1))


class Accumulation(nn.Cell):
    """The mean gradient of `steps` steps, or of as many as an epoch has left: an epoch is a whole number of updates."""

    def __init__(self, optimizer: nn.Optimizer, steps: int, steps_per_epoch: int):
        super().__init__(auto_prefix=False)
        self.steps, self.last = steps, steps_per_epoch - 1
        self.each = ops.HyperMap()
        self.sums = ParameterTuple(optimizer.parameters).clone("accumulated", init="zeros") if steps > 1 else ()

    def add(self, gradients: tuple[Tensor, ...], position: Tensor) -> tuple[Tensor, ...]:
        """`position`: of the step in its epoch, from 0."""
        begins = position % self.steps == 0
        return self.each(ops.partial(add_to_sum, begins), self.sums, gradients)

    def is_whole(self, position: Tensor) -> Tensor:
        return ops.logical_or((position + 1) % self.steps == 0, position == self.last)

    def mean(self, position: Tensor) -> tuple[Tensor, ...]:
        share = 1.0 / (position % self.steps + 1).float()
        return self.each(ops.partial(scaled, share), self.sums)


def add_to_sum(begins: Tensor, total: Parameter, gradient: Tensor) -> Tensor:
    return ops.assign(total, ops.select(begins, gradient, total + gradient))


class Clip(nn.Cell):
    """Gradients scaled down together until the norm of all their numbers is at most `largest_norm`."""

    def __init__(self, largest_norm: float):
        super().__init__()
        self.largest_norm = largest_norm
        self.each = ops.HyperMap()

    # pyrefly: ignore [bad-override]
    def construct(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        norm = ops.sqrt(ops.addn(self.each(sum_of_squares, gradients)))
        share = ops.minimum(self.largest_norm / norm, Tensor(1.0, dtype.float32))
        return self.each(ops.partial(scaled, share), gradients)


sum_all = ops.ReduceSum()


def sum_of_squares(x: Tensor) -> Tensor:
    return sum_all(ops.square(x), ())


def scaled(share: Tensor, x: Tensor) -> Tensor:
    return x * share


def counter(start: float, name: str) -> Parameter:
    """A number that the graph itself keeps."""
    kind = dtype.float32 if isinstance(start, float) else dtype.int32
    return Parameter(Tensor(start, kind), name=f"train_step.{name}", requires_grad=False)


@jit_class
class DynamicLossScaler(amp.DynamicLossScaler):
    """MindSpore's, but for a product of int32 and bool, whose types an accelerator would have to make equal."""

    # pyrefly: ignore [bad-override]
    def adjust(self, grads_finite: Tensor) -> None:
        scale = self.scale_value
        larger = scale * self.scale_factor
        raised = ops.logical_and(self.counter == self.scale_window - 1, ops.isfinite(larger))
        lowered = ops.maximum(scale / self.scale_factor, Tensor(1.0, dtype.float32))
        ops.assign(self.scale_value, ops.select(grads_finite, ops.select(raised, larger, scale), lowered))
        counted = (self.counter + 1) % self.scale_window
        ops.assign(self.counter, ops.select(grads_finite, counted, ops.zeros_like(counted)))


@jit_class
class NoLossScaler(amp.StaticLossScaler):
    """A factor of 1, by which no gradient need be divided."""

    # pyrefly: ignore [bad-override]
    def unscale(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return gradients


def loss_scaler(precision: Precision) -> amp.StaticLossScaler | amp.DynamicLossScaler:
    """Fixed, or halved on overflow and doubled after 2000 updates without one."""
    if precision.loss_scale_type == "dynamic":
        return DynamicLossScaler(precision.loss_scale, scale_factor=2, scale_window=2000)
    return (NoLossScaler if precision.loss_scale == 1 else amp.StaticLossScaler)(precision.loss_scale)
