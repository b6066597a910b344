"""A computed order is a permutation, and as good as a shuffle by every count that a shuffle's is known of."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text import batches
from text.batches import ComputedBatches, epoch_batches, generator
from text.permutation import ROUNDS, permuted


def keys(seed):
    return np.random.default_rng(seed).integers(1 << 64, size=ROUNDS, dtype=np.uint64)


def order(count, seed):
    return permuted(np.arange(count), count, keys(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 1 << 32))
def test_every_number_stands_at_one_place(count, seed):
    assert sorted(order(count, seed)) == list(range(count))


@pytest.mark.parametrize("count", [10**9 + 7, 10**11, (1 << 62) + 1])
def test_a_place_of_a_huge_order_needs_nothing_but_itself(count):
    places = np.array([0, 1, 2, count // 2, count - 1])
    found = permuted(places, count, keys(1))
    assert len(set(found.tolist())) == 5 and found.min() >= 0 and found.max() < count
    assert permuted(places[3:4], count, keys(1)) == found[3]


def test_it_is_counted_like_a_shuffle():
    count, times = 1000, 400
    orders = np.array([order(count, seed) for seed in range(times)])
    numbers = np.arange(count)
    # Each bound is four standard deviations of the mean over the orders, for shuffles that are uniform.
    assert abs((orders == numbers).sum(1).mean() - 1) < 4 / math.sqrt(times)  # fixed points: 1, variance 1
    assert abs((np.diff(orders) > 0).sum(1).mean() - 499.5) < 4 * math.sqrt(1001 / 12 / times)  # ascents
    neighbours = np.abs(np.diff(orders)).mean()  # of neighbours the distance: (n + 1) / 3
    assert abs(neighbours - 1001 / 3) < 4 * 1000 / math.sqrt(18 * 999 * times)
    correlations = [np.corrcoef(numbers, found)[0, 1] for found in orders]
    assert abs(np.mean(correlations)) < 4 / math.sqrt(count * times) and np.std(correlations) < 1.2 / math.sqrt(count)
    tenths = np.zeros((10, 10))  # how often the places of a tenth hold the numbers of a tenth: chi squared, 81 degrees
    np.add.at(tenths, (np.tile(numbers // 100, times), orders.ravel() // 100), 1)
    assert ((tenths - 4000) ** 2 / 4000).sum() * 0.999 < 81 + 4 * math.sqrt(162)


def test_orders_of_different_keys_have_nothing_in_common():
    orders = [order(1000, seed) for seed in range(50)]
    same = [(one == other).sum() for number, one in enumerate(orders) for other in orders[:number]]
    assert abs(np.mean(same) - 1) < 4 / math.sqrt(len(same))


# -- Batches of it -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 20), st.booleans())
def test_an_epoch_takes_every_example_once(count, batch_size, grouped):
    lengths = np.arange(count) % 37 if grouped else None
    found = ComputedBatches(count, batch_size, generator(1, 0, 0), lengths)
    assert len(found) == len(list(found)) == -(-count // batch_size) and max(map(len, found)) <= batch_size
    assert sorted(np.concatenate(list(found))) == list(range(count))


def test_grouping_by_length_saves_as_much_padding_as_in_an_order_that_is_held(monkeypatch):
    lengths = np.random.default_rng(0).integers(10, 200, 4000)

    def padding():
        return sum(len(batch) * lengths[batch].max() for batch in epoch_batches(4000, 16, 1, 0, lengths)) - lengths.sum()

    held = padding()
    monkeypatch.setattr(batches, "HELD", 0)
    assert 0.9 * held < padding() < 1.1 * held


def test_the_order_of_a_huge_set_is_worked_out_where_it_is_asked_for():
    order = epoch_batches(10**10, 4096, seed=3, epoch=2)
    assert len(order) == -(-(10**10) // 4096)
    assert len(set(order[0].tolist()) | set(order[len(order) - 1].tolist())) == 4096 + 10**10 % 4096
    assert (order[7] != epoch_batches(10**10, 4096, seed=3, epoch=3)[7]).any()
