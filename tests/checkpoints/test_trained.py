"""What a checkpoint means where its card, or nothing, says so."""

from collections.abc import Callable
from pathlib import Path

import mindspore
import pytest

from mindcv_lite.checkpoints.trained import read_trained, recipe_to_evaluate
from mindcv_lite.checkpoints.weights import read_weights
from mindcv_lite.errors import UserError
from mindcv_lite.models.build import build_network
from mindcv_lite.recipe.load import recipe_without_training


@pytest.fixture
def nameless(recipe, graph_mode, tmp_path) -> Callable[[str], str]:
    """Make a checkpoint of a network as MindCV saves it, without a card."""

    def save(model: str) -> str:
        path = tmp_path / f"{model}.ckpt"
        mindspore.save_checkpoint(build_network(recipe(model=model, num_classes=7).model, "O0"), str(path))
        return str(path)

    return save


@pytest.mark.parametrize("model", ["mobilenet_v3_large_075", "mobilenet_v3_small_minimalistic_100"])
def test_a_file_without_a_card_is_of_the_network_that_it_fits(nameless, model):
    path = nameless(model)
    found = recipe_to_evaluate(read_weights(path), recipe_without_training())
    assert (found.model.model, found.model.num_classes) == (model, 7)
    assert read_trained(path).recipe.model.model == model


def test_a_network_that_is_given_stays(nameless):
    weights = read_weights(nameless("mobilenet_v3_small_075"))
    given = recipe_without_training(model="mobilenet_v3_large_100")
    assert recipe_to_evaluate(weights, given).model.model == "mobilenet_v3_large_100"


def test_a_checkpoint_without_ranges_is_not_evaluated_in_int8(nameless):
    weights = read_weights(nameless("mobilenet_v3_small_075"))
    with pytest.raises(UserError, match="was trained without quantize, and has no ranges: leave out --quantize"):
        recipe_to_evaluate(weights, recipe_without_training().with_keys(quantize="int8"))


def test_a_file_that_fits_no_network_is_refused(tmp_path):
    path = Path(tmp_path, "x.ckpt")
    head = mindspore.Parameter(mindspore.ops.ones((7, 5)), "classifier.3.weight")
    mindspore.save_checkpoint([{"name": head.name, "data": head}], str(path))
    with pytest.raises(UserError, match="not a network of this project; it comes nearest"):
        recipe_to_evaluate(read_weights(str(path)), recipe_without_training())
