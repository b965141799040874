"""The keys of a recipe: every choice of a run.

The fields of the dataclasses below are the YAML keys and the command-line flags. Their types and bounds are the check,
their help texts the `--help` page. MindSpore is not imported here, so that a wrong recipe is answered at once.
"""

import dataclasses
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from mindcv_lite.files import write_text
from mindcv_lite.recipe.yaml_io import dump


def key(help: str, default: Any = dataclasses.MISSING, is_path: bool = False, **bounds: float) -> Any:
    """A recipe key. `bounds`: `at_least`, `above`, `at_most`, `below`; they hold for each number of a list. `is_path`:
    its text may begin with ~ and hold $VARIABLES."""
    return field(default=default, kw_only=True, metadata={"help": help, "bounds": bounds, "is_path": is_path})


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
        "auto: on a CPU, kernels in C++ that are faster, compiled here once; off: MindSpore's own",
        "auto",
    )
    num_parallel_workers: int | Literal["auto"] = key(
        "threads that decode and augment, per device; auto shares the processors out",
        "auto",
        at_least=1,
    )
    compile_cache: bool | str | None = key(
        "keep compiled graphs, so that the next start need not compile them: in ckpt_save_dir, or in the folder named; "
        "left out: programs on a CPU in the user's cache, others nowhere",
        None,
        is_path=True,
    )
    seed: int = key("seed of weights, order, augmentation and dropout", 42, at_least=0, at_most=2**31 - 1)
    dry_run: bool = key(
        "build everything, say what would be done, and stop before the first step",
        False,
    )
    show_batch: str = key(
        "picture file (.png, .jpg): draw the first batch in it, as the network sees it",
        "",
        is_path=True,
    )


@dataclass(frozen=True)
class Data:
    """images"""

    dataset: Literal["", "imagenet", "digits", "cifar10", "cifar100", "mnist"] = key(
        "imagenet or empty: a folder of class folders; digits: the built-in demo; others: their standard files",
        "imagenet",
    )
    data_dir: str = key("folder that holds the splits, or the standard files", "", is_path=True)
    train_split: str = key("folder of the training split inside data_dir", "train")
    val_split: str = key("folder of the validation split inside data_dir", "val")
    val_share: float | None = key(
        "share of the training images that is held out for validation, in place of val_split; their names decide which",
        None,
        at_least=0.001,
        below=1,
    )
    val_fold: int = key("which share that is, counted from 0: of val_share 0.25 there are 4", 0, at_least=0)
    shuffle: bool = key("a new order of the training images every epoch", True)
    sampling: Literal["natural", "balanced"] = key(
        "natural: every training image once an epoch; balanced: as many images, drawn so that all classes come equally "
        "often",
        "natural",
    )
    num_samples: int | None = key("training images per epoch; left out: all", None, at_least=1)
    batch_size: int = key("images per step and device", at_least=1, at_most=2**16)
    drop_remainder: bool = key("leave out the last, short batch of an epoch", True)
    on_corrupt: Literal["error", "replace"] = key(
        "a training image that cannot be decoded: stop and name it, or take another in its place and count it",
        "error",
    )
    follow_exif: bool = key("turn images as their EXIF data ask, in training and validation", True)

    @property
    def is_standard(self) -> bool:
        """Whether the images are in the standard files of `dataset`, which are the splits."""
        return self.dataset in ("cifar10", "cifar100", "mnist")

    @property
    def has_images(self) -> bool:
        return bool(self.data_dir) or self.dataset == "digits"


def size_of(image_resize: int | Sequence[int]) -> tuple[int, int]:
    """Height and width that the key `image_resize` means."""
    height, width = (image_resize, image_resize) if isinstance(image_resize, int) else image_resize
    return height, width


