"""What batches.py promises of pretraining: masks, sentence pairs, the order of an epoch. Questions: test_windows.py."""

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from files.mistakes import UserError
from text.batches import EVALUATION, epoch_batches, evaluation_batches, generator
from text.masked_blocks import MaskedBlocks
from text.sentence_pairs import SentencePairs, cut_longest_first

many = settings(deadline=None, max_examples=60)
PAD, UNK, CLS, SEP, MASK = range(5)
LONG = [[7, 5, 9, 6, 8, 4, 10, 5]] * 120  # 120 documents of 8 sentences, 6600 tokens


def blocks(corpus, bptt=32, seed=1, **options):
    return MaskedBlocks(corpus, toys.numbered(9000), bptt, seed, **options)


def same_batches(one, other):
    return all(torch.equal(one[name], other[name]) if one[name] is not None else other[name] is None for name in one)


# Masked blocks


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


def test_whole_words_are_masked_whole():
    data = blocks(toys.corpus(*LONG), bptt=128, unit="whole-word")
    batch, shares = data.collate(range(len(data) - 1), 0), []
    for index, chosen in enumerate(batch["positions"][:, 1:].numpy()):
        tokens = data.block(index, 0)
        word = np.cumsum(data.tokenizer.word_starts[tokens] | (tokens < 5))
        for number in np.unique(word):
            assert len(set(chosen[(word == number) & (tokens >= 5)])) <= 1
        shares.append(chosen[tokens >= 5].mean())
    assert np.mean(shares) == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_an_impossible_share_to_mask_is_refused(fraction):
    with pytest.raises(UserError, match="mask_frac"):
        blocks(toys.corpus([5, 5]), mask_frac=fraction)


# Sentence pairs


def pairs(corpus, bptt=64, seed=1, **options):
    return SentencePairs(corpus, toys.numbered(9000), bptt, seed, **options)


def parts(data, epoch=0):
    """(first, second, label) of all pairs of some epochs."""
    for number in range(epoch, epoch + 8):
        for index in range(len(data)):
            yield data.pair(index, number)


class Where:
    """Finds a token's place, sentence and document in a corpus of unique tokens."""

    def __init__(self, corpus):
        self.place = {int(token): i for i, token in enumerate(corpus.tokens)}
        self.starts = corpus.sentences[:, 0]
        self.corpus = corpus

    def __call__(self, token):
        place = self.place[int(token)]
        sentence = int(np.searchsorted(self.starts, place, "right")) - 1
        return place, sentence, int(np.searchsorted(self.corpus.documents, sentence, "right")) - 1


def test_positive_pairs_are_true_neighbours():
    corpus = toys.corpus(*LONG)
    where = Where(corpus)
    for first, second, label in parts(pairs(corpus)):
        if label:
            (end, _, document), (start, sentence, second_document) = where(first[-1]), where(second[0])
            assert start == end + 1 == corpus.sentences[sentence, 0] and document == second_document


def test_negatives_come_from_another_document_and_from_any_place_in_it_but_the_first():
    corpus = toys.corpus(*LONG)
    where, places, documents = Where(corpus), [], []
    for first, second, label in parts(pairs(corpus)):
        if not label:
            start, sentence, document = where(second[0])
            assert document != where(first[-1])[2] and start == corpus.sentences[sentence, 0]
            places.append(sentence - corpus.documents[document])
            documents.append(document)
    counts = np.bincount(places, minlength=8) / len(places)  # sentence of the document at which the second part begins
    assert len(places) > 300 and counts[0] == 0 and (abs(counts[1:] - 1 / 7) < 0.05).all()
    assert len(set(documents)) > 100


def test_second_parts_of_both_classes_look_alike():
    """Lengths and places must not give the answer away: a negative is cut as a positive is."""
    lengths, beginnings = {0: [], 1: []}, {0: [], 1: []}
    corpus = toys.corpus(*[[6] * 40] * 40)
    where = Where(corpus)
    for first, second, label in parts(pairs(corpus)):
        lengths[label].append((len(first), len(second)))
        beginnings[label].append(where(first[0])[1] % 40)
    for column in (0, 1):
        means = [np.mean([pair[column] for pair in lengths[label]]) for label in (0, 1)]
        assert abs(means[0] - means[1]) < 2
    assert abs(np.mean(beginnings[0]) - np.mean(beginnings[1])) < 2


