"""Weights averaged over checkpoints: their mean, or a greedy soup of them (Wortsman et al. 2022,
https://arxiv.org/abs/2203.05482), and the statistics that BatchNorm then needs (Izmailov et al. 2018,
https://arxiv.org/abs/1803.05407)."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindcv_lite.checkpoints.model_card import CARD_KEYS
from mindcv_lite.checkpoints.trained import Trained, read_trained
from mindcv_lite.checkpoints.weights import first_of, misfits, network_part, require_numbers
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.pipeline import mixed_batches
from mindcv_lite.device.ranks import World
from mindcv_lite.errors import UserError
from mindcv_lite.evaluation.score import Inference
from mindcv_lite.files import composed
from mindcv_lite.models.build import evaluation_network, moving_statistics
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.recipe.yaml_io import plain

log = logging.getLogger(__name__)

Parameters = dict[str, np.ndarray]  # of a network, float32, by name


def read_alike(paths: Sequence[str], **keys: Any) -> list[Trained]:
    """Read checkpoints, as `read_trained`. Raises `UserError` unless they are of one network and mean the same."""
    first, *others = (read_trained(path, **keys) for path in paths)
    first.network()  # raises `UserError` where the weights are not of the network that the card names
    for each in (first, *others):
        if each.recipe.model.quantize:
            raise UserError(
                f"{each.weights.path}: was trained with quantize int8, and ranges have no mean; "
                "average checkpoints that were trained without, and train the average with --quantize"
            )
    meant = meaning_of(first)
    for other in others:
        path = other.weights.path
        for name, value in meaning_of(other).items():
            if value != meant[name]:
                raise UserError(
                    f"{path}: its {name} is {plain(value)}, that of {first.weights.path} {plain(meant[name])}; "
                    "average checkpoints of one network and recipe"
                )
        if faults := misfits(parameters_of(other), parameters_of(first)):
            raise UserError(f"{path} does not fit its network: {first_of(faults)}")
        require_numbers(parameters_of(other), path)
    return [first, *others]


def meaning_of(trained: Trained) -> dict[str, Any]:
    """What the model card of an average must say, and the cards of all that is averaged agree on."""
    flat = trained.recipe.flat()
    names = trained.weights.class_names
    alike = tuple(name and composed(name) for name in names) if names else None  # accents may be written in two ways
    return {name: flat[name] for name in CARD_KEYS} | {"class_names": alike}


def parameters_of(trained: Trained) -> Parameters:
    return {name: value.asnumpy().astype(np.float32) for name, value in network_part(trained.weights).items()}


def mean_of(checkpoints: Sequence[Parameters]) -> Parameters:
    """The mean of each parameter, moving statistics included."""
    return {
        name: np.mean([each[name] for each in checkpoints], axis=0, dtype=np.float64).astype(np.float32)
        for name in checkpoints[0]
    }


def greedy_soup(
    checkpoints: Sequence[Parameters],
    names: Sequence[str],
    mix: Callable[[Sequence[Parameters]], Parameters],
    top1_of: Callable[[Parameters], float],
) -> tuple[list[int], Parameters, float]:
    """The checkpoints that are kept, the best one first, their mix and its top-1.

    In the order of their own top-1, each is kept unless the mix with it scores lower than the mix without it.
    """
    alone = [top1_of(each) for each in checkpoints]
    for name, top1 in zip(names, alone, strict=True):
        log.info("%s: top-1 %.2f%%", name, 100 * top1)
    best, *others = sorted(range(len(checkpoints)), key=lambda number: -alone[number])
    kept, soup, score = [best], checkpoints[best], alone[best]
    for number in others:
        mixed = mix([checkpoints[index] for index in (*kept, number)])
        top1 = top1_of(mixed)
        log.info("with %s: top-1 %.2f%%, %s", names[number], 100 * top1, "kept" if top1 >= score else "left out")
        if top1 >= score:
            kept, soup, score = [*kept, number], mixed, top1
    return kept, soup, score


class Statistics:
    """What BatchNorm normalises by in evaluation, estimated anew from training images for any weights.

    The means, over batches, of the mean and the unbiased variance of each batch, as PyTorch's `update_bn` takes them.
    A batch passes as in training, without dropout; its images are prepared as in evaluation, without augmentation.
    """

    def __init__(self, images: Split, recipe: Recipe, world: World):
        self.images, self.recipe, self.world = images, recipe, world
        # A BatchNorm that keeps nothing of its old statistics has those of the last batch.
        self.network = evaluation_network(replace(recipe.model, bn_momentum=0.0), world)
        self.inference = Inference(self.network, recipe.augmentation, world.cpu_kernels).set_train(True)

    def anew(self, parameters: Parameters) -> Parameters:
        """The parameters with other statistics. Raises `UserError` if an image cannot be decoded, or there are none."""
        put(self.network, parameters)
        statistics = moving_statistics(self.network)
        sums = {statistic.name: np.zeros(statistic.shape) for statistic in statistics}
        batches = mixed_batches(self.images, self.recipe, self.world)
        for images, *_ in batches:
            self.inference(Tensor(images))
            for statistic in statistics:
                sums[statistic.name] += statistic.asnumpy()
        means = {name: (total / len(batches)).astype(np.float32) for name, total in sums.items()}
        if not all(np.isfinite(mean).all() for mean in means.values()):
            raise UserError("BatchNorm's new statistics are no finite numbers: too few images, or damaged weights")
        log.info("BatchNorm's statistics estimated anew from %d images", len(batches) * self.recipe.data.batch_size)
        return parameters | means


def put(network: nn.Cell, parameters: Parameters) -> None:
    for name, parameter in network.parameters_dict().items():
        parameter.set_data(Tensor(parameters[name]))
