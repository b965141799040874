"""The recipe: every choice of a run, read from a YAML file and the command line.

The fields of the dataclasses below are the YAML keys and the command-line flags; their types and bounds are the
check, their help texts the `--help` page. MindSpore is not imported here, so a wrong recipe is answered at once.
"""

import argparse
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from mindcv_lite import auto_augment
from mindcv_lite.errors import CommandLine, UserError
from mindcv_lite.files import require_checkpoint, require_file, write_text
from mindcv_lite.packages import require_packages


def key(help: str, default: Any = dataclasses.MISSING, **bounds: float) -> Any:
    """A recipe key. `bounds`: `at_least`, `above`, `at_most`, `below`; they hold for each number of a list."""
    return field(default=default, kw_only=True, metadata={"help": help, "bounds": bounds})


@dataclass(frozen=True)
class System:
    """device and processes"""

    mode: Literal[0] = key("execution mode; 0 is graph mode, the only one here", 0)
    device_target: Literal["auto", "Ascend", "GPU", "CPU"] = key(
        "device; auto takes Ascend if present, else CPU", "auto"
    )
    distribute: bool = key("train on all devices that msrun started", False)
    jit_level: Literal["O0", "O1", "O2"] = key("graph compilation level; O2 compiles the whole graph on Ascend", "O2")
    dataset_sink_mode: bool = key("send a whole epoch to the device at a time, where the device can", True)
    cpu_kernels: Literal["auto", "off"] = key(
        "auto: on a CPU, faster depthwise convolutions and BatchNorm, compiled here once; off: MindSpore's own",
        "auto",
    )
    num_parallel_workers: int | Literal["auto"] = key(
        "threads that decode and augment, per device; auto shares the processors out", "auto", at_least=1
    )
    compile_cache: bool | str = key(
        "keep compiled graphs, so that the next start need not compile them: in ckpt_save_dir, or in the folder named",
        False,
    )
    seed: int = key("seed of weights, order, augmentation and dropout", 42, at_least=0, at_most=2**31 - 1)
    dry_run: bool = key("build everything, say what would be done, and stop before the first step", False)
    show_batch: str = key("picture file (.png, .jpg): draw the first batch in it, as the network sees it", "")


@dataclass(frozen=True)
class Data:
    """photos"""

    dataset: Literal["", "imagenet", "digits", "cifar10", "cifar100", "mnist"] = key(
        "imagenet or empty: a folder of class folders; digits: the built-in demo; others: their standard files",
        "imagenet",
    )
    data_dir: str = key("folder that holds the splits, or the standard files", "")
    train_split: str = key("folder of the training split inside data_dir", "train")
    val_split: str = key("folder of the validation split inside data_dir", "val")
    val_share: float | None = key(
        "share of the training photos that is held out for validation, in place of val_split; their names decide which",
        None,
        at_least=0.001,
        below=1,
    )
    val_fold: int = key("which share that is, counted from 0: of val_share 0.25 there are 4", 0, at_least=0)
    shuffle: bool = key("a new order of the training photos every epoch", True)
    num_samples: int | None = key("training photos per epoch; left out: all", None, at_least=1)
    batch_size: int = key("photos per step and device", at_least=1, at_most=2**16)
    drop_remainder: bool = key("leave out the last, short batch of an epoch", True)
    on_corrupt: Literal["error", "replace"] = key(
        "a training photo that cannot be decoded: stop and name it, or take another in its place and count it", "error"
    )

    @property
    def is_standard(self) -> bool:
        """Whether the photos are in the standard files of `dataset`, which are the splits."""
        return self.dataset in ("cifar10", "cifar100", "mnist")

    @property
    def has_photos(self) -> bool:
        return bool(self.data_dir) or self.dataset == "digits"


