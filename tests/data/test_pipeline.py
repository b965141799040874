"""Which image comes in which batch on which rank, with which weight and which pixels; labels are numbers."""

import errno
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mindcv_lite.data.datasets.image_folder import Split
from mindcv_lite.data.images.decoding import ORIENTATION, read_file
from mindcv_lite.data.pipeline import TrainingBatches, evaluation_batches, mixed_batches
from mindcv_lite.errors import UserError

COUNT = 10
CLASSES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Split:
    """Ten images of noise."""
    folder, random = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    paths = [str(folder / f"{number}.png") for number in range(COUNT)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return Split(paths, np.arange(COUNT, dtype=np.int32), CLASSES)


@pytest.fixture
def epoch_of(images, recipe, world):
    """The batches of an epoch on one rank, as one pipeline gives them."""

    def epoch_of(epoch: int = 0, rank: int = 0, size: int = 1, **keys) -> list[tuple]:
        given = recipe(drop_remainder=False, **keys)
        return list(TrainingBatches(images, given, world(given, rank, size)).epoch(epoch))

    return epoch_of


def labels_of(batches: list[tuple]) -> list[list[int]]:
    return [labels.tolist() for _, labels, _ in batches]


def seen_of(batches: list[tuple]) -> list[int]:
    """The numbers of the images that count."""
    return [int(label) for _, labels, weights in batches for label in labels[weights > 0]]


def pixels_of(batches: list[tuple]) -> np.ndarray:
    return np.concatenate([images for images, *_ in batches])


def epochs_of(batches: TrainingBatches, first: int, count: int) -> list[list[tuple]]:
    """`count` epochs from `first` on, read as MindSpore's Model reads them."""
    dataset = batches.dataset(first * batches.steps)
    assert dataset.output_shapes()[1] == [batches.recipe.data.batch_size]  # Model asks first, which must cost no epoch
    rows = dataset.create_tuple_iterator(num_epochs=count, output_numpy=True)
    return [[tuple(row) for row in rows] for _ in range(count)]


# ------------------------------------------------------------------------------------------------- which image where


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_all_ranks_together_train_on_each_image_exactly_once(images, recipe, world, size, batch_size):
    given = recipe(batch_size=batch_size, drop_remainder=False)
    ranks = [TrainingBatches(images, given, world(given, rank, size)) for rank in range(size)]
    shares = [list(rank.epoch(0)) for rank in ranks]
    assert sorted(seen for share in shares for seen in seen_of(share)) == list(range(COUNT))
    for rank, share in zip(ranks, shares, strict=True):
        assert len(share) == rank.steps == -(-COUNT // (batch_size * size))
        assert rank.count == COUNT
        for pixels, labels, weights in share:
            assert (pixels.shape, pixels.dtype) == ((batch_size, 32, 32, 3), np.uint8)
            assert (labels.shape, labels.dtype) == ((batch_size,), np.int32)
            assert (weights.shape, weights.dtype) == ((batch_size,), np.float32)


@pytest.mark.parametrize(("size", "batch_size", "steps"), [(1, 4, 2), (2, 4, 1), (3, 3, 1), (2, 2, 2)])
def test_drop_remainder_leaves_out_the_short_last_batch_and_no_image_twice(
    images, recipe, world, size, batch_size, steps
):
    given = recipe(batch_size=batch_size, drop_remainder=True)
    seen = Counter()
    for rank in range(size):
        batches = TrainingBatches(images, given, world(given, rank, size))
        assert (batches.steps, batches.count) == (steps, steps * batch_size * size)
        for _, labels, weights in batches.epoch(0):
            assert np.all(weights == 1)
            seen.update(labels.tolist())
    assert len(seen) == sum(seen.values()) == steps * batch_size * size


def test_dropping_everything_is_refused(images, recipe, world):
    given = recipe(batch_size=6, drop_remainder=True)
    with pytest.raises(
        UserError, match=r"batch_size 6 x 2 devices is more than the 10 training images.*drop_remainder"
    ):
        TrainingBatches(images, given, world(given, 0, 2))


def test_num_samples_takes_that_many_images_over_all_ranks(images, recipe, world):
    given = recipe(batch_size=2, num_samples=7, drop_remainder=False)
    ranks = [TrainingBatches(images, given, world(given, rank, 2)) for rank in range(2)]
    seen = [number for rank in ranks for number in seen_of(list(rank.epoch(0)))]
    assert len(seen) == len(set(seen)) == 7
    assert {(rank.steps, rank.count) for rank in ranks} == {(2, 7)}
    all_of_them = recipe(num_samples=1000, drop_remainder=False)
    assert TrainingBatches(images, all_of_them, world(all_of_them)).count == COUNT


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_all_ranks_together_evaluate_each_image_exactly_once(images, recipe, world, size, batch_size):
    given = recipe(batch_size=batch_size)  # drop_remainder is for training
    shares = [list(evaluation_batches(images, given, world(given, rank, size))) for rank in range(size)]
    assert sorted(seen for share in shares for seen in seen_of(share)) == list(range(COUNT))
    for share in shares:
        assert len(share) == len(evaluation_batches(images, given, world(given, 0, size)))
        assert all(len(labels) == batch_size and set(weights) <= {0, 1} for _, labels, weights in share)


# ----------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [3, 4, 7, 16])
def test_weights_make_the_mean_over_ranks_the_mean_over_the_images_of_each_step(epoch_of, size, batch_size):
    losses = np.random.default_rng(1).normal(size=COUNT)  # one for each image
    shares = [epoch_of(rank=rank, size=size, batch_size=batch_size) for rank in range(size)]
    seen = []
    for batches in zip(*shares, strict=True):
        mean = np.mean([(losses[labels] * weights).mean() for _, labels, weights in batches])
        of_step = [number for batch in batches for number in seen_of([batch])]
        assert mean == pytest.approx(losses[of_step].mean(), rel=1e-6)  # the weights are float32
        seen += of_step
    assert sorted(seen) == list(range(COUNT))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulated", [2, 3, 9])
def test_each_image_of_an_update_counts_the_same_also_in_a_last_one_of_fewer(
    images, recipe, world, size, batch_size, accumulated
):
    given = recipe(batch_size=batch_size, gradient_accumulation_steps=accumulated, num_samples=9, drop_remainder=False)
    ranks = [TrainingBatches(images, given, world(given, rank, size)) for rank in range(size)]
    losses = np.random.default_rng(1).normal(size=COUNT)  # one for each image
    shares, seen = [list(rank.epoch(0)) for rank in ranks], []
    for update in range(ranks[0].updates):
        steps = [step for step in range(ranks[0].steps) if ranks[0].update_of(step) == update]
        batches = [share[step] for share in shares for step in steps]
        mean = np.mean([(losses[labels] * weights).mean() for _, labels, weights in batches])
        assert mean == pytest.approx(losses[seen_of(batches)].mean(), rel=1e-6)  # the weights are float32
        seen += seen_of(batches)
    assert len(seen) == len(set(seen)) == 9


def test_updates_go_on_counting_in_the_next_epoch(images, recipe, world):
    given = recipe(batch_size=2, gradient_accumulation_steps=3)
    batches = TrainingBatches(images, given, world(given))
    assert (batches.steps, batches.updates, batches.global_batch) == (5, 2, 6)
    assert [batches.update_of(step) for step in range(12)] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]


def test_no_update_takes_more_batches_than_an_epoch_has(images, recipe, world):
    given = recipe(batch_size=2, gradient_accumulation_steps=100)
    batches = TrainingBatches(images, given, world(given))
    assert (batches.steps, batches.updates, batches.global_batch) == (5, 1, 10)  # and the rate is scaled by these 10


# --------------------------------------------------------------------------------------------------- order and pixels


def test_the_same_seed_repeats_order_and_pixels_and_another_epoch_seed_or_rank_does_not(epoch_of):
    batches = epoch_of(epoch=1)
    again = epoch_of(epoch=1)
    assert labels_of(batches) == labels_of(again)
    assert np.array_equal(pixels_of(batches), pixels_of(again))
    for other in (epoch_of(epoch=2), epoch_of(epoch=1, seed=43)):
        assert labels_of(other) != labels_of(batches)


def test_without_shuffle_epochs_differ_in_their_pixels_only(epoch_of):
    first, second = (epoch_of(epoch=epoch, shuffle=False) for epoch in range(2))
    assert labels_of(first) == labels_of(second) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert all(
        not np.array_equal(ours, theirs) for ours, theirs in zip(pixels_of(first), pixels_of(second), strict=True)
    )


def test_ranks_augment_differently(recipe, world, images):
    given = recipe(batch_size=1, shuffle=False, drop_remainder=False, mixup=1.0)
    twice = Split(images.paths[:1] * 2, images.labels[:2], images.class_names)  # the same image for both ranks
    ours, theirs = (pixels_of(list(TrainingBatches(twice, given, world(given, rank, 2)).epoch(0))) for rank in range(2))
    assert not np.array_equal(ours, theirs)
    mixes = [next(iter(TrainingBatches(twice, given, world(given, rank, 2)).epoch(0)))[-1] for rank in range(2)]
    assert not np.array_equal(*mixes)


@pytest.mark.parametrize("size", [1, 3])
def test_an_epoch_does_not_depend_on_the_epochs_before_it(images, recipe, world, size):
    given = recipe(drop_remainder=False, num_parallel_workers=2)
    rank = world(given, size - 1, size)
    from_the_start = epochs_of(TrainingBatches(images, given, rank), 0, 4)
    for first in (1, 3):
        resumed = epochs_of(TrainingBatches(images, given, rank), first, 4 - first)
        for ours, theirs in zip(resumed, from_the_start[first:], strict=True):
            assert labels_of(ours) == labels_of(theirs)
            assert np.array_equal(pixels_of(ours), pixels_of(theirs))
    alone = list(TrainingBatches(images, given, rank).epoch(2))
    assert labels_of(alone) == labels_of(from_the_start[2])
    assert np.array_equal(pixels_of(alone), pixels_of(from_the_start[2]))


@pytest.mark.parametrize("first_step", [1, 4, 7, 8])
def test_the_rest_of_an_epoch_is_that_of_the_undisturbed_one_to_the_bit(images, recipe, world, first_step):
    given = recipe(batch_size=2, auto_augment="randaug-m5", re_prob=0.5, cutmix=1.0, num_parallel_workers=2)
    batches = TrainingBatches(images, given, world(given))
    epoch, position = divmod(first_step, batches.steps)
    whole = list(TrainingBatches(images, given, world(given)).epoch(epoch))
    dataset = batches.dataset(first_step)
    assert dataset.get_dataset_size() == batches.steps - position == 5 - position
    dataset.output_shapes()  # Model asks for them
    rest = list(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert len(rest) == 5 - position
    for ours, theirs in zip(rest, whole[position:], strict=True):
        assert len(ours) == 5  # with the rectangles to erase, and how to mix
        assert all(np.array_equal(mine, yours) for mine, yours in zip(ours, theirs, strict=True))


def test_the_dataset_of_all_epochs_tells_its_steps_and_every_epoch_is_whole(images, recipe, world):
    given = recipe(drop_remainder=False)
    batches = TrainingBatches(images, given, world(given))
    assert batches.dataset().get_dataset_size() == batches.steps == 3
    epochs = epochs_of(batches, 0, 3)
    assert [sorted(seen_of(epoch)) for epoch in epochs] == [list(range(COUNT))] * 3
    assert len({tuple(seen_of(epoch)) for epoch in epochs}) == 3  # in three orders


def test_evaluation_sees_the_same_pixels_every_time_and_the_images_in_order(images, recipe, world):
    given = recipe()
    first, second = (list(evaluation_batches(images, given, world(given))) for _ in range(2))
    assert seen_of(first) == list(range(COUNT))
    assert np.array_equal(pixels_of(first), pixels_of(second))


def test_grey_images_have_one_number_a_pixel(images, recipe, world):
    given = recipe(in_channels=1)
    augmented = recipe(in_channels=1, auto_augment="randaug-m9-n2")  # whose operations change colours
    for batches in (
        TrainingBatches(images, given, world(given)).epoch(0),
        TrainingBatches(images, augmented, world(given)).epoch(0),
        evaluation_batches(images, given, world(given)),
    ):
        assert next(iter(batches))[0].shape == (4, 32, 32)


def test_rectangles_are_batches_of_their_height_and_width(images, recipe, world):
    given = recipe(image_resize="[32, 48]", mixup=0.5, cutmix=1.0, re_prob=1)
    batches = TrainingBatches(images, given, world(given))
    shape, *_ = batches.dataset().output_shapes()
    assert shape == [4, 32, 48, 3]
    for epoch in (batches.epoch(0), evaluation_batches(images, given, world(given))):
        assert next(iter(epoch))[0].shape == (4, 32, 48, 3)


def test_class_weights_count_in_the_loss_of_each_image(images, recipe, world):
    unbalanced = Split(images.paths, np.array([0] * 7 + [1] * 2 + [2], np.int32), ("a", "b", "c"))

    def weights_of(**keys: object) -> dict[int, set[float]]:
        given = recipe(batch_size=4, drop_remainder=False, num_classes=4, **keys)
        found: dict[int, set[float]] = {}
        for _, labels, weights in TrainingBatches(unbalanced, given, world(given)).epoch(0):
            for label, weight in zip(labels.tolist(), weights.tolist(), strict=True):
                found.setdefault(label, set()).add(round(weight, 5))
        return found

    share = 2  # what each of the two images of the last batch counts, beside batches of four
    balanced = {label: 10 / 3 / count for label, count in ((0, 7), (1, 2), (2, 1))}
    for found, expected in (
        (weights_of(), {0: 1, 1: 1, 2: 1}),
        (weights_of(class_weights="balanced"), balanced),
        (weights_of(class_weights="[1, 2, 5, 9]"), {0: 1, 1: 2, 2: 5}),
    ):
        for label, weights in found.items():
            assert weights <= {0.0, *(round(times * expected[label], 5) for times in (1, share))}
            assert weights > {0.0} or round(expected[label], 5) in weights
    with pytest.raises(UserError, match="class_weights: expected 4 numbers, one for each class, got 3"):
        weights_of(class_weights="[1, 2, 5]")


@pytest.mark.parametrize("size", [1, 2])
def test_balanced_sampling_draws_all_classes_equally_often_over_all_ranks(images, recipe, world, size):
    unbalanced = Split(images.paths, np.array([0] * 7 + [1] * 2 + [3], np.int32), ("a", "b", "c", "d"))
    given, natural = (recipe(drop_remainder=False, num_samples=9, sampling=way) for way in ("balanced", "natural"))
    for epoch in (0, 5):
        seen = Counter(
            label
            for rank in range(size)
            for label in seen_of(list(TrainingBatches(unbalanced, given, world(given, rank, size)).epoch(epoch)))
        )
        assert seen == {0: 3, 1: 3, 3: 3}
    assert set(seen_of(list(TrainingBatches(unbalanced, natural, world(natural)).epoch(0)))) == {0, 1, 3}
    given = recipe(batch_size=3, sampling="balanced")
    statistics = seen_of(list(mixed_batches(unbalanced, given, world(given))))
    assert len(statistics) == 9
    assert min(Counter(statistics).values()) >= 2


# ------------------------------------------------------------------------------------------------------ broken images


def with_broken(images: Split, folder: Path, *numbers: int) -> Split:
    paths = list(images.paths)
    for number in numbers:
        paths[number] = str(folder / f"broken{number}.jpg")
        Path(paths[number]).write_bytes(b"no image")
    return Split(paths, images.labels, images.class_names)


def test_an_image_that_cannot_be_decoded_is_named_in_evaluation_and_training(images, recipe, world, tmp_path):
    broken, given = with_broken(images, tmp_path, 6), recipe(drop_remainder=False)
    for batches in (
        evaluation_batches(broken, given, world(given)),
        TrainingBatches(broken, given, world(given)).epoch(0),
    ):
        with pytest.raises(UserError, match=r"broken6\.jpg: this image cannot be decoded"):
            list(batches)


def test_an_image_that_ends_within_its_jpeg_tables_is_named(recipe, world, image_folder):
    folder = image_folder({"train": {"a": 4}}) / "train/a"
    images = Split([str(folder / f"{number}.jpg") for number in range(4)], np.zeros(4, np.int32), ("a",))
    given = recipe(drop_remainder=False)
    whole = (folder / "2.jpg").read_bytes()
    frame, scan = whole.index(b"\xff\xc0"), whole.index(b"\xff\xda")
    for end in (frame, frame + 30, scan - 1, scan, scan + 1, scan + 2, scan + 3):
        (folder / "2.jpg").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"2\.jpg: this image cannot be decoded"):
            list(evaluation_batches(images, given, world(given)))


def test_an_image_that_is_gone_is_named(images, recipe, world):
    gone, given = Split([*images.paths[:9], "gone.jpg"], images.labels, images.class_names), recipe(batch_size=5)
    with pytest.raises(UserError, match=r"gone\.jpg: this image cannot be read: No such file or directory"):
        list(TrainingBatches(gone, given, world(given)).epoch(0))


@pytest.mark.parametrize("broken", [(), (6,), (0, 1), (9,), tuple(range(1, 10))])
def test_replace_gives_a_whole_epoch_and_tells_which_images_were_replaced(images, recipe, world, tmp_path, broken):
    given = recipe(batch_size=5, on_corrupt="replace", hflip=0, color_jitter=0, scale="[1, 1]", ratio="[1.2, 1.2]")
    batches = TrainingBatches(with_broken(images, tmp_path, *broken), given, world(given))
    (epoch,) = epochs_of(batches, 3, 1)
    assert sorted(batches.replaced[3]) == [*broken]
    seen = Counter(seen_of(epoch))
    assert sum(seen.values()) == COUNT
    assert seen.keys() == {*range(COUNT)} - {*broken}
    whole = {
        number: image
        for pixels, labels, _ in sound_epoch(images, given, world)
        for number, image in zip(labels, pixels, strict=True)
    }
    for pixels, labels, _ in epoch:  # an image that takes another's place brings its own label
        for image, label in zip(pixels, labels, strict=True):
            assert np.array_equal(image, whole[label])


def test_what_only_fills_up_a_batch_is_not_counted_as_replaced(images, recipe, world, tmp_path):
    given = recipe(batch_size=4, on_corrupt="replace", drop_remainder=False)  # two rows fill up the last batch
    batches = TrainingBatches(with_broken(images, tmp_path, *range(9)), given, world(given)).epoch(0)
    assert len(list(batches)) == 3
    assert sorted(batches.replaced) == list(range(9))


@pytest.fixture
def unreadable(monkeypatch) -> set[str]:
    """Paths of images that the system refuses to read."""
    paths: set[str] = set()

    def read(path: str) -> tuple[np.ndarray, int]:
        if path in paths:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_file(path)

    monkeypatch.setattr("mindcv_lite.data.datasets.image_folder.read_file", read)
    return paths


def test_an_image_that_the_system_refuses_is_named_with_its_reason(images, recipe, world, unreadable):
    given = recipe(drop_remainder=False)
    unreadable.add(images.paths[6])
    for batches in (
        evaluation_batches(images, given, world(given)),
        TrainingBatches(images, given, world(given)).epoch(0),
    ):
        with pytest.raises(UserError, match=r"6\.png: this image cannot be read: Input/output error$"):
            list(batches)


def test_few_images_that_the_system_refuses_are_replaced_and_many_end_the_run(images, recipe, world, unreadable):
    given = recipe(batch_size=5, on_corrupt="replace")
    many = Split([*images.paths] * 5, np.tile(images.labels, 5), images.class_names)
    unreadable.update(many.paths[6:8])
    batches = TrainingBatches(many, given, world(given)).epoch(0)
    assert len(list(batches)) == 10
    assert sorted(batches.replaced) == [number for number in range(50) if number % 10 in (6, 7)]
    assert many.flaw(6) == "cannot be read: Input/output error"
    unreadable.add(many.paths[8])
    with pytest.raises(UserError, match=r"read: Input/output error; so are 1\d images, more than 5% of the 50"):
        list(TrainingBatches(many, given, world(given)).epoch(0))


def test_an_image_that_is_refused_is_one_however_often_balanced_sampling_draws_it(images, recipe, world, unreadable):
    given = recipe(batch_size=5, on_corrupt="replace", sampling="balanced")
    many = Split([*images.paths[:9], *images.paths[:1] * 51], np.repeat([0, 1], [2, 58]).astype(np.int32), ("a", "b"))
    unreadable.add(many.paths[1])
    batches = TrainingBatches(many, given, world(given)).epoch(0)
    assert len(list(batches)) == 12
    assert batches.replaced == [1] * 15  # of the 30 draws of its class


def test_images_are_turned_as_their_exif_data_ask_in_training_and_evaluation(images, recipe, world, tmp_path):
    whole, turned, upright = {"scale": "[1, 1]", "ratio": "[0.5, 2]", "hflip": 0, "color_jitter": 0}, [], []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        turned.append(str(tmp_path / f"{orientation}.jpg"))
        upright.append(str(tmp_path / f"{orientation}.png"))
        Image.open(images.paths[0]).save(turned[-1], exif=exif)
        ImageOps.exif_transpose(Image.open(turned[-1])).save(upright[-1])
    given, as_stored = recipe(shuffle=False, **whole), recipe(shuffle=False, follow_exif=False, **whole)
    for batches in (evaluation_batches, lambda *those: TrainingBatches(*those).epoch(0)):
        ours, theirs, stored = (
            pixels_of(list(batches(Split(paths, np.arange(8, dtype=np.int32), CLASSES[:8]), keys, world(keys))))
            for paths, keys in ((turned, given), (upright, given), (turned, as_stored))
        )
        assert np.array_equal(ours, theirs)
        assert np.array_equal(stored[0], ours[0])
        assert not any(np.array_equal(one, other) for one, other in zip(stored[1:], ours[1:], strict=True))


def sound_epoch(images, given, world) -> list[tuple]:
    return list(TrainingBatches(images, given, world(given)).epoch(3))


def test_where_nothing_can_be_decoded_nothing_can_be_replaced(images, recipe, world, tmp_path):
    given = recipe(batch_size=5, on_corrupt="replace")
    batches = TrainingBatches(with_broken(images, tmp_path, *range(COUNT)), given, world(given))
    with pytest.raises(UserError, match=r"broken\d\.jpg: this image cannot be decoded"):
        list(batches.epoch(0))


def test_training_keeps_the_sentence_that_names_the_image(images, recipe, world, tmp_path):
    given = recipe(drop_remainder=False)
    batches = TrainingBatches(with_broken(images, tmp_path, 6), given, world(given))
    (epoch,) = epochs_of(batches, 0, 1)
    assert len(epoch) == batches.steps
    assert not seen_of(epoch[-1:])  # blank batches follow, which do not count
    for later in (0, 1):
        with pytest.raises(UserError, match=r"broken6\.jpg: this image cannot be decoded"):
            batches.require_whole(later)


def test_after_the_end_of_a_run_nobody_looks_for_a_broken_image(images, recipe, world, tmp_path):
    given = recipe(drop_remainder=False)
    batches = TrainingBatches(with_broken(images, tmp_path, 6), given, world(given))
    batches.over = True  # MindSpore ends its pipelines by an error
    with pytest.raises(RuntimeError) as error:
        list(batches.epoch(0))
    assert not isinstance(error.value, UserError)
    epochs_of(batches, 0, 1)
    batches.require_whole(0)


def test_sound_images_leave_no_failure(images, recipe, world):
    given = recipe(drop_remainder=False)
    batches = TrainingBatches(images, given, world(given))
    epochs_of(batches, 0, 1)
    batches.require_whole(0)
