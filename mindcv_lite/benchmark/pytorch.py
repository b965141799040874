"""timm's network in PyTorch: what it takes for a step and for inference, and a whole training.

As a program, it trains by the recipe that it is given: `python -m mindcv_lite.benchmark.pytorch recipe.yaml`.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mindcv_lite.benchmark.rounds import OF_A_BATCH, OF_ONE, STEP, NoNetwork, Work
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.load import load_recipe


def works(recipe: Recipe, images: np.ndarray, labels: np.ndarray, channels_last: bool) -> dict[str, Work]:
    """`images`: normalised, float32 (batch, channels, height, width); `labels`: int32 (batch,)."""
    import torch

    x, y = torch.from_numpy(images), torch.from_numpy(labels).long()
    step = TrainingStep(recipe, channels_last, lr=0.0)
    network, x = network_of(recipe).to(memory_format=step.layout).eval(), x.to(memory_format=step.layout)

    def steps() -> Work:
        while True:
            step(x, y)
            yield len(x)

    def inference(x: Any) -> Work:
        while True:
            with torch.inference_mode():
                network(x)
            yield len(x)

    return {STEP: steps(), OF_A_BATCH: inference(x), OF_ONE: inference(x[:1])}


def network_of(recipe: Recipe) -> Any:
    """timm's network of the recipe's name, freshly drawn. Raises `NoNetwork` if it has none."""
    import timm

    model = recipe.model
    name = model.model.replace("mobilenet_v3", "mobilenetv3").replace("minimalistic", "minimal").replace("_timm", "")
    known = next(filter(timm.is_model, (name, f"tf_{name}")), None)
    if not known:
        raise NoNetwork(f"timm has no {name}")
    return timm.create_model(
        known, num_classes=model.num_classes, in_chans=model.in_channels, drop_rate=model.drop_rate
    )


class TrainingStep:
    """By the recipe's optimizer, rates by layer and average of the weights, as timm has them; labels smoothed."""

    def __init__(self, recipe: Recipe, channels_last: bool, lr: float):
        import torch
        from timm import optim, utils

        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network_of(recipe).to(memory_format=self.layout).train()
        given = recipe.optimizer
        # To timm, `sgd` is with Nesterov's momentum and `momentum` without, whatever use_nesterov says.
        name = ("momentum", "sgd")[given.use_nesterov] if given.opt in ("sgd", "momentum") else given.opt
        decay = {"weight_decay": given.weight_decay, "layer_decay": given.layer_decay}
        self.optimizer = optim.create_optimizer_v2(self.network, name, lr, momentum=given.momentum, **decay)
        for group in self.optimizer.param_groups:  # timm leaves their shares of the rate to its schedules
            group["lr"] *= group.get("lr_scale", 1.0)
        self.updates = 0
        self.average = utils.ModelEmaV3(self.network, given.ema_decay, use_warmup=True) if given.ema else None
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=recipe.loss.label_smoothing)

    @property
    def scored(self) -> Any:
        """The network that is scored and saved."""
        return self.average.module if self.average else self.network

    def __call__(self, images: Any, labels: Any) -> None:
        self.optimizer.zero_grad()
        self.loss(self.network(images), labels).backward()
        self.optimizer.step()
        self.updates += 1
        if self.average:
            self.average.update(self.network, self.updates)


def train(recipe: Recipe) -> None:
    """Train on class folders by timm's loader, in the layout `channels_last`; after each epoch count what is right of
    the validation split, and save the weights."""
    import torch

    training = batches(recipe, recipe.data.train_split, is_training=True)
    validation = batches(recipe, recipe.data.val_split, is_training=False)
    step = TrainingStep(recipe, True, recipe.optimizer.lr)
    for epoch in range(recipe.schedule.epoch_size):
        for images, labels in training:
            step(images.to(memory_format=step.layout), labels)
        right, count = 0, 0
        step.scored.eval()
        with torch.inference_mode():
            for images, labels in validation:
                right += int((step.scored(images.to(memory_format=step.layout)).argmax(1) == labels).sum())
                count += len(labels)
        step.network.train()
        print(f"epoch {epoch + 1}: {right} of {count} right", flush=True)
        torch.save(step.scored.state_dict(), Path(recipe.output.ckpt_save_dir, f"{epoch + 1}.pth"))


def batches(recipe: Recipe, split: str, is_training: bool) -> Iterable[Any]:
    """timm's loader over the split, with a process for each core."""
    import timm

    augmentation = recipe.augmentation
    return timm.data.create_loader(
        timm.data.ImageDataset(str(Path(recipe.data.data_dir, split))),
        (recipe.model.in_channels, *augmentation.input_size),
        recipe.data.batch_size,
        is_training,
        use_prefetcher=False,
        scale=augmentation.scale,
        ratio=augmentation.ratio,
        hflip=augmentation.hflip,
        color_jitter=augmentation.color_jitter,
        interpolation=augmentation.interpolation,
        mean=[value / 255 for value in augmentation.mean],
        std=[value / 255 for value in augmentation.std],
        crop_pct=augmentation.crop_pct,
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
    )


if __name__ == "__main__":
    train(load_recipe(["--config", sys.argv[1]], __doc__))