@dataclass(frozen=True)
class Augmentation:
    """augmentation and preprocessing"""

    image_resize: int = key("side of the network's input, in pixels", 224, at_least=1, at_most=4096)
    scale: tuple[float, float] = key("random crop: range of its share of the area", (0.08, 1.0), above=0, at_most=1)
    ratio: tuple[float, float] = key("random crop: range of width / height", (0.75, 1.333), at_least=0.01, at_most=100)
    hflip: float = key("probability of a left-right flip", 0.5, at_least=0, at_most=1)
    vflip: float = key("probability of an up-down flip", 0.0, at_least=0, at_most=1)
    color_jitter: float | None = key(
        "range of brightness, contrast and saturation; auto_augment takes its place", 0.4, at_least=0, at_most=1
    )
    auto_augment: str | None = key("randaug-mM-nN (N operations of strength M of 10), autoaug or trivialaugwide", None)
    re_prob: float = key("random erasing: its probability", 0.0, at_least=0, at_most=1)
    re_scale: tuple[float, float] = key(
        "random erasing: range of the share of the area", (0.02, 0.33), above=0, at_most=1
    )
    re_ratio: tuple[float, float] = key(
        "random erasing: range of height / width", (0.3, 3.3), at_least=0.01, at_most=100
    )
    re_value: float | tuple[float, ...] | Literal["random"] = key(
        "random erasing: what it fills in, in deviations from the mean, one number or one for each channel; or random, "
        "which takes a third more time on a CPU",
        0.0,
    )
    re_max_attempts: int = key("random erasing: rectangles that are tried", 10, at_least=1, at_most=1000)
    mixup: float = key("alpha of mixup; 0: none", 0.0, at_least=0, at_most=1000)
    cutmix: float = key("alpha of cutmix; 0: none", 0.0, at_least=0, at_most=1000)
    cutmix_prob: float = key(
        "probability that a batch is mixed, by mixup or cutmix, or by either of both", 1.0, at_least=0, at_most=1
    )
    aug_repeats: int = key(
        "times a photo comes in an epoch of as many photos; 0 and 1: once", 0, at_least=0, at_most=100
    )
    interpolation: Literal["bilinear", "bicubic", "nearest", "area"] = key("resampling of all resizes", "bilinear")
    crop_pct: float = key("evaluation: share of the resized shorter side that is kept", 0.875, at_least=0.1, at_most=1)
    mean: tuple[float, ...] = key("per channel, on the 0 to 255 scale", (123.675, 116.28, 103.53))
    std: tuple[float, ...] = key("per channel, on the 0 to 255 scale", (58.395, 57.12, 57.375), above=0)

    @property
    def erases(self) -> bool:
        return self.re_prob > 0

    @property
    def mixes(self) -> bool:
        return self.cutmix_prob > 0 and max(self.mixup, self.cutmix) > 0


@dataclass(frozen=True)
class Model:
    """network"""

    model: Literal[
        "mobilenet_v3_small_100",
        "mobilenet_v3_small_075",
        "mobilenet_v3_large_100",
        "mobilenet_v3_large_075",
        "mobilenet_v3_small_minimalistic_100",
        "mobilenet_v3_large_minimalistic_100",
    ] = key("size and width of the network")
    num_classes: int | None = key(
        "outputs of the network; left out: the classes of the photos", None, at_least=1, at_most=10**6
    )
    in_channels: Literal[1, 3] = key("3: colour; 1: grey", 3)
    drop_rate: float = key("dropout before the last layer", 0.2, at_least=0, below=1)
    conv_padding: Literal["mindcv", "symmetric", "same"] = key(
        "padding of strided convolutions: as MindCV, as torchvision and timm, as TensorFlow", "mindcv"
    )
    bn_eps: float = key("epsilon of BatchNorm", 1e-5, above=0, at_most=1)
    bn_momentum: float = key("share of its old statistics that a BatchNorm keeps in a step", 0.9, at_least=0, below=1)
    ckpt_path: str = key("train: weights to start from; validate: weights to check", "")
    freeze: Literal["backbone"] | int | None = key(
        "what is not trained: backbone, all but the head; or N, the first N rows of the network's table",
        None,
        at_least=1,
    )
    new_head: Literal["probe", "random"] = key(
        "a last layer that the weights do not have for these classes: fitted to the training photos before the first "
        "epoch, or random",
        "probe",
    )
    probe_only: bool = key("fit the last layer to the training photos, score and save it, and train nothing", False)
    pretrained: bool = key("start from the weights that MindCV published; downloaded once", False)


