"""A linear probe: the last layer by logistic regression on what it sees of all training images, before fine-tuning.

Fine-tuning from a random last layer distorts what the weights bring (Kumar et al. 2022,
https://arxiv.org/abs/2202.10054); from a probe it begins with the best that they give as they are.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from mindspore import Tensor, nn
from scipy.optimize import minimize

from mindcv_lite.checkpoints.weights import HEAD
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.pipeline import evaluation_batches
from mindcv_lite.data.sharding import class_weights_of
from mindcv_lite.device.context import evaluating
from mindcv_lite.device.ranks import World
from mindcv_lite.evaluation.score import Inference
from mindcv_lite.models.build import evaluation_network
from mindcv_lite.recipe.keys import Recipe

log = logging.getLogger(__name__)

PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # that are tried, from the strongest on
FOLDS = 5
HELD_OUT = 1000  # images, after which no more folds are tried
COMPARED = 10_000  # images of all, on which penalties are compared
LOGITS_AT_ONCE = 2**22


def fit_last_layer(network: nn.Cell, images: Split, recipe: Recipe, world: World) -> None:
    """Fit the last layer of `network` to the images; its other weights stay. Every rank must call it.

    Raises `UserError` if an image cannot be decoded.
    """
    began = time.perf_counter()
    features, labels = world.all_or_none(lambda: features_of(network, images, recipe, world))
    centre, scale = normalise(features, len(images), world)
    extracted = time.perf_counter()

    weight, bias = (network.parameters_dict()[name] for name in HEAD)
    indices = world.rank + world.size * np.arange(len(labels))  # of this rank's images among all
    class_weights = class_weights_of(recipe.loss.class_weights, images.labels, len(weight))
    if recipe.data.sampling == "balanced":  # each image is seen once here, and counts as it will in training
        class_weights *= class_weights_of("balanced", images.labels, len(weight))
    penalty, right = best_penalty(features, labels, indices, class_weights, len(images), world)
    solution = Regression(features, labels, class_weights, world).solve(penalty)
    solution = world.sum(solution * (world.rank == 0))  # the same on all ranks to the last bit
    slopes = solution[:, :-1] / scale
    weight.set_data(Tensor(slopes.astype(np.float32)))
    bias.set_data(Tensor((solution[:, -1] - slopes @ centre).astype(np.float32)))
    log.info(
        "last layer fitted to %d features of %d images in %.1f + %.1f s: penalty %g, %.1f%% right on images held out",
        *(len(centre), len(images), extracted - began, time.perf_counter() - extracted, penalty, 100 * right),
    )


def features_of(network: nn.Cell, split: Split, recipe: Recipe, world: World) -> tuple[np.ndarray, np.ndarray]:
    """What the last layer of `network` sees of this rank's share of the images, prepared as for evaluation, float32
    (n, features); and their labels (n,). Raises `UserError` that names an image that cannot be decoded."""
    trained = network.parameters_dict()
    width = trained[HEAD[0]].shape[1]
    # A last layer that passes on what it sees: then the logits are the features.
    passing_on = dict(zip(HEAD, (np.eye(width, dtype=np.float32), np.zeros(width, np.float32)), strict=True))
    copy = evaluation_network(replace(recipe.model, num_classes=width), world)
    for name, parameter in copy.parameters_dict().items():
        parameter.set_data(Tensor(passing_on.get(name, trained[name].asnumpy())))
    inference = Inference(copy, recipe.augmentation, world.cpu_kernels).set_train(False)
    features, labels = [], []
    with evaluating(world, recipe, len(split)):
        for images, of_images, weights, *_ in evaluation_batches(split, recipe, world):
            with world.compiling(inference):
                seen = inference(Tensor(images)).asnumpy()
            features.append(seen[weights > 0])
            labels.append(of_images[weights > 0])
    return np.concatenate(features), np.concatenate(labels)


def normalise(features: np.ndarray, count: int, world: World) -> tuple[np.ndarray, float]:
    """Give the `count` features of all ranks mean 0 and, all of them together, variance 1, in place; the means (n,) and
    the deviation that they had."""
    centre = world.sum(features.sum(0, dtype=np.float64)) / count
    features -= centre.astype(np.float32)
    variance = world.sum(np.square(features).sum(dtype=np.float64, keepdims=True)[0]) / (count * len(centre))
    scale = float(np.sqrt(variance[0])) or 1.0
    features /= np.float32(scale)
    return centre, scale


def best_penalty(
    features: np.ndarray, labels: np.ndarray, indices: np.ndarray, class_weights: np.ndarray, count: int, world: World
) -> tuple[float, float]:
    """The penalty with which images that are held out are the likeliest, and the share of them whose class is then
    predicted. `indices`: of this rank's images among the `count` of all ranks, whatever the number of ranks."""
    stride = -(-count // COMPARED)
    folds = indices // stride % FOLDS
    losses, right, seen = np.zeros(len(PENALTIES)), np.zeros(len(PENALTIES)), 0
    for fold in range(FOLDS):
        compared = indices % stride == 0
        kept, held_out = compared & (folds != fold), compared & (folds == fold)
        regression = Regression(features[kept], labels[kept], class_weights, world)
        rest = Regression(features[held_out], labels[held_out], class_weights, world)
        if not rest.count:  # fewer images than folds
            break
        solution = None
        for number, penalty in enumerate(PENALTIES):
            solution = regression.solve(penalty, solution)
            losses[number] += rest.loss(solution) * rest.count
            right[number] += rest.right(solution)
        seen += rest.count
        if seen >= HELD_OUT:
            break
    best = int(losses.argmin())
    return PENALTIES[best], right[best] / seen


class Regression:
    """Multinomial logistic regression on the rows of all ranks: features float32 (n, features), labels (n,). The loss
    of a row counts as much as `class_weights`, float32 (classes,), say of its label.

    A solution is an array (classes, features + 1), whose last column are the biases.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, class_weights: np.ndarray, world: World):
        self.features, self.labels, self.class_weights, self.world = features, labels, class_weights, world
        self.classes = len(class_weights)
        self.count = int(world.sum(np.array([len(labels)], np.float64))[0])

    def solve(self, penalty: float, start: np.ndarray | None = None) -> np.ndarray:
        """The solution of the least mean loss plus `penalty` / 2 times the sum of its squares without the biases."""
        shape = self.classes, self.features.shape[1] + 1

        def objective(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            solution = numbers.reshape(shape)
            loss, gradient = self.loss_and_gradient(solution)
            slopes = solution[:, :-1]
            gradient[:, :-1] += penalty * slopes
            return loss + penalty / 2 * np.square(slopes).sum(), gradient.ravel()

        begin = np.zeros(shape) if start is None else start
        options = {"maxiter": 300, "gtol": 1e-4, "ftol": 1e-7}
        return minimize(objective, begin.ravel(), method="L-BFGS-B", jac=True, options=options).x.reshape(shape)

    def loss_and_gradient(self, solution: np.ndarray) -> tuple[float, np.ndarray]:
        sums = np.zeros(1 + solution.size)
        gradient = sums[1:].reshape(solution.shape)
        for features, labels, logits in self._chunks(solution):
            own = np.arange(len(labels)), labels
            weights = self.class_weights[labels]
            logits -= logits.max(1, keepdims=True)
            right = logits[own]
            shares = np.exp(logits, out=logits)
            totals = shares.sum(1, keepdims=True)
            sums[0] += (weights * (np.log(totals[:, 0]) - right)).sum(dtype=np.float64)
            shares /= totals
            shares[own] -= 1
            shares *= weights[:, None]
            gradient[:, :-1] += shares.T @ features
            gradient[:, -1] += shares.sum(0)
        sums = self.world.sum(sums) / self.count
        return sums[0], sums[1:].reshape(solution.shape)

    def loss(self, solution: np.ndarray) -> float:
        return self.loss_and_gradient(solution)[0]

    def right(self, solution: np.ndarray) -> float:
        """How many rows are of the predicted class."""
        count = sum((logits.argmax(1) == labels).sum() for _, labels, logits in self._chunks(solution))
        return self.world.sum(np.array([count], np.float64))[0]

    def _chunks(self, solution: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Features, labels and logits of some rows at a time."""
        slopes, biases = solution[:, :-1].T.astype(np.float32), solution[:, -1].astype(np.float32)
        for first in range(0, len(self.labels), rows := max(1, LOGITS_AT_ONCE // self.classes)):
            features = self.features[first : first + rows]
            yield features, self.labels[first : first + rows], features @ slopes + biases
