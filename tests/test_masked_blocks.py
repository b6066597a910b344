"""Masked blocks: an epoch covers every token once, and what is masked is drawn as BERT draws it, the same when scored."""

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LONG, blocks, same_batches

from files.mistakes import UserError
from text import masked_blocks
from text.batches import EVALUATION

many = settings(deadline=None, max_examples=60)
PAD, UNK, CLS, SEP, MASK = range(5)


@many
@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=1, max_size=8), st.integers(3, 40),
       st.sampled_from([EVALUATION, 0, 1, 2, 3]))  # fmt: skip
def test_each_epoch_covers_every_token_exactly_once(documents, bptt, epoch):
    corpus = toys.corpus(*documents)
    data = blocks(corpus, bptt)
    tokens = np.concatenate([data.block(index, epoch) for index in range(len(data))])
    assert sorted(tokens) == sorted(corpus.tokens)


def test_epochs_are_cut_at_different_places():
    data = blocks(toys.corpus(*LONG))
    firsts = {int(data.block(3, epoch)[0]) for epoch in range(10)}
    assert len(firsts) > 5
    assert data.block(3, EVALUATION)[0] == data.corpus.tokens[3 * 31]


def test_blocks_keep_the_separators_between_documents():
    data = blocks(toys.corpus(*LONG), bptt=64)
    for index in range(len(data)):
        tokens = data.block(index, 1)
        breaks = np.flatnonzero(np.diff(tokens) != 1)  # numbers run on within a document
        assert all(SEP in tokens[place : place + 2] for place in breaks)


def test_a_batch_hides_what_its_labels_tell():
    data = blocks(toys.corpus(*LONG))
    batch = data.collate([0, 5, 9], 1)
    original = np.stack([data.block(index, 1) for index in (0, 5, 9)])
    positions = batch["positions"][:, 1:].numpy()
    assert (batch["input_ids"][:, 0] == CLS).all() and not batch["positions"][:, 0].any()
    assert (batch["input_ids"][:, 1:].numpy() == original)[~positions].all()
    assert batch["labels"].tolist() == original[positions].tolist()
    assert batch["attention_mask"] is None  # nothing is padded


def test_a_short_block_is_padded_and_masked():
    batch = blocks(toys.corpus([6])).collate([0], EVALUATION)
    assert batch["attention_mask"].sum() == 8  # cls, sep, six tokens
    assert (batch["input_ids"][0, 8:] == PAD).all() and not batch["positions"][0, 8:].any()


def masking_of(data, epoch=0):
    """Originals, what is shown, and where it is masked, of a whole epoch, flat and without padding."""
    batch = data.collate(range(len(data)), epoch)
    kept = torch.ones_like(batch["positions"]) if batch["attention_mask"] is None else batch["attention_mask"].bool()
    originals = batch["input_ids"].clone()
    originals[batch["positions"]] = batch["labels"]
    return originals[kept].numpy(), batch["input_ids"][kept].numpy(), batch["positions"][kept].numpy()


@pytest.mark.parametrize("fraction", [0.15, 0.4])
def test_of_the_chosen_tokens_80_percent_are_masked_10_random_10_kept(fraction):
    originals, shown, chosen = masking_of(blocks(toys.corpus(*LONG), bptt=128, mask_frac=fraction))
    assert chosen[originals > SEP].mean() == pytest.approx(fraction, rel=0.03)
    masked, kept = shown == MASK, shown == originals
    assert masked[chosen].mean() == pytest.approx(0.8, abs=0.05)
    assert kept[chosen].mean() == pytest.approx(0.1, abs=0.04)
    random = shown[chosen & ~masked & ~kept]
    assert len(random) / chosen.sum() == pytest.approx(0.1, abs=0.04)
    assert random.min() >= 5 and random.std() == pytest.approx(9000 / 12**0.5, rel=0.15)  # uniform, no special token


@pytest.mark.parametrize("unit", ["token", "whole-word"])
def test_a_special_token_is_never_masked(unit):
    corpus = toys.corpus(*LONG)
    corpus.tokens[::4] = UNK
    originals, _, chosen = masking_of(blocks(corpus, mask_frac=0.5, unit=unit))
    assert chosen.any() and not chosen[originals < 5].any()