@dataclass(frozen=True)
class Optimizer:
    """optimizer"""

    opt: Literal["sgd", "momentum", "adam", "adamw", "lion", "rmsprop", "adagrad", "lamb", "nadam"] = key("optimizer")
    lr: float = key("peak learning rate", above=0)
    base_batch_size: int | None = key(
        "global batch for which lr was tuned; lr is scaled by the global batch of the run over it", None, at_least=1
    )
    base_updates: int | None = key(
        "updates of a run from which on lr is right; a shorter run takes lr in proportion to its updates",
        None,
        at_least=1,
    )
    layer_decay: float | None = key(
        "factor of the rate from one layer (stem, row, last convolution, head) to the one before it",
        None,
        above=0,
        at_most=1,
    )
    gradient_accumulation_steps: int = key("batches whose mean gradient makes one update", 1, at_least=1)
    clip_grad: bool = key("clip the gradient of all devices by its global norm", False)
    clip_value: float = key("largest global norm of a gradient, with clip_grad", 15.0, above=0)
    momentum: float = key("momentum of sgd, momentum and rmsprop", 0.9, at_least=0, below=1)
    use_nesterov: bool = key("Nesterov momentum, for sgd, momentum and adam", False)
    weight_decay: float = key("weight decay", 1e-6, at_least=0)
    weight_decay_filter: Literal["disable", "auto", "norm_and_bias"] = key(
        "what weight decay spares: disable nothing, auto BatchNorm, norm_and_bias BatchNorm and biases", "disable"
    )
    eps: float = key("epsilon of adam, adamw, rmsprop and lamb", 1e-10, above=0)
    ema: bool = key("score and save the exponential moving average of the weights", False)
    ema_decay: float = key(
        "share of the old average that an update keeps; (1 + n) / (10 + n) at update n if that is less",
        0.9999,
        at_least=0,
        below=1,
    )


@dataclass(frozen=True)
class Schedule:
    """learning-rate schedule"""

    epoch_size: int = key("epochs of training", at_least=1, at_most=10**5)
    scheduler: Literal[
        "constant",
        "cosine_decay",
        "exponential_decay",
        "step_decay",
        "multi_step_decay",
        "polynomial_decay",
        "one_cycle",
        "cyclic",
    ] = key("shape of the learning rate after the warm-up")
    min_lr: float = key("lowest rate of cosine_decay, one_cycle and cyclic", 1e-6, at_least=0)
    warmup_epochs: int = key("epochs of linear warm-up", 3, at_least=0)
    warmup_factor: float = key("first rate of the warm-up, as a share of lr", 0.0, at_least=0, at_most=1)
    decay_epochs: int | None = key(
        "cosine_decay: epochs from lr to min_lr; step_decay: epochs between steps; left out: all after the warm-up",
        None,
        at_least=1,
    )
    decay_rate: float = key("factor of a decay step; power of polynomial_decay", 0.9, above=0)
    multi_step_decay_milestones: tuple[int, ...] = key("epochs of multi_step_decay", (30, 60, 90), at_least=1)
    lr_epoch_stair: bool = key("keep the rate constant within an epoch", False)
    num_cycles: int = key("cycles of cosine_decay and cyclic", 1, at_least=1)
    cycle_decay: float = key("factor of the peak from one cosine cycle to the next", 1.0, above=0)


