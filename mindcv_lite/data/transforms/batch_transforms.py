"""What comes from the host, made into what the network is trained on, on the device."""

from pathlib import Path

from mindspore import Tensor, nn

from mindcv_lite.data.transforms.mixup_cutmix import Mix
from mindcv_lite.data.transforms.normalize import Normalize
from mindcv_lite.data.transforms.random_erasing import Erase
from mindcv_lite.losses import soft_targets
from mindcv_lite.recipe.keys import Recipe


class Preparation(nn.Cell):
    """Normalise, erase, spread labels over the classes, mix; the last three as far as the recipe asks for them.

    `cpu_kernels`: the compiled library that normalises, on a CPU that has one.
    """

    def __init__(self, recipe: Recipe, cpu_kernels: Path | None = None):
        super().__init__()
        assert recipe.model.num_classes, "the recipe's num_classes is filled in from the class folders"
        augmentation = recipe.augmentation
        self.normalize = Normalize(augmentation.mean, augmentation.std, cpu_kernels)
        self.erase = Erase(augmentation) if augmentation.erases else None
        self.mix = Mix() if augmentation.mixes else None
        self.classes, self.label_smoothing = recipe.model.num_classes, recipe.loss.label_smoothing

    # pyrefly: ignore [bad-override]
    def construct(
        self, images: Tensor, labels: Tensor, drawn: tuple[Tensor, ...], seed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """images uint8 (batch, height, width, channels), labels int32 (batch,), `drawn` of `pipeline.drawn_columns`,
        seed int32 () -> float32 (batch, channels, height, width) and targets (batch, classes)."""
        x, targets = self.normalize(images), soft_targets(labels, self.classes, self.label_smoothing)
        if self.erase is not None:
            x = self.erase(x, drawn[0], seed)
        if self.mix is not None:
            x, targets = self.mix(x, targets, drawn[-1])
        return x, targets
