"""The network of a recipe, in the number format of the device."""

from mindspore import amp, nn

from mindcv_lite import recipe
from mindcv_lite.mobilenetv3 import VARIANTS, MobileNetV3


def build_network(model: recipe.Model, amp_level: str) -> nn.Cell:
    """Freshly drawn; float32 parameters whatever the `amp_level` of the arithmetic, float32 logits."""
    assert model.num_classes, "the recipe's num_classes is filled in from the photos"
    network = MobileNetV3(
        VARIANTS[model.model], model.num_classes, model.in_channels, model.drop_rate, model.conv_padding, model.bn_eps
    )
    return amp.auto_mixed_precision(network, amp_level)