@dataclass(frozen=True)
class Loss:
    """loss"""

    loss: Literal["CE", "BCE"] = key("cross-entropy, or binary cross-entropy of each class", "CE")
    label_smoothing: float = key("share of the target that is spread over all classes", 0.0, at_least=0, below=1)
    teacher: str | tuple[str, ...] = key(
        "checkpoint of a network whose answers are learned besides the labels; given several times: their mean", ""
    )
    teacher_temperature: float = key("what logits are divided by in that comparison", 2.0, above=0, at_most=1000)
    teacher_share: float = key("share of that comparison in the loss", 0.5, above=0, at_most=1)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The checkpoints of all teachers."""
        return tuple(filter(None, [self.teacher] if isinstance(self.teacher, str) else self.teacher))


@dataclass(frozen=True)
class Precision:
    """number formats"""

    amp_level: Literal["O0", "O1", "O2", "O3"] = key("training: O0 float32 ... O3 float16 throughout", "O0")
    val_amp_level: Literal["O0", "O1", "O2", "O3"] = key("evaluation: O0 float32 ... O3 float16 throughout", "O0")
    teacher_amp_level: Literal["O0", "O1", "O2", "O3"] = key("teacher: O0 float32 ... O3 float16 throughout", "O0")
    loss_scale: float = key(
        "factor of the loss, against float16 underflow; the first one if dynamic", 1.0, at_least=1, at_most=2**126
    )
    loss_scale_type: Literal["fixed", "dynamic"] = key("dynamic halves on overflow and skips that update", "fixed")
    drop_overflow_update: bool = key("skip an update whose gradients overflowed, with a fixed loss scale too", False)


@dataclass(frozen=True)
class Output:
    """log, validation and checkpoints"""

    log_interval: int | None = key("steps between log lines; left out: one line an epoch", 100, at_least=1)
    val_while_train: bool = key("validate during training", False)
    val_interval: int = key("epochs between validations", 1, at_least=1)
    ckpt_save_dir: str = key("folder for checkpoints, results.csv and the resolved recipe", "./ckpt")
    tensorboard: bool = key("write events for TensorBoard into the folder tensorboard in ckpt_save_dir", False)
    resume: bool | str = key("go on with the run in ckpt_save_dir, or with the state file named", False)
    ckpt_save_interval: int = key("epochs between checkpoints", 1, at_least=1)
    ckpt_save_policy: Literal["latest_k", "top_k"] = key("which keep_checkpoint_max checkpoints stay", "latest_k")
    keep_checkpoint_max: int = key("checkpoints that stay, the best one apart", 10, at_least=1)


@dataclass(frozen=True)
class Recipe:
    """Every choice of a run, by topic."""

    system: System
    data: Data
    augmentation: Augmentation
    model: Model
    optimizer: Optimizer
    schedule: Schedule
    loss: Loss
    precision: Precision
    output: Output
    origin: Mapping[str, str] = field(default_factory=dict, compare=False)  # where the keys come from that were given

    def flat(self) -> dict[str, Any]:
        """The keys of all topics, as a recipe file holds them."""
        return {name: value for topic in TOPICS for name, value in vars(getattr(self, topic)).items()}

    def with_keys(self, **values: Any) -> "Recipe":
        """This recipe with other values of some keys."""
        topics = {topic: getattr(self, topic) for topic in TOPICS}
        changed = {
            topic: replace(keys, **{name: value for name, value in values.items() if name in vars(keys)})
            for topic, keys in topics.items()
        }
        return replace(self, **changed)

    def text(self, names: Collection[str] | None = None) -> str:
        """The recipe as a YAML file holds it. `names`: the keys; None: all."""
        flat = {name: value for name, value in self.flat().items() if names is None or name in names}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}
        return yaml.dump(plain, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)

    def save(self, path: Path) -> None:
        """Write the recipe so that `--config` reads it back."""
        write_text(path, self.text())


TOPICS: dict[str, Any] = {topic.name: topic.type for topic in fields(Recipe) if dataclasses.is_dataclass(topic.type)}
KEYS: dict[str, dataclasses.Field] = {key.name: key for topic in TOPICS.values() for key in fields(topic)}
KINDS: dict[str, Any] = {name: kind for topic in TOPICS.values() for name, kind in typing.get_type_hints(topic).items()}

ANY = object()
# What MindCV's recipes may hold and this project does not do: the values that change nothing, and what to do instead.
FOREIGN_KEYS: dict[str, tuple[tuple, str]] = {
    "aug_splits": ((0,), "split augmentation is not supported"),
    "aux_factor": ((0,), "MobileNetV3 has no auxiliary output"),
    "amp_cast_list": ((None, ""), "choose the precision with amp_level"),
    "ckpt_url": ((ANY,), ""),
    "data_url": ((ANY,), ""),
    "dataset_download": ((False,), "photos are not downloaded; put them under data_dir"),
    "drop_path_rate": ((None, 0), "MobileNetV3 has no drop path; use drop_rate"),
    "dynamic_loss_scale": ((False,), "use loss_scale_type: dynamic"),
    "enable_modelarts": ((False,), "ModelArts is not supported; use data_dir and ckpt_save_dir"),
    "filter_bias_and_bn": ((False,), "use weight_decay_filter: norm_and_bias"),
    "multi_data_url": ((ANY,), ""),
    "reduction": (("mean",), "the loss is the mean over the batch"),
    "resume_opt": ((False,), "use --resume, which needs no other key"),
    "train_url": ((ANY,), ""),
}


def load_recipe(argv: list[str], description: str, own: CommandLine | None = None) -> Recipe:
    """The recipe that the command line `argv` asks for: defaults, then the file of `--config`, then the flags.

    `own`: the flags of a command besides the keys of a recipe; they are on the help page, and passed over here.
    Prints the help page and exits on `--help`. Raises `UserError` on a recipe that is wrong.
    """
    flags = vars(_command_line(description, own).parse_args(argv))
    for name in vars(own.parse_args([])) if own else ():
        flags.pop(name)
    config = flags.pop("config", None)
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for where, entries in ((config, _read_yaml(config) if config else {}), ("command line", flags)):
        for name, value in entries.items():
            from_text = where == "command line"
            if name in FOREIGN_KEYS:
                _accept_neutral(name, _yaml_scalar(value) if from_text else value, where)
            else:
                values[name] = checked_value(name, value, where, from_text)
                origin[name] = where
    for name, entry in KEYS.items():
        if name not in values and entry.default is dataclasses.MISSING:
            where = config or "command line"
            advice = f"add it, or give --{name}" if config else f"give a recipe with --config, or --{name}"
            raise UserError(f"{where}: key '{name}' is missing ({entry.metadata['help']}); {advice}")
    if "ckpt_path" in flags and "pretrained" not in flags:  # as a flag, it takes the place of other weights
        values.pop("pretrained", None)
    recipe = Recipe(
        **{
            topic: kind(**{key.name: values[key.name] for key in fields(kind) if key.name in values})
            for topic, kind in TOPICS.items()
        },
        origin=origin,
    )
    _check_rules(recipe, origin, config or "command line")
    return recipe


def require_paths(recipe: Recipe) -> None:
    """Raise `UserError` if data_dir or ckpt_path is set and not there; this needs no MindSpore."""
    data, ckpt_path = recipe.data, recipe.model.ckpt_path
    if data.data_dir and data.dataset != "digits" and not Path(data.data_dir).is_dir():
        photos = f"the files of {data.dataset}" if data.is_standard else f"{data.train_split}/<class>/*.jpg"
        raise UserError(f"{data.data_dir}: no such folder; --data_dir names the folder that holds {photos}")
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


def require_teachers(recipe: Recipe) -> None:
    """Raise `UserError` if a teacher is no checkpoint; this needs no MindSpore."""
    for path in recipe.loss.teachers:
        require_checkpoint(path)


def require_extras(recipe: Recipe) -> None:
    """Raise `UserError` if a key asks for a package that is not installed."""
    if recipe.output.tensorboard:
        require_packages("--tensorboard", "tensorboard", "tensorboard")


def require_splits(data_dir: Path, train_split: str, val_split: str) -> None:
    """Raise `UserError` unless the folder `data_dir` has one of these splits, and each that is named by another name
    than usual."""
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such folder; expected one that holds {train_split}/<class>/*.jpg")
    if (data_dir / "packed.json").exists():
        raise UserError(f"{data_dir}: holds packed photos; give the folder that they were packed from")
    if "" in (train_split, val_split) or train_split == val_split:
        raise UserError("command line: --train_split and --val_split: expected the names of two folders")
    usual = (Data.train_split, Data.val_split)
    missing = [split for split in (train_split, val_split) if not (data_dir / split).is_dir()]
    if len(missing) == 2:
        raise UserError(
            f"{data_dir}: neither '{train_split}' nor '{val_split}' is a folder in it; --train_split, --val_split name "
            "them"
        )
    if missing and missing[0] not in usual:
        raise UserError(f"{data_dir / missing[0]}: no such folder")


# ------------------------------------------------------------------------------------------------ rules between keys


def _check_rules(recipe: Recipe, origin: dict[str, str], source: str) -> None:
    def require(holds: bool, name: str, expected: str) -> None:
        if not holds:
            got = _show(recipe.flat()[name]) + ("" if name in origin else ", the default")
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
    require(not (recipe.model.probe_only and recipe.output.resume), "probe_only", "False with resume")
    if recipe.loss.teachers:
        require(recipe.loss.loss == "CE", "loss", "CE with a teacher, whose answers are shares of all classes")
    require(recipe.output.resume != "", "resume", "True, False or the file of a state")
    require(recipe.system.compile_cache != "", "compile_cache", "True, False or a folder")
    if recipe.output.ckpt_save_policy == "top_k":
        require(
            recipe.output.val_while_train, "val_while_train", "True, because ckpt_save_policy top_k compares scores"
        )
    if recipe.optimizer.opt in ("sgd", "momentum") and recipe.optimizer.use_nesterov:
        require(recipe.optimizer.momentum > 0, "momentum", "more than 0 with use_nesterov")


# ----------------------------------------------------------------------------------------------------- single values


def checked_value(name: str, value: Any, where: str, from_text: bool = False) -> Any:
    """`value` as the key `name` holds it. Raises `UserError` that names `where` it came from."""
    if name not in KEYS:
        raise UserError(f"{where}: unknown key {name!r}{_nearest(name)}")
    kind, bounds = KINDS[name], KEYS[name].metadata["bounds"]
    if from_text and isinstance(value, list):  # a flag that may be given several times
        value = value[0] if len(value) == 1 else value
    elif from_text and not _wants_text(kind, value):
        value = _yaml_scalar(value)
    try:
        converted = _convert(kind, value)
        _check_bounds(converted, bounds)
    except (ValueError, OverflowError):
        expected = describe(kind) + _describe_bounds(bounds)
        raise UserError(f"{where}: key '{name}': expected {expected}, got {_show(value)}") from None
    return converted


def _convert(kind: Any, value: Any) -> Any:
    """`value` as `kind`; raises ValueError where it is something else. No guessing: True is no number."""
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        for choice in arguments:
            try:
                return _convert(choice, value)
            except ValueError:
                pass
    elif kind is types.NoneType and value is None:
        return None
    elif typing.get_origin(kind) is Literal:
        for choice in arguments:
            if value == choice and type(value) is type(choice):
                return choice
    elif typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        if len(kinds) == len(value) > 0:
            return tuple(_convert(kind, item) for kind, item in zip(kinds, value, strict=True))
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif kind in (int, bool, str) and type(value) is kind:
        return value
    raise ValueError


def _check_bounds(value: Any, bounds: dict[str, float]) -> None:
    holds = {
        "at_least": lambda number, bound: number >= bound,
        "above": lambda number, bound: number > bound,
        "at_most": lambda number, bound: number <= bound,
        "below": lambda number, bound: number < bound,
    }
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not all(holds[name](number, bound) for name, bound in bounds.items()):
            raise ValueError


def _accept_neutral(name: str, value: Any, where: str) -> None:
    neutral, advice = FOREIGN_KEYS[name]
    if ANY not in neutral and value not in neutral:
        raise UserError(f"{where}: key '{name}': only {_show(neutral[0])} is accepted, got {_show(value)}; {advice}")


def _nearest(name: str, known: Iterable[str] = (*KEYS, *FOREIGN_KEYS)) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else "; --help lists all keys"


def describe(kind: Any) -> str:
    """`kind` in the user's words: what a key takes."""
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(describe(choice) for choice in arguments)
    if typing.get_origin(kind) is Literal:
        choices = [repr(choice) if choice == "" else str(choice) for choice in arguments]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    if typing.get_origin(kind) is tuple:
        item = {int: "whole numbers", float: "numbers", str: "texts"}[arguments[0]]
        return f"a list of {item}" if Ellipsis in arguments else f"a list of {len(arguments)} {item}, [low, high]"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "text", types.NoneType: "None"}
    return names[kind]


