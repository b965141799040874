"""Encoded images to uint8 images (height, width, 3), by MindSpore's C++ operators."""

from mindspore.dataset import vision
from mindspore.dataset.vision import ConvertMode, Inter

from mindcv_lite.data.transforms.auto_augment import policy_of
from mindcv_lite.recipe.auto_augment import parse
from mindcv_lite.recipe.keys import Augmentation

INTERPOLATIONS = {
    "bilinear": Inter.BILINEAR,
    "bicubic": Inter.BICUBIC,
    "nearest": Inter.NEAREST,
    "area": Inter.AREA,
}


def training_transforms(augmentation: Augmentation, in_channels: int) -> list:
    """Random crop of random area and shape, flips, colour jitter or automatic augmentation."""
    interpolation = INTERPOLATIONS[augmentation.interpolation]
    size = augmentation.input_size
    transforms = [vision.RandomCropDecodeResize(size, augmentation.scale, augmentation.ratio, interpolation)]
    if augmentation.hflip > 0 or augmentation.vflip > 0:
        # One operator for both: MindSpore seeds all alike, and two would turn the same images over.
        flips = [(vision.HorizontalFlip(), augmentation.hflip), (vision.VerticalFlip(), augmentation.vflip)]
        transforms += [vision.RandomSelectSubpolicy([flips])]
    if augmentation.auto_augment:
        mean = [round(min(max(level, 0), 255)) for level in augmentation.mean]
        red, green, blue = mean * (3 // len(mean))
        transforms += policy_of(parse(augmentation.auto_augment), size, interpolation, (red, green, blue))
    elif augmentation.color_jitter:
        jitter = augmentation.color_jitter
        transforms += [vision.RandomColorAdjust(brightness=jitter, contrast=jitter, saturation=jitter)]
    return transforms + _channels(in_channels)


def evaluation_transforms(augmentation: Augmentation, in_channels: int) -> list:
    """Resize so that the image just covers image_resize / crop_pct, then cut out the centre.

    For a square this is a resize of the shorter side.
    """
    interpolation = INTERPOLATIONS[augmentation.interpolation]
    height, width = augmentation.resized_size
    if height == width:
        resize = vision.Resize(height, interpolation)
    else:
        # No operator covers a rectangle. A crop of twice the area of the image fits nowhere, and this one takes the
        # largest part of the shape instead, from the centre; nothing of it is random.
        shape = width / height
        resize = vision.RandomResizedCrop((height, width), (2.0, 2.0), (shape, shape), interpolation, max_attempts=1)
    return [vision.Decode(), resize, vision.CenterCrop(augmentation.input_size), *_channels(in_channels)]


def _channels(in_channels: int) -> list:
    return [vision.ConvertColor(ConvertMode.COLOR_RGB2GRAY)] if in_channels == 1 else []
