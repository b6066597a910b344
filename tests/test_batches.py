"""What is common to all kinds of examples: batches that are pure functions of their numbers, and the order of an epoch."""

import itertools
import random
import threading

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LONG, blocks, options, pairs, same_batches, windows

import utils
from text.batches import EVALUATION, epoch_batches, evaluation_batches, generator, generators, whole_numbers

many = settings(deadline=None, max_examples=60)
QUESTIONS = toys.squad(contexts=5)
ARTICLES = toys.articles()


@pytest.mark.parametrize("make", [blocks, pairs])
def test_a_batch_is_a_pure_function_of_seed_epoch_and_numbers(make):
    corpus = toys.corpus(*LONG)
    data, fresh = make(corpus), make(corpus)
    for epoch in (0, 3, EVALUATION):
        data.collate([1, 2], epoch + 1)
        assert same_batches(data.collate([5, 3, 8], epoch), fresh.collate(np.array([5, 3, 8]), epoch))
    alone, together = data.collate([3], 1)["input_ids"][0], data.collate([5, 3], 1)["input_ids"][1]
    assert torch.equal(alone, together[: len(alone)])


@pytest.mark.parametrize("make", [lambda p: windows(QUESTIONS, p), lambda p: options(ARTICLES, p)], ids=["qa", "race"])
def test_a_batch_of_questions_is_a_pure_function_of_its_numbers(places, make):
    data, fresh = make(places), make(places)
    indices = random.Random(0).sample(range(len(data)), 4)
    for epoch in (0, 2, EVALUATION):
        data.collate([1], epoch)
        one, other = data.collate(indices, epoch), fresh.collate(np.array(indices), epoch)
        assert same_batches(one, other)


@many
@given(st.integers(1, 300), st.integers(1, 20), st.booleans())
def test_an_epoch_takes_every_example_once(count, batch_size, grouped):
    lengths = np.arange(count) % 37 if grouped else None
    order = epoch_batches(count, batch_size, 1, 0, lengths)
    assert len(order) == -(-count // batch_size) and max(map(len, order)) <= batch_size
    assert sorted(np.concatenate(order)) == list(range(count))
    assert sorted(np.concatenate(evaluation_batches(count, batch_size, lengths))) == list(range(count))


def test_epochs_come_in_different_orders():
    first, again, second, other = (np.concatenate(epoch_batches(100, 8, seed, epoch)).tolist()
                                   for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0)))  # fmt: skip
    assert first == again and first != second and first != other


def test_grouping_by_length_saves_most_of_the_padding():
    lengths = np.random.default_rng(0).integers(10, 200, 2000)

    def padding(order):
        return sum(len(batch) * lengths[batch].max() for batch in order) - lengths.sum()

    grouped, apart = epoch_batches(2000, 16, 1, 0, lengths), epoch_batches(2000, 16, 1, 0)
    assert padding(grouped) < 0.2 * padding(apart)
    means = [lengths[batch].mean() for batch in grouped]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3  # the batches themselves come in no order


def test_every_example_has_a_random_stream_of_its_own():
    streams = [generator(seed, epoch, index).random() for seed in (1, 2) for epoch in (0, 1) for index in (0, 1, 1 << 62)]
    assert len(set(streams)) == len(streams)
    assert generator(1, EVALUATION, 3).random() == generator(2, EVALUATION, 3).random()


def test_one_generator_set_to_each_stream_draws_what_its_own_would():
    for index, rng in zip([3, 1 << 40, 0], generators(7, 2, [3, 1 << 40, 0]), strict=True):
        own = generator(7, 2, index)
        assert rng.random(5).tolist() == own.random(5).tolist()
        assert rng.integers(9, size=3).tolist() == own.integers(9, size=3).tolist()


@pytest.mark.parametrize("bound", [2, 37, 30517, (1 << 31) + 11])  # of the last, numpy throws every second number away
def test_whole_numbers_are_those_that_numpy_draws(bound):
    raw = np.stack([generator(1, 0, row).bit_generator.random_raw(20) for row in range(30)])
    numbers, again = whole_numbers(raw, bound)
    for row in range(30):
        sure = np.argmax(again[row]) if again[row].any() else 40
        assert numbers[row, :sure].tolist() == generator(1, 0, row).integers(bound, size=40)[:sure].tolist()
    assert (again.mean() > 0.4) == (bound > 1 << 31) and (bound > 1 << 31 or again.mean() < 0.001)


def test_the_thread_that_makes_batches_ends_with_the_loop_over_them():
    before = set(threading.enumerate())
    made = utils.prefetch(itertools.count(), torch.device("cpu"))
    assert [next(made), next(made)] == [0, 1]
    [thread] = set(threading.enumerate()) - before
    made.close()
    assert not thread.is_alive()