def _describe_bounds(bounds: dict[str, float]) -> str:
    words = {"at_least": "at least", "above": "above", "at_most": "at most", "below": "below"}
    return "".join(f", {words[name]} {bound:.10g}" for name, bound in bounds.items())


def plain(value: Any) -> str:
    """`value` as a recipe holds it."""
    return str(list(value) if isinstance(value, tuple) else value)


def _show(value: Any) -> str:
    text = plain(value) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---------------------------------------------------------------------------------------------------------- sources


class _StrictLoader(yaml.SafeLoader):
    """YAML without PyYAML's two silent surprises: a repeated key is an error, and 1e-5 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = []  # no set: a key may be a list, which PyYAML refuses later
        for name, _ in node.value:
            if name.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {name.value!r} stands twice", problem_mark=name.start_mark)
            seen.append(name.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # PyYAML's slips, on 2024-13-45 or !!int x
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None


class _StrictDumper(yaml.SafeDumper):
    """Puts quotes around text that `_StrictLoader` would take for something else, and escapes what does not print."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_StrictDumper.add_representer(str, _StrictDumper.represent_str)

for _side in (_StrictLoader, _StrictDumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )
    _side.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])


NOT_YAML = (yaml.YAMLError, ValueError, OverflowError)  # the last two are PyYAML's slips, on "\UFFFFFFFF"


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot read the recipe: {error.strerror}; --config names a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a recipe, YAML text in UTF-8, got other bytes") from None
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else path
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{line}: not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        found = "an empty file" if content is None else _show(content)
        raise UserError(f"{path}: expected a recipe, lines of 'key: value', got {found}")
    return {str(name): value for name, value in content.items()}


