"""What a recipe must hold beyond its single values: rules between keys, paths and packages that must be there."""

from os.path import normpath
from pathlib import Path

from mindcv_lite.errors import UserError
from mindcv_lite.files import require_checkpoint, require_file
from mindcv_lite.program import require_packages
from mindcv_lite.recipe import auto_augment
from mindcv_lite.recipe.keys import Data, Recipe
from mindcv_lite.recipe.yaml_io import show


def check_rules(recipe: Recipe, source: str) -> None:
    """Raise `UserError` if keys contradict each other. `source`: where the recipe comes from."""
    origin = recipe.origin

    def require(holds: bool, name: str, expected: str) -> None:
        if not holds:
            got = show(recipe.flat()[name]) + ("" if name in origin else ", the default")
            raise UserError(f"{origin.get(name, source)}: key '{name}': expected {expected}, got {got}")

    for name in ("scale", "ratio", "re_scale", "re_ratio"):
        low, high = getattr(recipe.augmentation, name)
        require(low <= high, name, "[low, high] with low <= high")
    channels = recipe.model.in_channels
    for name in ("mean", "std"):
        count = len(getattr(recipe.augmentation, name))
        require(count == channels, name, f"{channels} numbers, one for each of the in_channels")
    if isinstance(value := recipe.augmentation.re_value, tuple):
        require(
            len(value) == channels, "re_value", f"one number, {channels} (one for each of the in_channels) or random"
        )
    if recipe.augmentation.auto_augment:
        try:
            auto_augment.parse(recipe.augmentation.auto_augment)
        except ValueError as error:
            require(False, "auto_augment", str(error))
    if recipe.data.is_standard:
        of = f"files of {recipe.data.dataset}"
        require(recipe.data.train_split == "train", "train_split", f"train, the training {of}")
        require(recipe.data.val_split in ("val", "test"), "val_split", f"val or test, both the test {of}")
    if share := recipe.data.val_share:
        folds = int(1 / share + 1e-9)
        require(recipe.data.val_fold < folds, "val_fold", f"less than {folds}, because val_share is {share:g}")
    milestones = recipe.schedule.multi_step_decay_milestones
    require(list(milestones) == sorted(set(milestones)), "multi_step_decay_milestones", "increasing epochs")
    schedule = recipe.schedule
    if schedule.scheduler in ("one_cycle", "cyclic"):
        require(schedule.warmup_epochs == 0, "warmup_epochs", f"0, because {schedule.scheduler} has its own rise")
        require(
            not schedule.lr_epoch_stair, "lr_epoch_stair", f"False, because {schedule.scheduler} changes every step"
        )
    if schedule.scheduler in ("cosine_decay", "one_cycle", "cyclic"):
        require(schedule.min_lr <= recipe.optimizer.lr, "min_lr", f"at most lr ({recipe.optimizer.lr:g})")
    require(
        not (recipe.model.pretrained and recipe.model.ckpt_path),
        "pretrained",
        "False with ckpt_path, which names other weights",
    )
    require(
        not recipe.model.probe_only or recipe.model.pretrained or bool(recipe.model.ckpt_path),
        "probe_only",
        "False without weights to start from; --ckpt_path names some",
    )
    require(
        not recipe.model.quantize or recipe.model.pretrained or bool(recipe.model.ckpt_path or recipe.output.resume),
        "quantize",
        "None without weights to start from; --ckpt_path names those that were trained for the same classes without it",
    )
    require(not (recipe.model.probe_only and recipe.model.quantize), "probe_only", "False with quantize")
    require(not (recipe.model.probe_only and recipe.output.resume), "probe_only", "False with resume")
    if recipe.loss.teachers:
        require(recipe.loss.loss == "CE", "loss", "CE with a teacher, whose predictions are shares of all classes")
    require(
        not (recipe.loss.class_weights and recipe.augmentation.mixes),
        "class_weights",
        "None with mixup or cutmix, which mix images of several classes",
    )
    if recipe.data.sampling == "balanced":
        require(recipe.data.shuffle, "sampling", "natural without shuffle, which keeps the images in their order")
        require(
            recipe.loss.class_weights != "balanced",
            "class_weights",
            "None or numbers with sampling balanced, which makes the classes count the same already",
        )
    if recipe.output.patience:
        require(recipe.output.val_while_train, "patience", "None without val_while_train, whose top-1 it waits for")
    require(recipe.output.resume != "", "resume", "True, False or the file of a state")
    require(recipe.system.compile_cache != "", "compile_cache", "True, False or a folder")
    if recipe.output.ckpt_save_policy == "top_k":
        require(
            recipe.output.val_while_train, "val_while_train", "True, because ckpt_save_policy top_k compares scores"
        )
    if recipe.optimizer.opt in ("sgd", "momentum") and recipe.optimizer.use_nesterov:
        require(recipe.optimizer.momentum > 0, "momentum", "more than 0 with use_nesterov")


