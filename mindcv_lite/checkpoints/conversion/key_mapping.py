"""Weights of other projects: what they call our parameters, and what their numbers mean.

The layers are named once, along the block table (`layers_of`); both directions of a conversion read that list.
"""

import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindcv_lite.checkpoints.weights import HEAD, STEM, first_of, misfits
from mindcv_lite.errors import UserError
from mindcv_lite.models.block_tables import ROWS_BEGIN, VARIANTS, Part, Variant
from mindcv_lite.recipe.values import checked_value

log = logging.getLogger(__name__)


class Origin(NamedTuple):
    """Who trained the weights: whose names they bear, the network's conventions, and the images it was shown."""

    naming: str
    conv_padding: str
    bn_eps: float
    interpolation: str
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    crop_pct: float = 0.875


# fmt: off
ORIGINS = {
    "torchvision": Origin("torchvision", "symmetric", bn_eps=1e-3, interpolation="bilinear"),
    "timm":        Origin("timm",        "symmetric", bn_eps=1e-5, interpolation="bicubic"),
    "tf":          Origin("timm",        "same",      bn_eps=1e-3, interpolation="bilinear",
                          mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)),  # TensorFlow's, ported by timm
    "mindcv":      Origin("mindcv",      "mindcv",    bn_eps=1e-5, interpolation="bilinear"),
}
# Weights that were shown other images than most of their origin, by a part of their published name.
EXCEPTIONS = {
    "torchvision": {"5c1a4163": {"crop_pct": 224 / 232}},  # mobilenet_v3_large, IMAGENET1K_V2
    "timm": {"miil": {"mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0), "interpolation": "bilinear"},
             "ra4_": {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5), "crop_pct": 0.95}},
}
# The networks that take our weights, as each project calls them.
NETWORKS = {
    "torchvision": {
        "mobilenet_v3_small_100": "mobilenet_v3_small()",
        "mobilenet_v3_large_100": "mobilenet_v3_large()",
        **{
            f"mobilenet_v3_{size}_{percent:03}": f"mobilenet_v3_{size}(width_mult={percent / 100:g})"
            for size in ("small", "large")
            for percent in (35, 50, 75, 125)
        },
    },
    "timm": {
        "mobilenet_v3_small_100": "mobilenetv3_small_100",
        "mobilenet_v3_large_100": "mobilenetv3_large_100",
        "mobilenet_v3_small_timm_050": "mobilenetv3_small_050",
        "mobilenet_v3_small_timm_075": "mobilenetv3_small_075",
        "mobilenet_v3_large_timm_075": "mobilenetv3_large_075",
    },
    "tf": {
        "mobilenet_v3_small_timm_075": "tf_mobilenetv3_small_075",
        "mobilenet_v3_large_timm_075": "tf_mobilenetv3_large_075",
        "mobilenet_v3_small_100": "tf_mobilenetv3_small_100",
        "mobilenet_v3_large_100": "tf_mobilenetv3_large_100",
        "mobilenet_v3_small_minimalistic_100": "tf_mobilenetv3_small_minimal_100",
        "mobilenet_v3_large_minimalistic_100": "tf_mobilenetv3_large_minimal_100",
    },
}
# fmt: on

# ------------------------------------------------------------------------------------------------------------- names


class Layer(NamedTuple):
    """A layer with parameters: the shape of its weights, the others being (outputs,), and its name in each naming."""

    kind: str
    shape: tuple[int, ...]
    mindcv: str
    torchvision: str
    timm: str