@dataclass(frozen=True)
class Augmentation:
    """augmentation and preprocessing"""

    image_resize: int | tuple[int, int] = key(
        "the network's input in pixels: its side, or its height and width", 224, at_least=1, at_most=4096
    )
    scale: tuple[float, float] = key("random crop: range of its share of the area", (0.08, 1.0), above=0, at_most=1)
    ratio: tuple[float, float] = key("random crop: range of width / height", (0.75, 1.333), at_least=0.01, at_most=100)
    hflip: float = key("probability of a left-right flip", 0.5, at_least=0, at_most=1)
    vflip: float = key("probability of an up-down flip", 0.0, at_least=0, at_most=1)
    color_jitter: float | None = key(
        "range of brightness, contrast and saturation; auto_augment takes its place",
        0.4,
        at_least=0,
        at_most=1,
    )
    auto_augment: str | None = key(
        "randaug-mM-nN (N operations of strength M of 10; -mstdS: drawn around M), autoaug or trivialaugwide", None
    )
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
        "times an image comes in an epoch of as many images; 0 and 1: once", 0, at_least=0, at_most=100
    )
    interpolation: Literal["bilinear", "bicubic", "nearest", "area"] = key("resampling of all resizes", "bilinear")
    crop_pct: float = key("evaluation: share of the resized sides that is kept", 0.875, at_least=0.1, at_most=1)
    mean: tuple[float, ...] = key("per channel, on the 0 to 255 scale", (123.675, 116.28, 103.53))
    std: tuple[float, ...] = key("per channel, on the 0 to 255 scale", (58.395, 57.12, 57.375), above=0)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return size_of(self.image_resize)

    @property
    def resized_size(self) -> tuple[int, int]:
        """Height and width that an image is resized to, in validation, to cover them; the centre is cut out of it."""
        height, width = (int(side / self.crop_pct) for side in self.input_size)
        return height, width

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
        "mobilenet_v3_small_035",
        "mobilenet_v3_small_050",
        "mobilenet_v3_small_125",
        "mobilenet_v3_large_035",
        "mobilenet_v3_large_050",
        "mobilenet_v3_large_125",
        "mobilenet_v3_small_timm_050",
        "mobilenet_v3_small_timm_075",
        "mobilenet_v3_large_timm_075",
        "mobilenet_v3_small_minimalistic_100",
        "mobilenet_v3_large_minimalistic_100",
    ] = key("size and width of the network")
    num_classes: int | None = key(
        "outputs of the network; left out: the classes of the images", None, at_least=1, at_most=10**6
    )
    in_channels: Literal[1, 3] = key("3: colour; 1: grey, and mean and std of three numbers become their mean", 3)
    drop_rate: float = key("dropout before the last layer", 0.2, at_least=0, below=1)
    conv_padding: Literal["mindcv", "symmetric", "same"] = key(
        "padding of strided convolutions: as MindCV, as torchvision and timm, as TensorFlow", "mindcv"
    )
    bn_eps: float = key("epsilon of BatchNorm", 1e-5, above=0, at_most=1)
    bn_momentum: float = key("share of its old statistics that a BatchNorm keeps in a step", 0.9, at_least=0, below=1)
    ckpt_path: str = key("train: weights to start from; validate: weights to check", "", is_path=True)
    freeze: Literal["backbone"] | int | None = key(
        "what is not trained: backbone, all but the head; or N, the first N rows of the network's table",
        None,
        at_least=1,
    )
    new_head: Literal["probe", "random"] = key(
        "a last layer that the weights do not have for these classes: fitted to the training images before the first "
        "epoch, or random",
        "probe",
    )
    probe_only: bool = key(
        "fit the last layer to the training images, score and save it, and train nothing",
        False,
    )
    pretrained: bool = key("start from the weights that MindCV published; downloaded once", False)
    quantize: Literal["int8"] | None = key(
        "int8: train with everything rounded as in the int8 file that export then writes (quantisation-aware), from "
        "weights that were trained without",
        None,
    )


