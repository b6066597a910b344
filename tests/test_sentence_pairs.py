"""Sentence pairs: true neighbours against parts from anywhere, which nothing but their sense tells apart."""

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LONG, pairs, same_batches

from files.mistakes import UserError
from text.batches import EVALUATION
from text.sentence_pairs import cut_longest_first

many = settings(deadline=None, max_examples=60)
PAD, _, CLS, SEP, _ = range(5)


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
def test_the_share_of_pairs_that_do_not_follow_is_as_asked_and_half_in_evaluation(share):
    data = pairs(toys.corpus(*LONG * 3), frac_ns=share)
    assert np.mean([1 - label for *_, label in parts(data)]) == pytest.approx(share, abs=0.04)
    assert np.mean(data.collate(range(len(data)), EVALUATION)["labels"].tolist()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("least", "found"), [(1, 15), (25, 25)])
def test_no_part_is_shorter_than_asked_where_sentences_are_longer(least, found):
    data = pairs(toys.corpus(*[[40] * 8] * 25), min_length=least)  # of 64 tokens 61 are for both parts
    sizes = [len(part) for first, second, _ in parts(data) for part in (first, second)]
    assert (min(sizes), max(sizes)) == (found, 61 - found)


def test_evaluation_pairs_are_fixed_whatever_training_uses():
    corpus = toys.corpus(*LONG)
    fixed = pairs(corpus).collate(range(9), EVALUATION)
    assert same_batches(fixed, pairs(corpus, seed=7, frac_ns=0.9, min_length=25).collate(range(9), EVALUATION))


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
