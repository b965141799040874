"""CIFAR-10, CIFAR-100 and MNIST: pixels, labels and class names of their standard files; what is said of wrong ones."""

import struct
from collections.abc import Callable
from pathlib import Path

import mindspore.dataset as ds
import numpy as np
import pytest

from mindcv_lite.data.datasets.cifar_mnist import STANDARD
from mindcv_lite.data.datasets.splits import training_splits, validation_split
from mindcv_lite.data.pipeline import TrainingBatches, evaluation_batches
from mindcv_lite.errors import UserError
from mindcv_lite.recipe.keys import Data
from mindcv_lite.recipe.rules import require_paths
from mindcv_lite.training.resume import fixed_facts
from tests.data.datasets.standard_files import TEST, TRAIN, noise, write_all, write_cifar

PLAIN = {"scale": [1, 1], "ratio": [1, 1], "hflip": 0, "color_jitter": 0, "crop_pct": 1, "drop_remainder": False}
GREY = {"in_channels": 1, "mean": [33], "std": [78]}


@pytest.fixture(params=list(STANDARD))
def dataset(request, tmp_path) -> tuple[str, Path, dict[str, tuple[np.ndarray, np.ndarray]]]:
    return request.param, tmp_path / "files", write_all(tmp_path / "files", request.param)


def all_of(batches: list[tuple]) -> list[np.ndarray]:
    """Images, labels and weights of the images that count."""
    columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
    return [column[columns[2] > 0] for column in columns]


def test_the_recipe_knows_the_same_names():
    for name in STANDARD:
        assert Data(dataset=name, batch_size=1).is_standard  # type: ignore[bad-argument-type]
    assert not Data(batch_size=1).is_standard