def require_startable(recipe: Recipe) -> None:
    """Raise `UserError` if a file, folder or package that the recipe needs is not there; this needs no MindSpore."""
    require_paths(recipe)
    _require_unseen_images(recipe)
    _require_teachers(recipe)
    require_extras(recipe)


def require_paths(recipe: Recipe) -> None:
    """Raise `UserError` if data_dir or ckpt_path is set and not there; this needs no MindSpore."""
    data, ckpt_path = recipe.data, recipe.model.ckpt_path
    if data.data_dir and data.dataset != "digits" and not Path(data.data_dir).is_dir():
        images = f"the files of {data.dataset}" if data.is_standard else f"{data.train_split}/<class>/*.jpg"
        raise UserError(f"{data.data_dir}: no such folder; --data_dir names the folder that holds {images}")
    if Path(recipe.output.ckpt_save_dir).is_file():
        raise UserError(f"{recipe.output.ckpt_save_dir}: a file, not a folder; give another --ckpt_save_dir")
    cache = recipe.system.compile_cache
    if isinstance(cache, str) and Path(cache).exists() and not Path(cache).is_dir():
        raise UserError(f"{cache}: a file, not a folder; give another --compile_cache, or False")
    resume = recipe.output.resume
    if ckpt_path and not resume:
        require_checkpoint(ckpt_path)
    if sheet := recipe.system.show_batch:
        if Path(sheet).suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise UserError(f"{sheet}: --show_batch names a .png or .jpg to write")
        require_file(Path(sheet))
    if isinstance(resume, str) and not (Path(resume).is_file() and Path(resume).suffix == ".ckpt"):
        raise UserError(f"{resume}: no such .ckpt file; --resume alone goes on with the run in ckpt_save_dir")


def _require_unseen_images(recipe: Recipe) -> None:
    """Raise `UserError` if a run would be validated on the images that it is trained on."""
    data = recipe.data
    splits = {normpath(split) for split in (data.train_split, data.val_split)}
    if recipe.output.val_while_train and not data.is_standard and not data.val_share and len(splits) == 1:
        raise UserError(
            f"train_split and val_split are both '{data.val_split}': the score would be of images that are trained on; "
            "--val_share 0.2 holds out a share of them, --val_while_train False trains on all without a score"
        )


def _require_teachers(recipe: Recipe) -> None:
    """Raise `UserError` if a teacher is no checkpoint; this needs no MindSpore."""
    for path in recipe.loss.teachers:
        require_checkpoint(path)


def require_extras(recipe: Recipe) -> None:
    """Raise `UserError` if a key asks for a package that is not installed."""
    if recipe.output.tensorboard:
        require_packages("--tensorboard", "tensorboard")


def require_splits(data_dir: Path, train_split: str, val_split: str) -> None:
    """Raise `UserError` unless the folder `data_dir` has one of these splits, and each that is named by another name
    than usual."""
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such folder; expected one that holds {train_split}/<class>/*.jpg")
    if (data_dir / "packed.json").exists():
        raise UserError(f"{data_dir}: holds packed images; give the folder that they were packed from")
    if "" in (train_split, val_split) or train_split == val_split:
        raise UserError("command line: --train_split and --val_split: expected the names of two folders")
    usual = (Data.train_split, Data.val_split)
    missing = [split for split in (train_split, val_split) if not (data_dir / split).is_dir()]
    if len(missing) == 2:
        raise UserError(
            f"{data_dir}: neither '{train_split}' nor '{val_split}' is a folder in it; --train_split, --val_split name "
            "them; folders of classes alone belong into 'train', and training with --val_share 0.2 holds out a share"
        )
    if missing and missing[0] not in usual:
        raise UserError(f"{data_dir / missing[0]}: no such folder")
