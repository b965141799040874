"""Where a recipe's images come from, and how many classes its network needs for them."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mindcv_lite.data.datasets import image_folder as folder
from mindcv_lite.data.datasets import packed
from mindcv_lite.data.datasets.cifar_mnist import STANDARD
from mindcv_lite.data.datasets.classes import indices_of, outputs_of
from mindcv_lite.data.datasets.digits import digits_folder
from mindcv_lite.data.datasets.holdout import held_out_of, hold_out
from mindcv_lite.data.datasets.image_folder import FEW, Split, small_classes
from mindcv_lite.errors import UserError
from mindcv_lite.recipe.keys import Data, Recipe

log = logging.getLogger(__name__)

HELD_OUT = "%s: %d of them are held out for validation (val_share)"


def training_splits(recipe: Recipe) -> tuple[Split, Split | None]:
    """Images to train on and, with val_while_train, those to validate on, labelled by the same classes."""
    data = _located(recipe.data)
    kind = _kind_of(data)
    train, held_out = kind.read_split(data.data_dir, data.train_split), None
    if data.val_share:
        where = Path(data.data_dir) / data.train_split
        train, held_out = hold_out(train, data.val_share, data.val_fold, where)
        log.info(HELD_OUT, where, len(held_out))
    if few := small_classes(train):
        line = "warning: %s: %d classes have fewer than %d images to train on, such as '%s' with %d"
        log.warning(line, data.data_dir, len(few), FEW, *few[0])
    if not recipe.output.val_while_train:
        return train, None
    if held_out:
        return train, held_out
    folders = kind.class_names_of(data.data_dir, data.val_split)
    indices = indices_of(folders, train.class_names, Path(data.data_dir) / data.val_split)
    return train, kind.read_split(data.data_dir, data.val_split).relabelled(indices)


def require_classes(train: Split, data: Data) -> None:
    """Raise `UserError` if there is a single class: nothing can be learned of it. Maybe a folder is between."""
    if len(train.class_names) > 1:
        return
    (name,), where = train.class_names, Path(data.data_dir) / data.train_split
    inner = where / name
    advice = "add folders of other classes"
    if inner.is_dir() and any(entry.is_dir() for entry in inner.iterdir()):
        flags = {"train_split": data.train_split} | ({} if data.val_share else {"val_split": data.val_split})
        given = (f"--{flag} {shlex.quote(f'{split}/{name}')}" for flag, split in flags.items())
        advice += f"; or, if the classes are the folders in it, {' '.join(given)}"
    raise UserError(f"{where}: there is one class, '{name}', and a network learns to tell classes apart; {advice}")


def validation_split(recipe: Recipe, class_names: Sequence[str] | None) -> Split:
    """Images to check a network on whose num_classes outputs are `class_names`, if its checkpoint has any."""
    return labelled_for(validation_images(recipe), recipe, class_names)


def validation_images(recipe: Recipe) -> Split:
    """Images to check a network on, labelled by their own classes; which outputs these are, `labelled_for` knows."""
    data = _located(recipe.data)
    split = data.train_split if data.val_share else data.val_split
    images = _kind_of(data).read_split(data.data_dir, split, skip_empty=True)
    if data.val_share:
        where = Path(data.data_dir) / split
        images = images.part(held_out_of(images, data.val_share, data.val_fold, where))
        log.info(HELD_OUT, where, len(images))
    return images


def labelled_for(images: Split, recipe: Recipe, class_names: Sequence[str] | None) -> Split:
    """The same images, labelled by the outputs of that network; some of its classes are enough."""
    assert recipe.model.num_classes, "the recipe's num_classes is filled in from the checkpoint"
    data = _located(recipe.data)
    kind, presumed = _kind_of(data), None
    if class_names is None and kind.has_split(data.data_dir, data.train_split):
        presumed = kind.class_names_of(data.data_dir, data.train_split)
    where = Path(data.data_dir) / (data.train_split if data.val_share else data.val_split)
    return images.relabelled(outputs_of(images.class_names, class_names, recipe.model.num_classes, where, presumed))


def has_validation_split(recipe: Recipe) -> bool:
    """Whether there is a split to validate on besides the training images."""
    data = _located(recipe.data)
    return _kind_of(data).has_split(data.data_dir, data.val_split)


def with_num_classes(recipe: Recipe, class_names: Sequence[str]) -> Recipe:
    """The recipe with num_classes filled in. Raises `UserError` if it is smaller than the number of classes."""
    wanted, found = recipe.model.num_classes, len(class_names)
    if wanted is not None and wanted < found:
        raise UserError(f"num_classes is {wanted}, but there are {found} classes; use --num_classes {found}")
    if wanted is not None and wanted > found:
        log.info("num_classes is %d: the %d classes are outputs 0 to %d", wanted, found, found - 1)
    return recipe.with_keys(num_classes=wanted or found)


def _located(data: Data) -> Data:
    return replace(data, data_dir=digits_folder(data.data_dir)) if data.dataset == "digits" else data


class _Dataset(Protocol):
    """What reads the splits of a data_dir: the modules `folder` and `packed`, or standard files."""

    def read_split(self, data_dir: str, split: str, /, skip_empty: bool = False) -> Split: ...

    def class_names_of(self, data_dir: str, split: str, /) -> tuple[str, ...]: ...

    def has_split(self, data_dir: str, split: str, /) -> bool: ...


def _kind_of(data: Data) -> _Dataset:
    """What reads the splits there."""
    if data.dataset in STANDARD:
        return STANDARD[data.dataset]
    return packed if data.data_dir and packed.is_packed(data.data_dir) else folder