def _yaml_scalar(text: str) -> Any:
    try:
        return yaml.load(str(text), _StrictLoader)  # argparse makes [] of --key=--
    except NOT_YAML:
        return text


def _wants_text(kind: Any, text: str) -> bool:
    """Whether a flag's text is taken as it is, not as YAML: a path may well look like a number."""
    choices = typing.get_args(kind)
    if str in choices:
        return not isinstance(_yaml_scalar(text), bool) if bool in choices else text != "None"
    return kind is str or (typing.get_origin(kind) is Literal and text in choices)


class _CommandLine(CommandLine):
    def parse_args(self, argv: list[str]) -> argparse.Namespace:  # type: ignore[override]
        flags, rest = self.parse_known_args(argv)
        if rest:
            name = rest[0].split("=")[0]
            if name.startswith("--"):
                known = [flag[2:] for flag in self._option_string_actions if flag.startswith("--")]
                raise UserError(f"command line: unknown key {name[2:]!r}{_nearest(name[2:], known)}")
            raise UserError(f'command line: {rest[0]!r} belongs to no flag; write --key value, lists as "[0.35, 1.0]"')
        return flags


def _command_line(description: str, own: CommandLine | None) -> _CommandLine:
    parser = _CommandLine(
        usage=own.usage if own else None,
        description=description,
        parents=[own] if own else [],
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="YAML file with any of the keys below; flags overrule it"
    )
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # argparse takes -1e-5 for a flag
    for topic in TOPICS.values():
        group = parser.add_argument_group(topic.__doc__)
        for entry in fields(topic):
            text = (
                f"{entry.metadata['help']} [{describe(KINDS[entry.name])}{_describe_bounds(entry.metadata['bounds'])}"
            )
            text += "; required]" if entry.default is dataclasses.MISSING else f"; default: {_show(entry.default)}]"
            kind = KINDS[entry.name]
            flag: dict[str, Any] = {"metavar": "VALUE", "help": text}
            if bool in (kind, *typing.get_args(kind)):  # --shuffle alone means --shuffle True
                flag |= {"nargs": "?", "const": "True"}
            elif tuple[str, ...] in typing.get_args(kind):  # --teacher a.ckpt --teacher b.ckpt
                flag |= {"action": "append"}
            group.add_argument(f"--{entry.name}", **flag)
    for name in FOREIGN_KEYS:
        parser.add_argument(f"--{name}", nargs="?", const="True", help=argparse.SUPPRESS)
    return parser