@many
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.floats(0.01, 0.99), st.integers(0, 999),
       st.sampled_from(["token", "whole-word"]), st.booleans())  # fmt: skip
def test_the_share_of_ordinary_tokens_is_chosen_and_one_at_least(ordinary, fraction, seed, unit, scored):
    data, rng, count = blocks(toys.corpus([40]), mask_frac=fraction, unit=unit), np.random.default_rng(seed), len(ordinary)
    tokens = np.where(ordinary, rng.integers(5, 9000, count), rng.integers(0, 4, count))[None]
    chosen = data.choose(tokens, rng.random((1, count)), scored)[0]
    share = max(1, round((0.15 if scored else fraction) * sum(ordinary))) if any(ordinary) else 0
    assert not chosen[~np.array(ordinary)].any()
    assert chosen.sum() == share if unit == "token" or scored else chosen.sum() >= share


def test_no_place_of_a_block_is_masked_more_often_than_another():
    data = blocks(toys.corpus(*LONG))
    found = torch.cat([data.collate(range(len(data) - 2), epoch)["positions"][:, 1:] for epoch in range(40)]).float()
    share = found.mean()
    assert (found.mean(0) - share).abs().max() < 4.5 * (share * (1 - share) / len(found)) ** 0.5  # standard errors


def test_nothing_but_special_tokens_means_nothing_to_restore():
    corpus = toys.corpus([40])
    corpus.tokens[:] = UNK
    assert len(blocks(corpus).collate([0], 0)["labels"]) == 0


def test_masks_differ_between_sequences_epochs_and_seeds():
    corpus = toys.corpus(*LONG)
    corpus.tokens[:] = 17  # blocks differ in nothing else
    patterns = [blocks(corpus, seed=seed).collate([index], epoch)["positions"][0].tolist()
                for seed in (1, 2) for index in range(5) for epoch in range(5)]  # fmt: skip
    assert len(set(map(tuple, patterns))) == len(patterns)


def test_evaluation_masks_are_fixed_whatever_training_uses():
    corpus = toys.corpus(*LONG)
    fixed = blocks(corpus).collate([2, 4], EVALUATION)
    for options in (dict(seed=9), dict(mask_frac=0.4), dict(unit="whole-word")):
        assert same_batches(fixed, blocks(corpus, **options).collate([2, 4], EVALUATION))
    assert fixed["positions"].float().mean() == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize("unknown", [False, True])
def test_whole_words_are_masked_whole(unknown):
    """Also those in which a character is unknown."""
    corpus = toys.corpus(*LONG)
    data = blocks(corpus, bptt=128, unit="whole-word")
    if unknown:
        inner = np.flatnonzero((corpus.tokens >= 5) & (corpus.tokens % 3 == 2))  # of words of three
        corpus.tokens[inner[::3]] = UNK
    batch, shares = data.collate(range(len(data) - 1), 0), []
    for index, chosen in enumerate(batch["positions"][:, 1:].numpy()):
        tokens = data.block(index, 0)
        word = np.cumsum(data.tokenizer.word_starts[tokens] | ((tokens < 5) & (tokens != UNK)))
        for number in np.unique(word):
            assert len(set(chosen[(word == number) & (tokens >= 5)])) <= 1
        shares.append(chosen[tokens >= 5].mean())
    assert np.mean(shares) == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_an_impossible_share_to_mask_is_refused(fraction):
    with pytest.raises(UserError, match="mask_frac"):
        blocks(toys.corpus([5, 5]), mask_frac=fraction)


def test_a_random_word_is_drawn_again_where_numpy_draws_again(monkeypatch):
    """The rare case made frequent: all rows are drawn the slow way, and are the same."""
    corpus = toys.corpus(*LONG)
    expected = blocks(corpus, mask_frac=0.9).collate(range(9), 0)
    numbers = masked_blocks.whole_numbers
    monkeypatch.setattr(masked_blocks, "whole_numbers", lambda raw, bound: (
        0 * numbers(raw, bound)[0], np.ones((len(raw), 2 * raw.shape[1]), bool)))  # fmt: skip
    assert same_batches(blocks(corpus, mask_frac=0.9).collate(range(9), 0), expected)
