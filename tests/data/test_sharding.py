"""Shares of an epoch: exact for any count, batch and number of ranks."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindcv_lite.data.sharding import epoch_order, epoch_seed, missing, noise_seed, shard, steps_of

counts, batches, ranks = st.integers(1, 300), st.integers(1, 70), st.integers(1, 8)


@given(counts, batches, ranks, st.booleans(), st.integers(0, 5))
def test_every_image_comes_exactly_once_over_all_ranks(count, batch_size, size, drop_remainder, epoch):
    order = epoch_order(count, seed=7, epoch=epoch, shuffle=True)
    steps = steps_of(count, batch_size, size, drop_remainder)
    seen, filling = Counter(), 0
    for rank in range(size):
        indices, weights = shard(order, batch_size, rank, size, drop_remainder)
        assert len(indices) == len(weights) == steps * batch_size  # whole batches, as many on every rank
        assert set(np.unique(weights)) <= {0.0, 1.0}
        assert all(0 <= index < count for index in indices)
        seen.update(indices[weights == 1].tolist())
        filling += int((weights == 0).sum())
    if drop_remainder:
        assert sum(seen.values()) == len(seen) == count - count % (batch_size * size)
        assert filling == 0
    else:
        assert seen == dict.fromkeys(range(count), 1)
        assert filling == steps * batch_size * size - count < batch_size * size


def test_who_trains_on_which_image_when_stays_as_it_was():
    digest = hashlib.sha256()
    for epoch, rank in itertools.product(range(3), range(3)):
        indices, weights = shard(epoch_order(1000, 42, epoch, shuffle=True), 8, rank, 3, drop_remainder=False)
        digest.update(indices.astype(np.int64).tobytes() + weights.tobytes())
    assert digest.hexdigest() == "3755d241b5533bca289b3e7902aecf1f1fef695e10ac63eb4b6b8c9c86419fc9"


@given(counts, batches, ranks, st.booleans())
def test_only_the_last_batch_is_filled_up_and_each_global_batch_is_the_next_part_of_the_order(
    count, batch_size, size, drop_remainder
):
    order = epoch_order(count, seed=7, epoch=0, shuffle=True)
    shares = [shard(order, batch_size, rank, size, drop_remainder) for rank in range(size)]
    for step in range(steps_of(count, batch_size, size, drop_remainder)):
        part = slice(step * batch_size, (step + 1) * batch_size)
        real = np.concatenate([indices[part][weights[part] == 1] for indices, weights in shares])
        expected = order[step * batch_size * size : (step + 1) * batch_size * size]
        assert sorted(real) == sorted(expected)


@given(counts, st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_an_epochs_order_is_a_permutation_that_its_seed_repeats(count, seed, epoch):
    order = epoch_order(count, seed, epoch, shuffle=True)
    assert sorted(order) == list(range(count))
    assert np.array_equal(order, epoch_order(count, seed, epoch, shuffle=True))


@given(st.integers(20, 300), st.integers(0, 2**31 - 2), st.integers(0, 1000))
def test_another_epoch_and_another_seed_give_another_order(count, seed, epoch):
    # 20 images have 2e18 orders: two equal ones are no accident.
    order = epoch_order(count, seed, epoch, shuffle=True)
    assert not np.array_equal(order, epoch_order(count, seed, epoch + 1, shuffle=True))
    assert not np.array_equal(order, epoch_order(count, seed + 1, epoch, shuffle=True))


@given(counts, st.integers(0, 100))
def test_without_shuffle_every_epoch_is_in_the_order_of_the_files(count, epoch):
    assert np.array_equal(epoch_order(count, 7, epoch, shuffle=False), np.arange(count))


@given(counts, st.integers(1, 400))
def test_num_samples_takes_that_many_images_or_all(count, num_samples):
    order = epoch_order(count, 7, 0, shuffle=True, num_samples=num_samples)
    assert len(order) == len(set(order)) == min(count, num_samples)
    assert np.array_equal(order, epoch_order(count, 7, 0, shuffle=True)[:num_samples])
    assert np.array_equal(
        epoch_order(count, 7, 0, shuffle=False, num_samples=num_samples), np.arange(min(count, num_samples))
    )


@given(counts, st.integers(2, 5), ranks)
def test_repeats_put_each_image_of_a_part_on_several_ranks_in_an_epoch_of_the_same_length(count, repeats, size):
    order = epoch_order(count, 7, 0, shuffle=True, repeats=repeats)
    assert len(order) == count
    times = Counter(order.tolist())
    assert len(times) == -(-count // repeats)
    assert sorted(times.values())[1:] == [repeats] * (len(times) - 1)  # the last image may be cut off
    for rank in range(size):
        indices, weights = shard(order, 1, rank, size, drop_remainder=False)
        assert max(Counter(indices[weights == 1].tolist()).values(), default=0) <= -(-repeats // size)


class_sizes = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any)


@given(class_sizes, st.data(), st.integers(1, 8), ranks)
def test_balanced_draws_go_round_the_classes_and_take_all_images_of_a_class_before_one_again(sizes, data, epochs, size):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    draws = data.draw(st.integers(1, len(labels)))
    of_class, of_image = Counter(), Counter()
    for epoch in range(epochs):
        order = epoch_order(len(labels), 7, epoch, shuffle=True, num_samples=draws, balanced=labels)
        shares = [shard(order, 4, rank, size, drop_remainder=False) for rank in range(size)]
        seen = Counter(np.concatenate([indices[weights == 1] for indices, weights in shares]).tolist())
        assert seen == Counter(order.tolist())
        assert len(order) == draws
        in_epoch = Counter(labels[order].tolist())
        of_class.update(in_epoch)
        of_image.update(order.tolist())
        for counts in (in_epoch, of_class):
            every = [counts[label] for label, count in enumerate(sizes) if count]
            assert max(every) - min(every) <= 1
        for label in range(len(sizes)):
            times = [of_image[index] for index in np.flatnonzero(labels == label)]
            assert not times or max(times) - min(times) <= 1


def test_balanced_draws_stay_in_random_order_and_as_they_were():
    labels, digest = np.repeat(np.arange(3), [5, 900, 95]), hashlib.sha256()
    orders = [epoch_order(1000, 42, epoch, shuffle=True, balanced=labels) for epoch in range(3)]
    for order in orders:
        assert all(20 < (labels[part] == 0).sum() < 50 for part in np.split(order, 10))
        digest.update(order.astype(np.int64).tobytes())
    assert not np.array_equal(np.sort(orders[0]), np.sort(orders[1]))
    assert not np.array_equal(orders[0], epoch_order(1000, 43, 0, shuffle=True, balanced=labels))
    assert digest.hexdigest() == "6bff385937713d8ec5185775c057e00b928e2b963fa8d266bf233e83873fd892"


def test_repeats_of_balanced_draws_are_in_a_row():
    labels = np.repeat(np.arange(2), [10, 80])
    order = epoch_order(90, 7, 0, shuffle=True, repeats=3, balanced=labels)
    assert np.array_equal(order[::3], order[1::3])
    assert np.array_equal(order[::3], order[2::3])
    assert Counter(labels[order].tolist()) == {0: 45, 1: 45}


def test_num_samples_of_shuffled_images_draws_others_every_epoch():
    drawn = [set(epoch_order(1000, 7, epoch, shuffle=True, num_samples=20)) for epoch in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("count", "batch_size", "size", "dropped", "filled"),
    [(10007, 75, 8, 16, 17), (10, 4, 3, 0, 1), (12, 4, 3, 1, 1), (1, 64, 8, 0, 1), (1281167, 75, 8, 2135, 2136)],
)
def test_steps_are_those_worked_out_by_hand(count, batch_size, size, dropped, filled):
    assert steps_of(count, batch_size, size, drop_remainder=True) == dropped
    assert steps_of(count, batch_size, size, drop_remainder=False) == filled


def test_seeds_differ_by_seed_epoch_and_rank_and_fit_into_31_bits():
    seeds = [epoch_seed(seed, epoch, rank) for seed in range(10) for epoch in range(100) for rank in range(8)]
    assert len(set(seeds)) == len(seeds)  # 8000 draws of 2**31: a pair in 70 such tables would be chance
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert epoch_seed(42, 3, 1) == epoch_seed(42, 3, 1)


def test_seeds_of_noise_leave_half_of_int32_to_the_steps():
    seeds = [noise_seed(seed) for seed in range(10_000)]
    assert min(seeds) >= 0
    assert 2**29 < max(seeds) < 2**30


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)))
def test_what_is_missing_is_what_came_less_often_than_expected(expected, came):
    lost = missing(np.array(expected, int), np.array(came, int))
    assert Counter(lost) == Counter(expected) - Counter(came)
    later = [index for position, index in enumerate(expected) if expected[:position].count(index) >= came.count(index)]
    assert lost == later  # in the order in which they were expected, and the first ones count as come
