"""Packed images are those of the folder: the same order, pixels and counts on all ranks; what is said of bad files."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mindcv_lite.commands.pack import main
from mindcv_lite.data.datasets import image_folder as folder
from mindcv_lite.data.datasets import packed
from mindcv_lite.data.datasets.splits import training_splits, validation_split
from mindcv_lite.data.image_reader import contents_of, rows_of
from mindcv_lite.data.pipeline import Batches, TrainingBatches, evaluation_batches
from mindcv_lite.errors import UserError
from mindcv_lite.training.resume import fixed_facts
from tests.conftest import write_images

COUNTS = {"train": {"a": 3, "b": 4, "c": 3}, "val": {"a": 4, "b": 1, "c": 6}}  # 10 and 11


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """A folder and its packed copy: of sound images, and of some that are broken, which the folder then loses."""
    pairs = {}
    for name in ("sound", "holed"):
        images = write_images(tmp_path_factory.mktemp(name) / "images", COUNTS)
        target = images.with_name("packed")
        if name == "holed":
            (images / "train/b/1.jpg").write_bytes(b"no image")
        main([str(images), str(target), *(["--shards", "2"] if name == "sound" else [])])
        if name == "holed":
            (images / "train/b/1.jpg").unlink()
        pairs[name] = images, target
    return pairs


@pytest.fixture(params=["sound", "holed"])
def pair(request, pairs) -> tuple[Path, Path]:
    return pairs[request.param]


@pytest.fixture
def target(pairs, tmp_path) -> Path:
    """A packed copy to damage."""
    return Path(shutil.copytree(pairs["sound"][1], tmp_path / "packed"))


def same_batches(ours: list[tuple], theirs: list[tuple]) -> bool:
    assert len(ours) == len(theirs) > 0
    return all(
        np.array_equal(mine, yours)
        for batch, other in zip(ours, theirs, strict=True)
        for mine, yours in zip(batch, other, strict=True)
    )


def test_the_splits_are_those_of_the_folder(pair):
    images, target = map(str, pair)
    assert packed.is_packed(target)
    assert not packed.is_packed(images)
    assert not packed.has_split(target, "test")
    assert packed.has_split(target, "train/")
    assert len(packed.read_split(target, "train/")) == len(packed.read_split(target, "train"))
    for split in ("train", "val"):
        ours, theirs = packed.read_split(target, split), folder.read_split(images, split)
        assert packed.has_split(target, split)
        assert packed.class_names_of(target, split) == ours.class_names == theirs.class_names == ("a", "b", "c")
        assert list(ours.paths) == [path.replace(f"{images}/", f"{target}:") for path in theirs.paths]
        assert np.array_equal(ours.labels, theirs.labels)
        assert ours.labels.dtype == np.int32
    assert packed.read_split(target, "val").relabelled((134, 0, 7)).labels[[0, 4, 5]].tolist() == [134, 0, 7]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_training_takes_the_same_images_in_the_same_order_with_the_same_pixels(pair, recipe, world, size, workers):
    for rank in range(size):
        epochs = []
        for data_dir in pair:
            given = recipe(
                data_dir=data_dir, drop_remainder=False, num_parallel_workers=workers, color_jitter=0.4, vflip=0.5
            )
            batches = TrainingBatches(training_splits(given)[0], given, world(given, rank, size))
            epochs.append([*batches.epoch(0), *batches.epoch(3)])
        assert same_batches(*epochs)


@pytest.mark.parametrize("batch_size", [4, 64])  # a batch of more than there are images is filled up
@pytest.mark.parametrize("size", [1, 2, 3])
def test_validation_takes_the_same_images_and_counts(pair, recipe, world, size, batch_size):
    for rank in range(size):
        shares = []
        for data_dir in pair:
            given = recipe(data_dir=data_dir, num_classes=3, batch_size=batch_size)
            images = validation_split(given, ("a", "b", "c"))
            shares.append(list(evaluation_batches(images, given, world(given, rank, size))))
        assert same_batches(*shares)


def test_a_run_that_began_on_the_folder_goes_on_with_the_packed_images(pair, recipe, world):
    facts = []
    for data_dir in pair:
        given = recipe(data_dir=data_dir)
        facts.append(fixed_facts(given, training_splits(given)[0], world(given)))
    assert facts[0] == facts[1]


def test_classes_may_have_other_outputs(pair, recipe):
    given = recipe(data_dir=pair[1], num_classes=3)
    assert set(validation_split(given, ("c", "a", "b")).labels[:4]) == {1}
    with pytest.raises(UserError, match="packed/val: class 'd' is missing and class 'b' is unknown"):
        validation_split(given, ("c", "a", "d"))


def test_rows_are_the_files_of_the_folder(pair):
    images, target = map(str, pair)
    ours, theirs = packed.read_split(target, "train"), folder.read_split(images, "train")
    order = [5, 0, 8, 5]
    for (content, index), expected in zip(contents_of(ours, order), order, strict=True):
        assert index == expected
        assert content.tobytes() == Path(theirs.paths[expected]).read_bytes()
    (row, *_) = rows_of(ours, np.array(order)).create_dict_iterator(num_epochs=1, output_numpy=True)
    assert (row["index"].shape, row["index"].dtype) == ((), np.int32)


# ------------------------------------------------------------------------------------------------- files that are wrong


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.unlink(), "train-00001.mindrecord: is missing; copy the packed images again, or pack them"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"train-00001.mindrecord: has \d+ bytes, expected"),
    ],
)
def test_a_file_that_is_missing_or_cut_short_is_named(target, change, sentence):
    change(target / "train-00001.mindrecord")
    assert len(packed.read_split(str(target), "val")) == 11
    with pytest.raises(UserError, match=sentence):
        packed.read_split(str(target), "train")


def test_images_that_an_earlier_version_packed_are_the_same(pair, tmp_path):
    target = Path(shutil.copytree(pair[1], tmp_path / "earlier"))
    splits = json.loads((target / packed.FACTS).read_text())["splits"]
    for split in splits.values():
        split["classes"] = {name: packed.parted(images) for name, images in split["classes"].items()}
    facts = {"layout": 1, "checksum": hashlib.sha256(json.dumps(splits).encode()).hexdigest(), "splits": splits}
    (target / packed.FACTS).write_text(json.dumps(facts))
    for split in COUNTS:
        ours, theirs = packed.read_split(str(pair[1]), split), packed.read_split(str(target), split)
        assert [path.replace(str(pair[1]), str(target)) for path in ours.paths] == list(theirs.paths)
        assert ours.class_names == theirs.class_names
        assert np.array_equal(ours.labels, theirs.labels)
        assert np.array_equal(ours.numbers, theirs.numbers)


def without_an_image(facts: dict) -> dict:
    for split in facts["splits"].values():
        name, images = next(iter(split["classes"].items()))
        split["classes"][name] = packed.joined(packed.parted(images)[:-1])
    return facts


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda facts: facts | {"layout": 4}, r"written by a later version \(layout 4, expected 3 or less\); pack the"),
        (lambda facts: [], "packed.json: damaged; copy it again"),
        (lambda facts: {"layout": 1}, "packed.json: damaged; copy it again"),
        (without_an_image, "packed.json: changed since it was written; copy it again"),
    ],
)
def test_facts_that_are_wrong(target, change, sentence):
    facts = json.loads((target / packed.FACTS).read_text())
    (target / packed.FACTS).write_text(json.dumps(change(facts)))
    with pytest.raises(UserError, match=sentence):
        packed.class_names_of(str(target), "train")
    (target / packed.FACTS).write_text(json.dumps(facts)[:-20])
    with pytest.raises(UserError, match=r"packed\.json: damaged"):
        packed.has_split(str(target), "train")


def test_a_split_that_was_not_packed_is_named(target):
    with pytest.raises(UserError, match=r"packed: no split 'test' was packed there \(found: train, val\)"):
        packed.read_split(str(target), "test")


def damage(path: Path, content: bytes) -> None:
    whole = path.read_bytes()
    position = whole.index(content)
    path.write_bytes(whole[:position] + bytes(len(content)) + whole[position + len(content) :])


@pytest.fixture
def epoch_of(recipe, world) -> Callable[..., Batches]:
    def epoch_of(target: Path, **keys: object) -> Batches:
        given = recipe(data_dir=target, drop_remainder=False, **keys)
        return TrainingBatches(training_splits(given)[0], given, world(given)).epoch(0)

    return epoch_of


def test_an_image_that_is_damaged_in_its_file_is_named(pairs, target, epoch_of, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MindSpore's decoder writes abnormal_image.jpg there
    damage(target / "train-00000.mindrecord", (pairs["sound"][0] / "train/b/0.jpg").read_bytes())
    with pytest.raises(UserError, match=r"packed:train/b/0\.jpg: this image cannot be decoded"):
        list(epoch_of(target))
    batches = epoch_of(target, on_corrupt="replace")
    assert len(list(batches)) == 3
    assert [batches.images.paths[index] for index in batches.replaced] == [f"{target}:train/b/0.jpg"]


@pytest.mark.parametrize("file", ["train-00000.mindrecord", "train-00001.mindrecord.db"])
def test_a_file_that_is_damaged_or_gone_when_an_epoch_begins_is_told(target, epoch_of, file):
    content = (target / file).read_bytes()
    (target / file).write_bytes(bytes(4096) + content[4096:])
    with pytest.raises(UserError, match=r"packed: the packed images are damaged: .*; copy them again, or pack"):
        epoch_of(target)


def test_a_file_that_is_cut_short_in_training_ends_it_with_a_sentence(target, recipe, world):
    given = recipe(data_dir=target, drop_remainder=False)
    batches = TrainingBatches(training_splits(given)[0], given, world(given))
    os.truncate(target / "train-00000.mindrecord", 1 << 16)
    with pytest.raises(UserError, match=r"packed: the packed images are damaged: .*Failed to read file.*; copy them"):
        list(batches.epoch(0))
