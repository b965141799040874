"""MindCV's training pipeline and network, built by its own functions from our recipe's values."""

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
from mindspore import Tensor, nn

from mindcv_lite.benchmark.rounds import OF_A_BATCH, OF_ONE, STEP, NoNetwork, Work
from mindcv_lite.errors import UserError
from mindcv_lite.recipe.keys import Recipe


def pipeline(recipe: Recipe, data_dir: str, workers: int) -> Callable[[], Work]:
    """What begins a run through MindCV's batches of `data_dir`, a folder of class folders.

    As in its train.py: normalised on the host, float32 (batch, channels, height, width).
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # pyrefly: ignore [missing-import]
        from mindcv.data import create_dataset, create_loader, create_transforms
    data, augmentation = recipe.data, recipe.augmentation
    alike = ("image_resize", "scale", "ratio", "hflip", "vflip", "color_jitter", "auto_augment", "interpolation")
    alike += ("mean", "std", "re_prob", "re_scale", "re_ratio", "re_value", "re_max_attempts")
    transforms = create_transforms("imagenet", is_training=True, **{name: vars(augmentation)[name] for name in alike})

    def batches() -> Work:
        split = create_dataset(
            "imagenet",
            data_dir,
            data.train_split,
            data.shuffle,
            data.num_samples,
            num_parallel_workers=workers,
            num_aug_repeats=augmentation.aug_repeats,
        )
        loader = create_loader(
            split,
            data.batch_size,
            data.drop_remainder,
            is_training=True,
            mixup=augmentation.mixup,
            cutmix=augmentation.cutmix,
            cutmix_prob=augmentation.cutmix_prob,
            num_classes=recipe.model.num_classes,
            transform=transforms,
            num_parallel_workers=workers,
        )
        if not loader.get_dataset_size():
            raise UserError(f"{data_dir}: too few images for a batch of {data.batch_size}; lower --batch_size")
        epochs = loader.create_tuple_iterator(num_epochs=-1, output_numpy=True)
        while True:
            for images, _ in epochs:
                yield len(images)

    return batches


def works(recipe: Recipe, images: np.ndarray, labels: np.ndarray) -> dict[str, Work]:
    """Its network, in training with the cells that its train.py puts around it in float32.

    `images`: normalised, float32 (batch, channels, height, width); `labels`: int32 (batch,). Raises `NoNetwork` if it
    does not have the recipe's network.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # pyrefly: ignore [missing-import]
        from mindcv.models import create_model, is_model
    model = recipe.model
    if not is_model(model.model):
        raise NoNetwork(f"MindCV has no {model.model}")
    training, network = (
        create_model(model.model, num_classes=model.num_classes, in_channels=model.in_channels) for _ in range(2)
    )
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.loss.label_smoothing)
    optimizer = nn.Momentum(training.trainable_params(), learning_rate=0.0, momentum=0.9)
    train_step = nn.TrainOneStepCell(nn.WithLossCell(training, loss), optimizer).set_train()
    network.set_train(False)

    def calls(cell: nn.Cell, *arrays: np.ndarray) -> Work:
        tensors = [Tensor(array) for array in arrays]
        while True:
            cell(*tensors).asnumpy()
            yield len(arrays[0])

    return {
        STEP: calls(train_step, images, labels),
        OF_A_BATCH: calls(network, images),
        OF_ONE: calls(network, images[:1]),
    }
