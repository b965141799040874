"""Images that are held out: each on exactly one side, on the same one whatever comes, and of every class a share."""

from pathlib import Path

import numpy as np
import pytest

from mindcv_lite.commands.pack import main as pack
from mindcv_lite.data.datasets.cifar_mnist import HeldSplit
from mindcv_lite.data.datasets.holdout import hash_fractions, hold_out
from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.datasets.splits import training_splits, validation_split
from mindcv_lite.data.image_reader import contents_of
from mindcv_lite.data.pipeline import TrainingBatches, evaluation_batches
from mindcv_lite.errors import UserError
from tests.conftest import write_images

COUNTS = {"a": 11, "b": 20, "c": 40, "d": 60, "e": 97}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Without a validation split."""
    return write_images(tmp_path_factory.mktemp("few") / "images", {"train": COUNTS}, size=(8, 8))


@pytest.fixture
def sides(recipe):
    def sides(data_dir: Path, **keys) -> tuple[Split, Split]:
        train, val = training_splits(recipe(data_dir=data_dir, val_while_train=True, **{"val_share": 0.2} | keys))
        assert val
        return train, val

    return sides


def names(images: Split) -> set[str]:
    return {"/".join(path.split("/")[-2:]) for path in images.paths}


def test_every_image_is_on_one_side_with_its_label(folder, sides):
    train, val = sides(folder)
    everything = {f"{name}/{number}.jpg" for name, count in COUNTS.items() for number in range(count)}
    assert names(train) | names(val) == everything
    assert len(train) + len(val) == len(everything)
    for images in (train, val):
        assert [path.split("/")[-2] for path in images.paths] == [images.class_names[label] for label in images.labels]
    assert 0.15 < len(val) / len(everything) < 0.25
    assert len(np.unique(val.labels)) == 5


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_ranks_together_train_and_validate_on_each_image_once(folder, sides, recipe, world, size):
    given = recipe(drop_remainder=False)
    train, val = sides(folder)
    for images, batches_of in (
        (train, lambda rank: TrainingBatches(train, given, world(given, rank, size)).epoch(2)),
        (val, lambda rank: evaluation_batches(val, given, world(given, rank, size))),
    ):
        of_ranks = [batches_of(rank) for rank in range(size)]
        seen = np.concatenate([batches.indices[batches.weights.ravel() > 0] for batches in of_ranks])
        assert sorted(seen) == list(range(len(images)))


def test_the_folds_hold_out_every_image_once(folder, sides):
    held_out = [name for fold in range(5) for name in sorted(names(sides(folder, val_fold=fold)[1]))]
    assert len(held_out) == len(set(held_out)) == sum(COUNTS.values())


def test_an_image_stays_on_its_side_when_others_come_and_when_packed(folder, sides, tmp_path):
    val = names(sides(folder)[1])
    more = write_images(tmp_path / "more", {"train": {name: count + 30 for name, count in COUNTS.items()}}, (8, 8))
    (more / "train/c/7.jpg").unlink()
    known = {f"{name}/{number}.jpg" for name, count in COUNTS.items() for number in range(count)}
    assert names(sides(more)[1]) & known == val - {"c/7.jpg"}
    pack([str(folder), str(tmp_path / "packed")])
    assert names(sides(tmp_path / "packed")[1]) == val


def test_packed_images_that_are_held_out_come_with_their_own_content(folder, sides, tmp_path):
    pack([str(folder), str(tmp_path / "packed")])
    for mine, theirs in zip(sides(folder), sides(tmp_path / "packed"), strict=True):
        chosen = [len(mine) - 1, 0, 3]
        ours = [(content.tobytes(), int(index)) for content, index in contents_of(mine, chosen)]
        assert [(content.tobytes(), int(index)) for content, index in contents_of(theirs, chosen)] == ours


def test_images_that_are_held_in_memory_keep_their_content():
    paths = [f"cifar10:train/{number}" for number in range(50)]
    contents = np.arange(50, dtype=np.uint8).reshape(50, 1)
    images = HeldSplit(paths, np.zeros(50, np.int32), ("a",), contents)
    sides = hold_out(images, 0.3, 1, Path("cifar10/train"))
    assert sorted(len(side) for side in sides)[0] > 5
    for side in sides:
        assert [f"cifar10:train/{side.content(index)[0]}" for index in range(len(side))] == list(side.paths)


def test_a_checkpoint_is_validated_on_the_images_that_were_held_out_in_its_training(folder, sides, recipe):
    of = recipe(data_dir=folder, val_share=0.2, val_fold=3, num_classes=5)
    images = validation_split(of, ["e", "d", "c", "b", "a"])
    held_out = sides(folder, val_fold=3)[1]
    assert list(images.paths) == list(held_out.paths)
    assert images.labels.tolist() == [4 - label for label in held_out.labels]


def test_what_leaves_nothing_to_train_on_or_to_validate_on_is_refused(sides, tmp_path):
    images = write_images(tmp_path / "images", {"train": {"a": 1, "b": 9}}, (8, 8))
    fraction = hash_fractions(["a/0.jpg"])[0]
    fold = int(fraction / 0.5)
    with pytest.raises(UserError, match=r"a share of 0.5 holds out all images of a class, such as .*/a/0.jpg"):
        sides(images, val_share=0.5, val_fold=fold)
    with pytest.raises(UserError, match=r"train: a share of 0.001 holds out none of the 10 images; add images, or"):
        sides(images, val_share=0.001)


def test_composed_and_decomposed_accents_are_one_name():
    assert hash_fractions(["x/caf\u00e9/1.jpg"]) == hash_fractions(["/y:cafe\u0301/1.jpg"])
    assert 0 <= hash_fractions(["\udcff/1.jpg"])[0] < 1


def test_hash_fractions_are_spread_evenly():
    fractions = hash_fractions(f"train/a/{number:04d}.jpg" for number in range(10_000))
    counts, _ = np.histogram(fractions, bins=20, range=(0, 1))
    assert 400 < counts.min() <= counts.max() < 600


def test_the_rule_itself_is_kept():
    """An image that changed its side would be trained on by one version and validated on by the next."""
    assert hash_fractions(["train/roses/1.jpg", "train/roses/2.jpg"]).round(6).tolist() == [0.271657, 0.829905]
