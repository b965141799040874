"""Averages of checkpoints: the mean to the bit, statistics of images alone, a soup that keeps what does no harm."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, ops

from mindcv_lite.checkpoints.model_card import model_card
from mindcv_lite.checkpoints.trained import read_trained
from mindcv_lite.checkpoints.weights import read_weights
from mindcv_lite.commands.average import main
from mindcv_lite.data.datasets.image_folder import read_split
from mindcv_lite.data.datasets.splits import validation_split
from mindcv_lite.data.pipeline import mixed_batches
from mindcv_lite.evaluation.score import EvaluationStep, evaluate
from mindcv_lite.evaluation.weight_averaging import Statistics, greedy_soup, mean_of
from mindcv_lite.models.build import build_network
from mindcv_lite.recipe.keys import Recipe
from mindcv_lite.runs.checkpoint_saver import save_weights

CLASSES = ("a", "b")
KEYS = {"model": "mobilenet_v3_small_minimalistic_100", "num_classes": 2, "num_parallel_workers": 1}
ON_THE_CPU = ("--device_target", "CPU", "--num_parallel_workers", "1", "--batch_size", "4")


def average(*arguments: object) -> None:
    main([*map(str, arguments)])


@pytest.fixture
def refused(refusal) -> Callable[..., str]:
    return partial(refusal, average)


@pytest.fixture
def checkpoint(recipe, tmp_path) -> Callable[..., Path]:
    """Write a checkpoint of random weights; its moving statistics are random, too."""

    def checkpoint(name: str, classes: tuple[str, ...] | None = CLASSES, **keys: Any) -> Path:
        wanted: Recipe = recipe(**KEYS | keys)
        random = np.random.default_rng(len(list(tmp_path.iterdir())))
        network = build_network(wanted.model, "O0")
        weights = {
            name: value.asnumpy() * random.uniform(0.5, 2, value.shape).astype(np.float32)
            for name, value in network.parameters_dict().items()
        }
        save_weights(tmp_path / name, weights, model_card(wanted, classes or (), epoch=3, top1=0.5))
        return tmp_path / name

    return checkpoint


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: value.asnumpy() for name, value in read_weights(str(path)).parameters.items()}


def test_the_mean_is_that_of_each_parameter_and_its_card_says_of_what(checkpoint, tmp_path):
    paths = [checkpoint(f"{number}.ckpt") for number in range(3)]
    before = [path.read_bytes() for path in paths]
    average(*paths, tmp_path / "mean.ckpt")
    mean, parts = arrays(tmp_path / "mean.ckpt"), [arrays(path) for path in paths]
    assert mean.keys() == parts[0].keys()
    for name, value in mean.items():
        expected = np.sum([part[name].astype(np.float64) for part in parts], axis=0) / 3
        np.testing.assert_array_equal(value, expected.astype(np.float32), err_msg=name)
    card = read_weights(str(tmp_path / "mean.ckpt")).card
    expected = read_weights(str(paths[0])).card
    assert card
    assert expected
    results = {expected.pop("epoch"), expected.pop("top1")}
    assert results == {3, 0.5}
    assert card == expected | {"averaged": ["0.ckpt", "1.ckpt", "2.ckpt"]}
    assert [path.read_bytes() for path in paths] == before


def test_accents_may_be_written_in_two_ways(checkpoint, tmp_path):
    average(checkpoint("0.ckpt", ("café", "b")), checkpoint("1.ckpt", ("cafe\u0301", "b")), tmp_path / "mean.ckpt")
    assert read_weights(str(tmp_path / "mean.ckpt")).class_names == ("café", "b")


def test_files_of_mindcv_are_averaged_by_its_conventions(recipe, graph_mode, tmp_path):
    import mindspore

    for number in range(2):
        network = build_network(recipe(num_classes=7).model, "O0")
        mindspore.save_checkpoint(network, str(tmp_path / f"{number}.ckpt"))
    average(tmp_path / "0.ckpt", tmp_path / "1.ckpt", tmp_path / "mean.ckpt")
    card = read_weights(str(tmp_path / "mean.ckpt")).card
    assert card
    assert (card["model"], card["conv_padding"], card["class_names"]) == ("mobilenet_v3_small_100", "mindcv", None)


# -------------------------------------------------------------------------------------------------------- with images


@pytest.fixture
def images(image_folder) -> Path:
    return image_folder({"train": {"a": 9, "b": 8}, "val": {"a": 5, "b": 4}})


def test_new_statistics_are_the_means_over_batches_whatever_the_old_ones(recipe, world, images, pynative_mode):
    wanted = recipe(**KEYS, data_dir=images)
    train = read_split(str(images), "train")
    network = build_network(wanted.model, "O0")
    weights = {name: value.asnumpy() for name, value in network.parameters_dict().items()}
    old = {name: value + 7 for name, value in weights.items() if "moving_" in name}
    statistics = Statistics(train, wanted, world(wanted))
    found = statistics.anew(weights | old)
    for name, value in statistics.anew(weights).items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)
        if "moving_" not in name:
            np.testing.assert_array_equal(value, weights[name], err_msg=name)

    # Of the stem, by NumPy: the convolution's output, before BatchNorm, of each batch.
    augmentation, means, variances = wanted.augmentation, [], []
    stem = ops.Conv2D(weights["features.0.weight"].shape[0], 3, stride=2, pad_mode="pad", pad=1)
    for pixels, *_ in mixed_batches(train, wanted, world(wanted)):
        x = ((pixels - np.array(augmentation.mean)) / np.array(augmentation.std)).transpose(0, 3, 1, 2)
        # pyrefly: ignore [missing-attribute]  (MindSpore does not say what its primitives return)
        y = stem(Tensor(x.astype(np.float32)), Tensor(weights["features.0.weight"])).asnumpy().astype(np.float64)
        means.append(y.mean((0, 2, 3)))
        variances.append(y.var((0, 2, 3), ddof=1))
    assert len(means) == 4  # of the 17 images, whole batches
    np.testing.assert_allclose(found["features.1.moving_mean"], np.mean(means, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["features.1.moving_variance"], np.mean(variances, 0), rtol=1e-4)


def test_a_batch_mixes_the_classes(recipe, world, image_folder):
    images = image_folder({"train": {"a": 40, "b": 40}})
    wanted = recipe(**KEYS | {"batch_size": 20}, num_samples=45)
    batches = list(mixed_batches(read_split(str(images), "train"), wanted, world(wanted)))
    assert len(batches) == 2
    assert all(5 < labels.sum() < 15 for _, labels, *_ in batches)


def test_a_single_checkpoint_gets_new_statistics_and_keeps_its_weights(checkpoint, images, tmp_path, capsys):
    path = checkpoint("ema.ckpt")
    average(path, tmp_path / "new.ckpt", "--data_dir", images, *ON_THE_CPU)
    before, after = arrays(path), arrays(tmp_path / "new.ckpt")
    assert all(np.array_equal(after[name], before[name]) == ("moving_" not in name) for name in before)
    assert "BatchNorm's statistics estimated anew from 16 images" in capsys.readouterr().out


@pytest.mark.usefixtures("three_rows")
def test_a_greedy_soup_scores_what_its_card_says_and_no_less_than_its_best_part(
    checkpoint, images, tmp_path, world, capsys
):
    paths = [checkpoint(f"{number}.ckpt") for number in range(3)]
    average(*paths, tmp_path / "soup.ckpt", "--greedy", "--data_dir", images, *ON_THE_CPU)
    keys = {"data_dir": images, "batch_size": 4, "device_target": "CPU", "num_parallel_workers": 1}

    def top1_of(path: Path) -> float:
        trained = read_trained(str(path), **keys)
        val, here = validation_split(trained.recipe, CLASSES), world(trained.recipe)
        return evaluate(EvaluationStep(trained.network(here), trained.recipe), val, trained.recipe, here).top1

    card = read_weights(str(tmp_path / "soup.ckpt")).card
    assert card
    assert card["top1"] == top1_of(tmp_path / "soup.ckpt") >= max(map(top1_of, paths))
    assert f"soup.ckpt: the mean of {len(card['averaged'])} of 3 checkpoints" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([3.0, -2.0, 10.0], [1, 0]),  # alone: -2 is the best; with 3 it is nearer to 0, with 10 it is further
        ([1.0, 1.0, 5.0], [0, 1]),  # of equal ones the first is the first, and what does not lower the score is kept
        ([0.0, 4.0], [0]),
    ],
)
def test_a_checkpoint_is_kept_unless_it_lowers_the_score(values, kept):
    checkpoints = [{"w": np.array([value], np.float32)} for value in values]
    found, soup, top1 = greedy_soup(
        checkpoints, "abc"[: len(values)], mean_of, lambda each: 1 - abs(each["w"].item()) / 10
    )
    assert found == kept
    assert soup["w"] == np.mean([values[number] for number in kept])
    assert top1 == pytest.approx(1 - abs(soup["w"].item()) / 10)


# ----------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"conv_padding": "same"}, "conv_padding is same, that of {first} mindcv"),
        ({"mean": [1.0, 2.0, 3.0]}, "mean is [1.0, 2.0, 3.0], that of {first} [123.675, 116.28, 103.53]"),
        ({"model": "mobilenet_v3_small_100"}, "model is mobilenet_v3_small_100, that of {first} mobilenet_v3_small_m"),
        ({"num_classes": 3}, "num_classes is 3, that of {first} 2"),
        ({"classes": ("b", "a")}, "class_names is ['b', 'a'], that of {first} ['a', 'b']"),
    ],
)
def test_weights_that_mean_something_else_are_refused(checkpoint, refused, tmp_path, keys, fault):
    first, other = checkpoint("first.ckpt"), checkpoint("other.ckpt", **keys)
    said = refused(first, other, tmp_path / "mean.ckpt")
    assert said.startswith(f"{other}: its {fault.format(first=first)}")


def test_weights_that_lack_a_parameter_are_refused(checkpoint, refused, tmp_path):
    first, other = checkpoint("first.ckpt"), checkpoint("other.ckpt")
    weights, card = arrays(other), read_weights(str(other)).card
    assert card
    other.unlink()
    save_weights(other, {name: value for name, value in weights.items() if name != "features.0.weight"}, card)
    said = refused(first, other, tmp_path / "mean.ckpt")
    assert said == f"{other} does not fit its network: 'features.0.weight' is missing"


def test_images_that_are_too_few_for_statistics_or_not_there_are_refused(
    checkpoint, refused, image_folder, tmp_path, recipe
):
    path, target = checkpoint("first.ckpt"), tmp_path / "mean.ckpt"
    images = image_folder({"train": {"a": 1, "b": 1}})
    said = refused(path, target, "--data_dir", images, "--num_samples", 1, *ON_THE_CPU)
    assert said == "BatchNorm's new statistics are no finite numbers: too few images, or damaged weights"
    assert refused(path, target, "--data_dir", tmp_path / "none").startswith(f"{tmp_path}/none: no such folder; ")


@pytest.mark.parametrize("broken", [0, 1])
def test_weights_that_are_not_finite_are_refused_whichever_file_they_are_in(checkpoint, refused, tmp_path, broken):
    paths = checkpoint("first.ckpt"), checkpoint("other.ckpt")
    weights, card = arrays(paths[broken]), read_weights(str(paths[broken])).card
    assert card
    weights["features.0.weight"] = np.full_like(weights["features.0.weight"], np.nan)
    paths[broken].unlink()
    save_weights(paths[broken], weights, card)
    said = refused(*paths, tmp_path / "mean.ckpt")
    assert said.startswith(f"{paths[broken]}: 'features.0.weight' is not finite, as after a run that broke;")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["x.ckpt"], "command line: the following arguments are required"),
        (["no.ckpt", "new.ckpt"], "no.ckpt: no such checkpoint; expected a .ckpt file"),
        (["x.ckpt", "new.ckpt"], "command line: one checkpoint has no mean; give more, or --data_dir"),
        (["x.ckpt", "./x.ckpt", "new.ckpt"], "command line: a checkpoint is given twice"),
        (["x.ckpt", "y.ckpt", "new.pth"], "new.pth: the name of TARGET, the last argument, must end in .ckpt"),
        (["x.ckpt", "y.ckpt"], "y.ckpt: stands there already; remove it, or give another TARGET as the last argument"),
        (["x.ckpt", "y.ckpt", "no/new.ckpt"], "no: no such folder"),
        (["x.ckpt", "y.ckpt", "new.ckpt", "--greedy"], "command line: --greedy chooses among checkpoints by their"),
        (["x.ckpt", "new.ckpt", "--greedy", "--data_dir", "."], "command line: --greedy chooses among checkpoints"),
        (["x.ckpt", "y.ckpt", "new.ckpt", "--batch_size", "0"], "command line: key 'batch_size': expected a whole"),
        (["x.ckpt", "y.ckpt", "new.ckpt"], "x.ckpt: not a MindSpore checkpoint, or damaged"),
    ],
)
def test_a_wrong_command_line(refused, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    for name in ("x.ckpt", "y.ckpt"):
        Path(name).write_text("precious")
    assert refused(*arguments).startswith(sentence)


def test_checkpoints_that_were_trained_in_int8_are_refused(checkpoint, refused, tmp_path):
    paths = [checkpoint(name, quantize="int8", ckpt_path="x.ckpt") for name in ("1.ckpt", "2.ckpt")]
    said = refused(*paths, tmp_path / "mean.ckpt")
    assert said.startswith(f"{paths[0]}: was trained with quantize int8, and ranges have no mean; average checkpoints")