@pytest.mark.parametrize("val_split", ["val", "test"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_labels_are_those_of_the_files_in_their_order(dataset, recipe, world, channels, val_split):
    name, folder, written = dataset
    size, grey = written["train"][0].shape[1], GREY if channels == 1 else {}
    keys = {"dataset": name, "data_dir": folder, "image_resize": size, "val_split": val_split}
    given = recipe(**keys, **PLAIN, **grey, shuffle=False, val_while_train=True)
    train, val = training_splits(given)
    assert val
    assert train.labels.dtype == val.labels.dtype == np.int32
    epoch = list(TrainingBatches(train, given, world(given)).epoch(0))
    for batches, split in ((epoch, "train"), (list(evaluation_batches(val, given, world(given))), "test")):
        images, labels, _ = all_of(batches)
        expected, numbers = written[split]
        assert np.array_equal(labels, numbers)
        if channels == 3:
            assert np.array_equal(images, np.broadcast_to(expected, images.shape))
        elif name == "mnist":
            assert np.array_equal(images.reshape(expected.shape), expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_ranks_together_take_each_image_once(dataset, recipe, world, size):
    name, folder, written = dataset
    given = recipe(dataset=name, data_dir=folder, drop_remainder=False, val_while_train=True)
    train, val = training_splits(given)
    assert val
    shares = [list(TrainingBatches(train, given, world(given, rank, size)).epoch(3)) for rank in range(size)]
    images, labels, _ = all_of([batch for share in shares for batch in share])
    assert images.shape == (TRAIN, 32, 32, 3)
    assert sorted(labels) == sorted(written["train"][1])
    shares = [list(evaluation_batches(val, given, world(given, rank, size))) for rank in range(size)]
    assert sorted(all_of([batch for share in shares for batch in share])[1]) == sorted(written["test"][1])


@pytest.mark.parametrize("name", ["cifar100", "mnist"])
def test_mindspores_reader_finds_the_same(tmp_path, recipe, world, name):
    """Its reader of CIFAR takes files of 10000 images only, so that one split of one of them must do."""
    if name == "mnist":
        write_all(tmp_path, name)
        theirs = ds.MnistDataset(str(tmp_path), "test", shuffle=False)
    else:
        labels = np.arange(10000) % 100
        write_cifar(tmp_path / "test.bin", noise(10000, 32, 32, 3), labels // 5, labels)
        (tmp_path / "fine_label_names.txt").write_text("\n".join(map(str, range(100))))
        theirs = ds.Cifar100Dataset(str(tmp_path), "test", shuffle=False).project(["image", "fine_label"])
    size = 28 if name == "mnist" else 32
    given = recipe(dataset=name, data_dir=tmp_path, num_classes=100, image_resize=size, batch_size=500, **PLAIN)
    images, labels, _ = all_of(list(evaluation_batches(validation_split(given, None), given, world(given))))
    rows = list(theirs.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert len(rows) == len(images) > 0
    assert np.array_equal(images, np.broadcast_to([image for image, _ in rows], images.shape))
    assert np.array_equal(labels, [label for _, label in rows])


# -------------------------------------------------------------------------------------------------------------- classes


@pytest.fixture
def cifar10(tmp_path) -> Path:
    write_all(tmp_path / "cifar10", "cifar10")
    return tmp_path / "cifar10"


def test_class_names_are_in_the_order_of_the_labels(tmp_path, cifar10, recipe):
    known = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    given = recipe(dataset="cifar10", data_dir=cifar10)
    assert training_splits(given)[0].class_names == known
    (cifar10 / "batches.meta.txt").write_text("\n".join(reversed(known)) + "\n\n")  # theirs ends in an empty line, too
    assert training_splits(given)[0].class_names == known[::-1]
    for name, names in (
        ("cifar100", tuple(f"fine {99 - label}" for label in range(100))),
        ("mnist", tuple("0123456789")),
    ):
        write_all(tmp_path / name, name)
        assert training_splits(recipe(dataset=name, data_dir=tmp_path / name))[0].class_names == names


def test_labels_are_the_outputs_of_a_checkpoint_by_its_class_names(cifar10, recipe):
    given = recipe(dataset="cifar10", data_dir=cifar10, num_classes=12)
    names = STANDARD["cifar10"].class_names
    numbers = np.arange(TEST) * 3 % 10
    assert np.array_equal(validation_split(given, None).labels, numbers)
    assert np.array_equal(validation_split(given, names).labels, numbers)
    assert np.array_equal(validation_split(given, names[::-1]).labels, 9 - numbers)
    with pytest.raises(UserError, match="val: class 'lynx' is missing and class 'cat' is unknown; expected the 10"):
        validation_split(given, [{"cat": "lynx"}.get(name, name) for name in names])


def test_a_resumed_run_wants_the_same_labels_wherever_they_lie(tmp_path, cifar10, recipe, world):
    def facts() -> dict[str, object]:
        given = recipe(dataset="cifar10", data_dir=tmp_path)
        return fixed_facts(given, training_splits(given)[0], world(given))

    cifar10.rename(tmp_path / "cifar-10-batches-bin")  # what the archive unpacks to is found in data_dir
    first = facts()
    for path in (tmp_path / "cifar-10-batches-bin").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "cifar-10-batches-bin").rmdir()
    assert facts() == first
    write_cifar(tmp_path / "data_batch_2.bin", noise(2, 32, 32, 3), np.array([5, 5]))
    assert facts() != first


# ------------------------------------------------------------------------------------------------- files that are wrong


@pytest.fixture
def refusal(recipe) -> Callable[[str, Path | str], str]:
    """What is said of a dataset's files, to train on them and validate."""

    def refusal(name: str, folder: Path | str) -> str:
        with pytest.raises(UserError) as error:
            training_splits(recipe(dataset=name, data_dir=folder, val_while_train=True))
        return str(error.value)

    return refusal


def test_each_file_that_is_missing_is_named_with_all_that_are_expected(dataset, refusal):
    name, folder, _ = dataset
    for path in [path for path in folder.iterdir() if path.suffix != ".txt" or name == "cifar100"]:
        path.rename(folder / "aside")
        sentence = refusal(name, folder)
        assert sentence.startswith(f"{path}: no such file; expected {STANDARD[name].title}: ")
        assert all(each.name in sentence for each in folder.iterdir() if each.name != "aside")
        (folder / "aside").rename(path)
    assert refusal(name, "").startswith(
        f"data_dir is not set: --data_dir names the folder that holds {STANDARD[name].title}"
    )


def test_a_folder_that_is_missing_is_named_at_once(recipe):
    with pytest.raises(
        UserError, match="nowhere: no such folder; --data_dir names the folder that holds the files of mnist"
    ):
        require_paths(recipe(dataset="mnist", data_dir="nowhere"))


def test_a_compressed_file_is_to_be_unpacked(tmp_path, refusal):
    write_all(tmp_path, "mnist")
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.rename(f"{path}.gz")
    assert refusal("mnist", tmp_path) == f"{path}: no such file; gunzip {path.name}.gz"


@pytest.mark.parametrize("cut", [slice(0), slice(None, 5), slice(None, -1), slice(1, None)])
def test_a_file_that_is_cut_short_is_named(dataset, refusal, cut):
    name, folder, _ = dataset
    for path in folder.iterdir():
        if path.suffix != ".txt":
            whole = path.read_bytes()
            path.write_bytes(whole[cut])
            assert refusal(name, folder).startswith(f"{path}: ")
            path.write_bytes(whole)


def test_class_names_that_are_no_text_are_told(cifar10, refusal):
    (cifar10 / "batches.meta.txt").write_bytes(b"caf\xe9\n")
    assert refusal("cifar10", cifar10).endswith("expected class names, text in UTF-8, got other bytes; unpack it again")


@pytest.mark.parametrize("names", ["", "a\na\n"])
def test_class_names_that_are_none_or_the_same_are_told(cifar10, refusal, names):
    (cifar10 / "batches.meta.txt").write_text(names)
    assert "batches.meta.txt: expected class names, a line each and none of them twice" in refusal("cifar10", cifar10)


def test_files_that_do_not_fit_together(tmp_path, cifar10, refusal):
    write_cifar(cifar10 / "test_batch.bin", noise(2, 32, 32, 3), np.array([0, 10]))
    assert refusal("cifar10", cifar10) == f"{cifar10}: label 10 in 'val', expected 0 to 9"
    write_all(tmp_path / "mnist", "mnist")
    labels = tmp_path / "mnist/train-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">2I", 2049, 4) + bytes(4))
    assert refusal("mnist", labels.parent) == f"{labels}: 4 labels for the 15 images of train-images-idx3-ubyte"
