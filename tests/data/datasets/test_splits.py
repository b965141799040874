"""The images of a recipe: which splits are read, and which output of the network each class is."""

import os

import pytest

from mindcv_lite.data.datasets.splits import training_splits, validation_split
from mindcv_lite.errors import UserError


def labels_by_class(images) -> dict[str, int]:
    return {path.split("/")[-2]: label for path, label in zip(images.paths, images.labels.tolist(), strict=True)}


@pytest.fixture
def check(image_folder, recipe):
    """The labels of class folders for a network of `num_classes` whose checkpoint knows `class_names`."""

    def check(val: list[str], class_names: list[str] | None, num_classes: int, **splits: list[str]) -> dict[str, int]:
        counts = {split: dict.fromkeys(names, 1) for split, names in (splits | {"val": val}).items()}
        of = recipe(data_dir=image_folder(counts), num_classes=num_classes)
        return labels_by_class(validation_split(of, class_names))

    return check


def test_in_training_both_splits_are_labelled_by_the_sorted_classes_of_the_first(image_folder, recipe):
    of = recipe(data_dir=image_folder({"train": {"b": 1, "a": 2}, "val": {"b": 1, "a": 1}}), val_while_train=True)
    train, val = training_splits(of)
    assert val
    assert train.class_names == ("a", "b")
    assert labels_by_class(train) == labels_by_class(val) == {"a": 0, "b": 1}


def test_in_training_a_class_of_imagenet_may_not_be_missing_either(image_folder, recipe):
    counts = {"train": {"n01440764": 1, "n02012849": 1}, "val": {"n01440764": 1}}
    with pytest.raises(UserError, match="val: class 'n02012849' is missing; expected the 2 classes"):
        training_splits(recipe(data_dir=image_folder(counts), val_while_train=True, num_classes=1000))


def test_without_validation_in_training_the_other_split_is_not_read(image_folder, recipe):
    assert training_splits(recipe(data_dir=image_folder({"train": {"a": 1, "b": 1}})))[1] is None


def test_classes_of_few_images_are_warned_of_before_training(image_folder, recipe, log):
    folder = image_folder({"train": {"a": 4, "b": 5, "c": 2}})
    training_splits(recipe(data_dir=folder))
    line = f"warning: {folder}: 2 classes have fewer than 5 images to train on, such as 'c' with 2"
    assert log.messages[1:] == [line]
    (folder / "train/a/4.jpg").symlink_to("0.jpg")
    for number in (2, 3, 4):
        (folder / f"train/c/{number}.jpg").symlink_to("0.jpg")
    log.clear()
    training_splits(recipe(data_dir=folder))
    assert "warning" not in log.text


def test_the_names_in_a_checkpoint_say_which_output_a_class_is(check):
    assert check(["a", "b"], ["b", "a"], 2, train=["x", "y", "z"]) == {"a": 1, "b": 0}


def test_some_classes_of_imagenet_are_labelled_by_its_outputs(check):
    assert check(["n02012849", "n01440764"], None, 1000, train=["n02012849", "n01440764"]) == {
        "n01440764": 0,
        "n02012849": 134,
    }


def test_a_nameless_checkpoint_has_the_sorted_classes_of_the_training_split(check):
    assert check(["a", "b"], None, 5, train=["b", "a"]) == {"a": 0, "b": 1}


def test_a_nameless_checkpoint_wants_all_classes_of_the_training_split(check):
    with pytest.raises(UserError, match="val: class 'b' is missing; expected the 3 classes"):
        check(["a", "c"], None, 5, train=["a", "b", "c"])


def test_a_class_without_an_image_keeps_its_output(check, image_folder, recipe, log):
    folder = image_folder({"val": {"a": 1, "b": 0, "c": 2}})
    images = validation_split(recipe(data_dir=folder, num_classes=3), None)
    assert labels_by_class(images) == {"a": 0, "c": 2}
    assert images.class_names == ("a", "b", "c")
    assert f"warning: {folder}/val/b: no image in this class" in log.messages
    for path in images.paths:
        os.remove(path)
    with pytest.raises(UserError, match="images/val: no image in any of its classes"):
        validation_split(recipe(data_dir=folder, num_classes=3), None)


def test_a_nameless_checkpoint_without_a_training_split_has_the_sorted_classes_at_hand(check):
    assert check(["c", "a"], None, 5) == {"a": 0, "c": 1}