@dataclass(frozen=True)
class Optimizer:
    """optimizer"""

    opt: Literal["sgd", "momentum", "adam", "adamw", "rmsprop", "adagrad", "lamb"] = key("optimizer")
    lr: float = key("peak learning rate", above=0)
    base_batch_size: int | None = key(
        "global batch for which lr was tuned; lr is scaled by the global batch of the run over it",
        None,
        at_least=1,
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
    class_weights: tuple[float, ...] | Literal["balanced"] | None = key(
        "what the loss of an image counts, by its class, in the order of the classes; balanced: all classes count the "
        "same, however many images they have",
        None,
        above=0,
    )
    teacher: str | tuple[str, ...] = key(
        "checkpoint of a network whose predictions are learned besides the labels; given several times: their mean",
        "",
        is_path=True,
    )
    teacher_temperature: float = key("what logits are divided by in that comparison", 2.0, above=0, at_most=1000)
    teacher_share: float = key("share of that comparison in the loss", 0.9, above=0, at_most=1)

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
    patience: int | None = key(
        "epochs without a better top-1 after which the training ends; left out: it goes on", None, at_least=1
    )
    ckpt_save_dir: str = key("folder for checkpoints, results.csv and the resolved recipe", "./ckpt", is_path=True)
    tensorboard: bool = key(
        "write events for TensorBoard into the folder tensorboard in ckpt_save_dir",
        False,
    )
    resume: bool | str = key("go on with the run in ckpt_save_dir, or with the state file named", False, is_path=True)
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
        return dump({name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()})

    def save(self, path: Path) -> None:
        """Write the recipe so that `--config` reads it back."""
        write_text(path, self.text())


TOPICS: dict[str, Any] = {topic.name: topic.type for topic in fields(Recipe) if dataclasses.is_dataclass(topic.type)}
KEYS: dict[str, dataclasses.Field] = {key.name: key for topic in TOPICS.values() for key in fields(topic)}
KINDS: dict[str, Any] = {name: kind for topic in TOPICS.values() for name, kind in typing.get_type_hints(topic).items()}

# fmt: off
# What a resumed run may change: where, how fast, how long, what it reports and keeps.
MAY_CHANGE = {
    "mode", "device_target", "distribute", "jit_level", "dataset_sink_mode", "cpu_kernels", "num_parallel_workers",
    "compile_cache", "dry_run", "show_batch", "data_dir", "val_split", "on_corrupt", "ckpt_path", "pretrained",
    "new_head", "probe_only", "epoch_size", "val_amp_level", *(key.name for key in fields(Output)),
    "teacher",  # the files themselves must be the same
}
# What no compiled graph depends on: where images and weights come from, what the host does with images, the learning
# rates (they are parameters), what a run reports and keeps.
NOT_IN_GRAPH = {
    "num_parallel_workers", "compile_cache", "dry_run", "show_batch", "data_dir", "train_split", "val_split",
    "val_share", "val_fold", "shuffle", "sampling", "num_samples", "on_corrupt", "follow_exif", "scale", "ratio",
    "hflip", "vflip", "color_jitter", "auto_augment", "aug_repeats", "interpolation", "crop_pct", "ckpt_path",
    "pretrained", "new_head", "probe_only", "class_weights", "lr", "base_batch_size", "base_updates",
    *(key.name for key in [*fields(Schedule), *fields(Output)]),
    "teacher",  # by what the file holds, which `compile_cache.key_of` is told
}
# fmt: on

ANY = object()
# What MindCV's recipes may hold and this project does not do: the values that change nothing, and what to do instead.
FOREIGN_KEYS: dict[str, tuple[tuple, str]] = {
    "aug_splits": ((0,), "split augmentation is not supported"),
    "aux_factor": ((0,), "MobileNetV3 has no auxiliary output"),
    "amp_cast_list": ((None, ""), "choose the precision with amp_level"),
    "ckpt_url": ((ANY,), ""),
    "data_url": ((ANY,), ""),
    "dataset_download": ((False,), "images are not downloaded; put them under data_dir"),
    "drop_path_rate": ((None, 0), "MobileNetV3 has no drop path; use drop_rate"),
    "dynamic_loss_scale": ((False,), "use loss_scale_type: dynamic"),
    "enable_modelarts": ((False,), "ModelArts is not supported; use data_dir and ckpt_save_dir"),
    "eval_shuffle": ((False,), "validation keeps its order; scores do not depend on it"),
    "filter_bias_and_bn": ((False,), "use weight_decay_filter: norm_and_bias"),
    "multi_data_url": ((ANY,), ""),
    "reduction": (("mean",), "the loss is the mean over the batch"),
    "resume_opt": ((False,), "use --resume, which needs no other key"),
    "train_url": ((ANY,), ""),
}