# The parameters of a layer in MindSpore and in PyTorch.
PARAMETERS = {
    "convolution": {"weight": "weight"},
    "with bias": {"weight": "weight", "bias": "bias"},
    "norm": {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
}
STEM_LAYER = {"torchvision": "features.0.0", "timm": "conv_stem", "mindcv": "features.0"}
LOGITS_LAYER = {"torchvision": "classifier.3", "timm": "classifier", "mindcv": "classifier.3"}


def layers_of(variant: Variant, num_classes: int, in_channels: int) -> Iterator[Layer]:
    """The layers of the network, from the image to the logits. (Torchvision counts stem and norms as one layer.)"""
    channels = variant.scaled_stem()
    yield Layer("convolution", (channels, in_channels, 3, 3), **STEM_LAYER)
    yield Layer("norm", (channels,), "features.1", "features.0.1", "bn1")
    stages = [list(stage) for _, stage in itertools.groupby(variant.rows, key=lambda row: row.out)]  # timm's
    timm_names = [f"blocks.{stage}.{block}" for stage, rows in enumerate(stages) for block in range(len(rows))]
    bottlenecks = zip(variant.bottlenecks(), timm_names, strict=True)
    for ours, ((row, parts), timm) in enumerate(bottlenecks, ROWS_BEGIN):
        yield from _bottleneck_layers(parts, f"features.{ours}.layers", f"features.{ours - 2}.block", timm)
        channels = row.out
    ours, timm = ROWS_BEGIN + len(variant.rows), f"blocks.{len(stages)}.0"
    last, hidden = 6 * channels, variant.scaled_hidden()
    yield Layer("convolution", (last, channels, 1, 1), f"features.{ours}", f"features.{ours - 2}.0", f"{timm}.conv")
    yield Layer("norm", (last,), f"features.{ours + 1}", f"features.{ours - 2}.1", f"{timm}.bn1")
    yield Layer("with bias", (hidden, last), "classifier.0", "classifier.0", "conv_head")
    yield Layer("with bias", (num_classes, hidden), **LOGITS_LAYER)


def _bottleneck_layers(parts: list[Part], mindcv: str, torchvision: str, timm: str) -> Iterator[Layer]:
    """The layers of one bottleneck: MindCV counts activations, torchvision counts parts, timm names them."""
    last = "conv_pwl" if parts[0].name == "expand" else "conv_pw"
    timm_names = {"expand": "conv_pw", "depthwise": "conv_dw", "project": last}
    norms = itertools.count(1)
    for number, part in enumerate(parts):
        if part.name == "squeeze_excite":
            reduce, expand = (part.squeezed, part.inputs, 1, 1), (part.outputs, part.squeezed, 1, 1)
            for ours, theirs, shape in (("conv_reduce", "fc1", reduce), ("conv_expand", "fc2", expand)):
                names = f"{mindcv}.{part.index}.{ours}", f"{torchvision}.{number}.{theirs}", f"{timm}.se.{ours}"
                yield Layer("with bias", shape, *names)
        else:
            names = f"{mindcv}.{part.index}", f"{torchvision}.{number}.0", f"{timm}.{timm_names[part.name]}"
            yield Layer("convolution", (part.outputs, part.inputs // part.group, part.kernel, part.kernel), *names)
            names = f"{mindcv}.{part.index + 1}", f"{torchvision}.{number}.1", f"{timm}.bn{next(norms)}"
            yield Layer("norm", (part.outputs,), *names)


class ForeignParameter(NamedTuple):
    """One of our parameters as a file of another naming holds it: its name and shape there, and our shape."""

    name: str
    shape: tuple[int, ...]
    our_shape: tuple[int, ...]


def foreign_parameters(model: str, num_classes: int, naming: str, in_channels: int = 3) -> dict[str, ForeignParameter]:
    """The name and shape in `naming` of each parameter of our network."""
    found = {}
    for layer in layers_of(VARIANTS[model], num_classes, in_channels):
        for ours, theirs in PARAMETERS[layer.kind].items():
            name = f"{getattr(layer, naming)}.{ours if naming == 'mindcv' else theirs}"
            shape = layer.shape if ours == "weight" else layer.shape[:1]
            # timm's hidden layer of the head is a convolution.
            their_shape = (*shape, 1, 1) if name == "conv_head.weight" else shape
            found[f"{layer.mindcv}.{ours}"] = ForeignParameter(name, their_shape, shape)
    return found


STEMS = {naming: f"{layer}.weight" for naming, layer in STEM_LAYER.items()}


def unwrapped(tensors: Mapping[str, np.ndarray], path: Path) -> Mapping[str, np.ndarray]:
    """The tensors of the network, without what its wrappers put before their names, such as `module.`, `model.` or
    `backbone.`; what else a training program keeps beside them, such as a loss, is left out."""
    if any(stem in tensors for stem in STEMS.values()):
        return tensors
    before = [name.removesuffix(stem) for name in tensors for stem in STEMS.values() if name.endswith(f".{stem}")]
    if not before:
        return tensors
    wrapper = min(before, key=lambda name: (name.count("."), len(name)))  # of one network and its mean, the outer one
    log.info("%s: the parameters of '%s' are taken", path, wrapper.removesuffix("."))
    return {name.removeprefix(wrapper): value for name, value in tensors.items() if name.startswith(wrapper)}


def naming_of(tensors: Mapping[str, np.ndarray], path: Path) -> str:
    """Whose names the tensors bear, told by the first layer's. Raises `UserError` if nobody's."""
    for naming, stem in STEMS.items():
        if stem in tensors:
            return naming
    expected = ", ".join(f"'{stem}' ({naming})" for naming, stem in STEMS.items())
    got = f"'{next(iter(tensors))}'" if tensors else "no tensor"
    raise UserError(f"{path}: not a MobileNetV3 of a known project; expected a parameter {expected}, got {got}")


def our_parameters(tensors: Mapping[str, np.ndarray], naming: str, path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The model that `tensors` are the weights of, and its parameters under our names, in float32.

    Raises `UserError` that names what does not fit the model that comes nearest.
    """
    logits = f"{LOGITS_LAYER[naming]}.weight"
    num_classes = max((1, *tensors[logits].shape[:1])) if logits in tensors else 1
    stem = tensors.get(STEMS[naming])
    in_channels = 1 if stem is not None and stem.shape[1:2] == (1,) else 3
    faults = {}
    for name, value in tensors.items():
        if not np.issubdtype(value.dtype, np.integer) and not np.isfinite(value.astype(np.float32)).all():
            raise UserError(f"{path}: '{name}' holds numbers that are not finite: the weights of a run that failed")
    for model in VARIANTS:
        wanted = foreign_parameters(model, num_classes, naming, in_channels)
        faults[model] = misfits(tensors, {theirs.name: theirs for theirs in wanted.values()})
        if not faults[model]:
            return model, {
                ours: tensors[theirs.name].reshape(theirs.our_shape).astype(np.float32)
                for ours, theirs in wanted.items()
            }
    nearest = min(faults, key=lambda model: len(faults[model]))
    raise UserError(
        f"{path}: not a network of this project; it comes nearest to {nearest}, but {first_of(faults[nearest])}"
    )


def their_tensors(parameters: Mapping[str, np.ndarray], model: str, naming: str) -> dict[str, np.ndarray]:
    """The parameters of our `model` under the names of torchvision or timm, complete for a strict loading there."""
    wanted = foreign_parameters(model, len(parameters[HEAD[1]]), naming, parameters[STEM].shape[1])
    tensors = {theirs.name: parameters[ours].reshape(theirs.shape) for ours, theirs in wanted.items()}
    norms = [name.removesuffix(".running_var") for name in tensors if name.endswith(".running_var")]
    return tensors | {f"{norm}.num_batches_tracked": np.zeros((), np.int64) for norm in norms}


def network_there(model: str, naming: str, conv_padding: str) -> tuple[str, str]:
    """The network of torchvision or timm that takes our `model`, of the padding if there is one, and its origin.

    Raises `UserError` if they have none.
    """
    known = {
        origin: networks[model]
        for origin, networks in NETWORKS.items()
        if ORIGINS[origin].naming == naming and model in networks
    }
    if not known:
        by_other_rules = naming == "timm" and VARIANTS[model].width != 1
        note = "; it scales a width by other rules, those of the models *_timm_*" if by_other_rules else ""
        raise UserError(f"{naming} has no network that takes the weights of {model}{note}")
    origin = min(known, key=lambda origin: ORIGINS[origin].conv_padding != conv_padding)
    return origin, known[origin]


# ----------------------------------------------------------------------------------------------------------- origins


class HubConfig(NamedTuple):
    """What the config.json of a model of the Hugging Face hub says: architecture, images and class names."""

    architecture: str
    images: dict[str, Any]
    class_names: list[str] | None

    @property
    def origin(self) -> str:
        return "tf" if self.architecture.startswith("tf_") else "timm"


def read_hub_config(weights: Path) -> HubConfig | None:
    """The config.json beside `weights`, if it is timm's of a MobileNetV3. Raises `UserError` if it is damaged."""
    path = weights.with_name("config.json")
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
        architecture = str(config.get("architecture"))
        if not re.match("(tf_)?mobilenetv3_", architecture):
            return None
        settings = config.get("pretrained_cfg", config)
        images = {name: settings[name] for name in ("crop_pct", "interpolation") if name in settings}
        images |= {n: [round(255 * value, 3) for value in settings[n]] for n in ("mean", "std") if n in settings}
        if "input_size" in settings:
            _, height, width = settings["input_size"]
            images["image_resize"] = width if height == width else [height, width]
        names = config.get("label_names")
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise UserError(f"{path}: not a config.json of timm ({error}); mend it, or move it away") from None
    images = {name: checked_value(name, value, str(path)) for name, value in images.items()}
    return HubConfig(architecture, images, [str(name) for name in names] if isinstance(names, list) else None)


def origin_of(naming: str, path: Path, wanted: str | None, hub: HubConfig | None) -> tuple[str, str]:
    """The origin of weights with names of `naming`, and what tells it. Raises `UserError` if nothing does."""
    if wanted:
        if ORIGINS[wanted].naming != naming:
            raise UserError(f"{path}: --origin is {wanted}, but the parameters have the names of {naming}")
        return wanted, f"--origin {wanted}"
    if naming != "timm":
        return naming, f"{naming}'s names"
    if hub:
        return hub.origin, f"{hub.architecture} in config.json"
    signs = {"tf": "(?<![a-z0-9])tf_", "timm": "(?<![a-z0-9])timm|mobilenetv3_"}  # names of TensorFlow's have both
    for origin, sign in signs.items():
        for name in _telling_names(path):
            if found := re.search(sign, name):
                return origin, f"'{found[0]}' in {name}"
    raise UserError(
        f"{path}: timm's own weights and TensorFlow's have the same names, but other padding, epsilon and images; "
        "say which these are: --origin timm or --origin tf"
    )


def images_of(origin: str, path: Path, hub: HubConfig | None) -> dict[str, Any]:
    """The images that weights of `origin` were trained for, as entries of the model card."""
    usual = ORIGINS[origin]._asdict()
    images = {name: usual[name] for name in ("crop_pct", "interpolation", "mean", "std")} | {"image_resize": 224}
    for part, others in EXCEPTIONS.get(origin, {}).items():
        if any(part in name for name in _telling_names(path)):
            images |= others
    return images | (hub.images if hub and hub.origin == origin else {})


def _telling_names(path: Path) -> list[str]:
    """Names that may tell what a file holds: its own, its folder's, and the model's in the hub's cache."""
    path = path.absolute()
    return [path.name, path.parent.name, *(part for part in path.parts if part.startswith("models--"))]
