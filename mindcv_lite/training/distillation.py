"""Knowledge distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531): teachers, whose predictions for the
images of a training step are learned besides the labels."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, dtype, nn, ops

from mindcv_lite.checkpoints.trained import Trained, read_trained
from mindcv_lite.checkpoints.weights import HEAD, load_weights
from mindcv_lite.data.datasets.classes import WNIDS, outputs_of
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.models.build import teacher_network
from mindcv_lite.recipe.keys import Augmentation, Recipe

TEACHERS = "teacher_"  # what the names of their parameters begin with: a graph wants unique names


class Teacher(nn.Cell):
    """The images of the student, float32 (batch, channels, height, width) -> logits float32 (batch, classes).

    It sees the same pixels, normalised by its own mean and std, and resized to its own input.
    `recipe`: of `network`, in evaluation; `student`: how the student's images are normalised.
    """

    def __init__(self, path: str, network: nn.Cell, recipe: Recipe, student: Augmentation):
        super().__init__(auto_prefix=False)
        self.path, self.network, self.recipe = path, network, recipe
        own = recipe.augmentation
        mean, std = np.array([own.mean, own.std]).reshape(2, 1, -1, 1, 1)
        # (x * student's std + student's mean - mean) / std
        scale, shift = np.reshape(student.std, mean.shape) / std, (np.reshape(student.mean, mean.shape) - mean) / std
        self.scale, self.shift = Tensor(scale.astype(np.float32)), Tensor(shift.astype(np.float32))
        self.is_normalised = (own.mean, own.std) == (student.mean, student.std)
        self.size = own.input_size

    def add_flags_recursive(self, **flags: Any) -> nn.Cell:
        """Stay in evaluation: by this method `set_train` of the cells around it comes here."""
        return super().add_flags_recursive(**flags | {"training": False})

    # pyrefly: ignore [bad-override]
    def construct(self, x: Tensor) -> Tensor:
        if not self.is_normalised:
            x = x * self.scale + self.shift
        if x.shape[2:] != self.size:
            x = ops.interpolate(x, self.size, mode="bilinear", align_corners=False)
        return self.network(x).float()


class Teachers(nn.Cell):
    """The images of the student -> soft targets, float32 (batch, classes): the mean of the teachers' softmax at a
    temperature, and 0 for each of the student's outputs that is no class of the images. `hashes`: of their files."""

    def __init__(self, teachers: Sequence[Teacher], temperature: float, num_classes: int):
        super().__init__(auto_prefix=False)
        # pyrefly: ignore [bad-argument-count, unexpected-keyword]  (MindSpore's decorator hides the signature)
        self.each = nn.CellList(teachers, auto_prefix=False)
        self.temperature, self.num_classes = temperature, num_classes
        self.hashes = tuple(hashlib.sha256(Path(each.path).read_bytes()).hexdigest()[:8] for each in teachers)
        for number, teacher in enumerate(teachers, 1):
            teacher.update_parameters_name(f"{TEACHERS}{number}.")

    # pyrefly: ignore [bad-override]
    def construct(self, images: Tensor) -> Tensor:
        predictions = [ops.softmax(teacher(images) / self.temperature, -1) for teacher in self.each]
        # pyrefly: ignore [unsupported-operation]  (MindSpore does not say what its primitives return)
        soft = ops.addn(predictions) / len(predictions)
        batch, classes = predictions[0].shape
        if classes < self.num_classes:
            soft = ops.concat((soft, ops.zeros((batch, self.num_classes - classes), dtype.float32)), 1)
        return soft


def hashes_of(teachers: Teachers | None) -> tuple[str, ...]:
    """Of each teacher's file; none without a teacher."""
    return teachers.hashes if teachers else ()


def read_teachers(recipe: Recipe, class_names: Sequence[str], world: World) -> Teachers | None:
    """The teachers that the recipe names; None: it names none. Every rank must call it.

    Raises `UserError` if one cannot be read, or cannot teach images of the classes `class_names`.
    """
    paths = recipe.loss.teachers
    if not paths:
        return None
    assert recipe.model.num_classes, "the recipe's num_classes is filled in from the images"
    each = world.all_or_none(lambda: [_read_teacher(path, recipe, class_names, world) for path in paths])
    return Teachers(each, recipe.loss.teacher_temperature, recipe.model.num_classes)


def _read_teacher(path: str, student: Recipe, class_names: Sequence[str], world: World) -> Teacher:
    """A teacher whose outputs are the classes `class_names`, in their order."""
    trained = read_trained(path)
    recipe, wanted = trained.recipe, student.model.in_channels
    if recipe.model.in_channels != wanted:
        raise UserError(
            f"{path} cannot teach: its in_channels is {recipe.model.in_channels}, the recipe's {wanted}, and a teacher "
            "sees the images of the network that it teaches"
        )
    outputs = _outputs_for(trained, class_names, Path(student.data.data_dir, student.data.train_split))
    recipe = recipe.with_keys(num_classes=len(outputs))
    # The rows of the last layer are put in order here, and no graph has to put the logits in order.
    rows = {name: Parameter(Tensor(trained.weights.parameters[name].asnumpy()[outputs]), name=name) for name in HEAD}
    network = teacher_network(recipe.model, world)
    load_weights(network, replace(trained.weights, parameters=trained.weights.parameters | rows))
    return Teacher(path, network, recipe, student.augmentation)


def _outputs_for(teacher: Trained, class_names: Sequence[str], where: Path) -> list[int]:
    """The output of a teacher for each of the classes, which are those of the images in `where`."""
    path, names = teacher.weights.path, teacher.weights.class_names
    if names is None and teacher.weights.num_classes == len(WNIDS):
        names = WNIDS
    if names is None:
        raise UserError(
            f"{path} cannot teach: it does not name its {teacher.weights.num_classes} classes, and a teacher's are "
            "matched by name; use a checkpoint that train.py has written"
        )
    try:
        return list(outputs_of(class_names, names, teacher.weights.num_classes, where))
    except UserError as error:
        raise UserError(f"{path} cannot teach these classes: {error}") from None
