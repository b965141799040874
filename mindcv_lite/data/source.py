"""Where a recipe's photos come from, and how many classes its network needs for them."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from mindcv_lite.data.digits import digits_folder
from mindcv_lite.data.folder import Photos, class_names_of, has_split, read_split
from mindcv_lite.errors import UserError
from mindcv_lite.recipe import Data, Recipe

log = logging.getLogger(__name__)


def training_photos(recipe: Recipe) -> tuple[Photos, Photos | None]:
    """Photos to train on and, with val_while_train, those to validate on, numbered by the same classes."""
    data = _located(recipe.data)
    train = read_split(data.data_dir, data.train_split)
    val = read_split(data.data_dir, data.val_split, train.class_names) if recipe.output.val_while_train else None
    return train, val


def validation_photos(recipe: Recipe, class_names: Sequence[str] | None) -> Photos:
    """Photos to check a network on whose outputs are `class_names`; None: the classes of the training split."""
    data = _located(recipe.data)
    if class_names is None and has_split(data.data_dir, data.train_split):
        class_names = class_names_of(data.data_dir, data.train_split)
    return read_split(data.data_dir, data.val_split, class_names)


def with_num_classes(recipe: Recipe, class_names: Sequence[str]) -> Recipe:
    """The recipe with num_classes filled in. Raises `UserError` if it is smaller than the number of class folders."""
    wanted, found = recipe.model.num_classes, len(class_names)
    if wanted is not None and wanted < found:
        raise UserError(f"num_classes is {wanted}, but there are {found} class folders; use --num_classes {found}")
    if wanted is not None and wanted > found:
        log.info("num_classes is %d: the %d class folders, sorted, are outputs 0 to %d", wanted, found, found - 1)
    return replace(recipe, model=replace(recipe.model, num_classes=wanted or found))


def _located(data: Data) -> Data:
    return replace(data, data_dir=digits_folder(data.data_dir)) if data.dataset == "digits" else data