@many
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8).filter(lambda sizes: max(sizes) > 2), st.integers(8, 40))
def test_no_second_part_is_the_beginning_of_a_document(sizes, bptt):
    """Else a beginning, which is easily told by its look, would give "does not follow" away."""
    corpus = toys.corpus(*([4] * size for size in sizes))
    where, beginnings = Where(corpus), corpus.tokens[corpus.sentences[corpus.documents, 0]].tolist()
    for first, second, label in parts(pairs(corpus, bptt)):
        assert second[0] not in beginnings
        if not label and 3 * (max(sizes) - 1) <= sum(size - 1 for size in sizes):  # none has more than a third
            assert where(second[0])[2] != where(first[-1])[2]


def test_a_corpus_of_one_document_has_negatives_from_elsewhere_in_it():
    corpus = toys.corpus([5] * 300)
    where, labels = Where(corpus), []
    for first, second, label in parts(pairs(corpus, bptt=32)):
        distance = abs(where(second[0])[1] - where(first[-1])[1])
        assert distance == 1 if label else distance > 20
        labels.append(label)
    assert 0.4 < np.mean(labels) < 0.6


@many
@given(st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=5), min_size=1, max_size=6), st.integers(8, 40))
def test_any_corpus_gives_pairs_that_fit_and_a_negative_is_never_the_true_pair(documents, bptt):
    corpus = toys.corpus(*documents)
    if max(map(len, documents)) == 1:
        with pytest.raises(UserError, match="two sentences"):
            pairs(corpus, bptt)
        return
    where = Where(corpus)
    for first, second, label in parts(pairs(corpus, bptt)):
        assert len(first) and len(second) and len(first) + len(second) + 3 <= bptt
        if not label:
            assert where(second[0])[0] != where(first[-1])[0] + 1


def test_sentence_order_pairs_change_places():
    where, labels = Where(toys.corpus(*LONG)), []
    for first, second, label in parts(pairs(where.corpus, objective="sop")):
        (end, _, document), (start, sentence, second_document) = where(first[-1]), where(second[0])
        assert document == second_document and start == where.corpus.sentences[sentence, 0]
        assert start == end + 1 if label else where(first[0])[0] > where(second[-1])[0]
        labels.append(label)
    assert 0.45 < np.mean(labels) < 0.55


@pytest.mark.parametrize("share", [0.5, 0.9, 0.0])
def test_the_share_of_true_pairs_is_as_asked_and_half_in_evaluation(share):
    data = pairs(toys.corpus(*LONG * 3), frac_ns=share)
    assert np.mean([label for *_, label in parts(data)]) == pytest.approx(share, abs=0.04)
    assert np.mean(data.collate(range(len(data)), EVALUATION)["labels"].tolist()) == pytest.approx(0.5, abs=0.1)


def test_evaluation_pairs_are_fixed_whatever_training_uses():
    corpus = toys.corpus(*LONG)
    fixed = pairs(corpus).collate(range(9), EVALUATION)
    assert same_batches(fixed, pairs(corpus, seed=7, frac_ns=0.9).collate(range(9), EVALUATION))


@many
@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 50))
def test_the_longer_part_is_cut_first_each_at_its_far_end(long, short, room):
    first, second = np.arange(long), np.arange(100, 100 + short)
    a, b = cut_longest_first(first, second, room)
    assert len(a) + len(b) == min(room, long + short)
    assert a.tolist() == first[long - len(a) :].tolist() and b.tolist() == second[: len(b)].tolist()
    for kept, whole, other in ((a, first, b), (b, second, a)):
        assert len(kept) == len(whole) or len(kept) >= len(other) - 1  # what was cut is not the shorter one


def test_a_pair_is_laid_out_as_bert_wants_it():
    data = pairs(toys.corpus(*LONG))
    first, second, label = data.pair(3, 2)
    batch = data.collate([3, 4], 2)
    row = [CLS, *first, SEP, *second, SEP]
    assert batch["input_ids"][0, : len(row)].tolist() == row and (batch["input_ids"][0, len(row) :] == PAD).all()
    assert batch["token_type_ids"][0, : len(row)].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert batch["attention_mask"].sum(1)[0] == len(row) and batch["labels"][0] == label


def test_an_impossible_share_of_pairs_is_refused():
    with pytest.raises(UserError, match="frac_ns"):
        pairs(toys.corpus(*LONG), frac_ns=1.2)


# Batches


@pytest.mark.parametrize("make", [blocks, pairs])
def test_a_batch_is_a_pure_function_of_seed_epoch_and_numbers(make):
    corpus = toys.corpus(*LONG)
    data, fresh = make(corpus), make(corpus)
    for epoch in (0, 3, EVALUATION):
        data.collate([1, 2], epoch + 1)
        assert same_batches(data.collate([5, 3, 8], epoch), fresh.collate(np.array([5, 3, 8]), epoch))
    alone, together = data.collate([3], 1)["input_ids"][0], data.collate([5, 3], 1)["input_ids"][1]
    assert torch.equal(alone, together[: len(alone)])


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
