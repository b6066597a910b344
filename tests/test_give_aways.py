"""Whether a second part follows must be read from both parts: nothing that comes cheaper tells it better than chance.

Cheap are lengths, those of the sentences as full stops show them, and how the parts begin and end. A regression on these,
their squares and their products is fitted to the pairs of one corpus and scored on those of another, for every objective:
what the few last sentences of one corpus happen to be could else be learned.
"""

import functools
import itertools
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import toys

from text import sample
from text.sentence_pairs import SentencePairs
from text.tokens import make_corpus_worker
from text.vocabularies import train_tokenizer

STOPS, CAPITALS, WORDS = (5, 8), (8, 400), (400, 9000)  # ids of a made corpus: from, up to


def looks(tokenizer):
    """Two boolean arrays (V,): tokens that end a sentence, and tokens that begin with a capital."""
    words = [token.strip("▁").rstrip("\"”’')") for token in tokenizer.tokens]
    return np.array([word[-1:] in (".", "!", "?") for word in words]), np.array([word[:1].isupper() for word in words])


def clues(part, stops, capitals):
    """Of one part: its tokens, its sentences, the length of the first, the last and the mean one, and both edges."""
    borders = np.flatnonzero(stops[part][:-1]) + 1
    lengths = np.diff(borders, prepend=0, append=len(part))
    numbers = [len(part), len(lengths), lengths[0], lengths[-1], lengths.mean()]
    return [*np.log(numbers), capitals[part[0]], stops[part[-2:]].any()]


def features(pairs, stops, capitals):
    """(pairs, features): the clues of both parts, and within each part each times each.

    Not across the parts: that they are of one style is no give-away, but what is to be learned.
    """
    x = np.array([clues(first, stops, capitals) + clues(second, stops, capitals) for first, second, _ in pairs], float)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    half = x.shape[1] // 2
    squares = [side[:, [i]] * side[:, i:] for side in (x[:, :half], x[:, half:]) for i in range(half)]
    return np.concatenate([np.ones((len(x), 1)), x, *squares], 1)


def regression(x, y, rounds=8):
    """The weights of a logistic regression, by Newton's method, a little drawn towards nought."""
    weights = np.zeros(x.shape[1])
    for _ in range(rounds):
        shares = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        curvature = (x.T * (shares * (1 - shares))) @ x + 3 * np.eye(len(weights))
        weights -= np.linalg.solve(curvature, x.T @ (shares - y) + 3 * weights)
    return weights


def drawn(data, count):
    """Pairs from all over the corpus: where a part of it were left out, it would give wrong second parts only."""
    indices = np.random.default_rng(0).integers(len(data), size=count)
    return [data.pair(int(index), epoch) for epoch, index in enumerate(indices)]


def told_by_clues(data, other, stops, capitals, count=4000):
    """The share of pairs of ``other`` that a regression tells which was fitted to those of ``data``, and its error."""
    (x, y), (held_out, truth) = ((features(pairs, stops, capitals), np.array([label for *_, label in pairs]))
                                 for pairs in (drawn(data, count), drawn(other, count)))  # fmt: skip
    return ((held_out @ regression(x, y) > 0) == truth).mean(), 0.5 / count**0.5


def told_by_a_full_stop(data, stops, count=3000):
    """The share of pairs told by whether the first part ends with a full stop, both labels alike, and its error."""
    pairs = drawn(data, count)
    ends = [np.mean([stops[first[-2:]].any() for first, _, label in pairs if label == side]) for side in (0, 1)]
    return 0.5 + abs(ends[1] - ends[0]) / 2, 0.5 / count**0.5


def made(documents, sizes, means):
    """Two corpora: documents with a mean length of their sentences each, in which long sentences come together."""
    corpora = []
    for rng in map(np.random.default_rng, (0, 1)):
        counts = rng.integers(*sizes, documents)
        begins, lengths = np.cumsum(counts) - counts, np.concatenate([
            3 + (rng.uniform(*means) * np.exp(0.7 * np.convolve(rng.normal(size=n + 3), [0.5] * 4, "valid"))).astype(int)
            for n in counts
        ])  # fmt: skip
        ends = np.cumsum(lengths + np.isin(np.arange(len(lengths)), begins))  # a separator before each document
        tokens = rng.integers(*WORDS, size=ends[-1])
        tokens[(ends - lengths)[begins] - 1] = 3
        tokens[ends - lengths], tokens[ends - 1] = (rng.integers(*kind, size=len(ends)) for kind in (CAPITALS, STOPS))
        corpora.append(SimpleNamespace(tokens=tokens, sentences=np.stack([ends - lengths, ends], 1), documents=begins))
    ids = np.arange(WORDS[1])
    looks = [(ids >= low) & (ids < high) for low, high in (STOPS, CAPITALS)]
    return corpora, toys.numbered(WORDS[1]), *looks


def read(groups, style, kind, size):
    """A corpus of each group of texts, and what `told_by_clues` wants beside them."""
    lines = [line for texts in groups for text in texts for line in text.splitlines()]
    tokenizer = train_tokenizer(kind, lines, size)
    worker, corpora = make_corpus_worker(tokenizer, style, "rules"), []
    for texts in groups:
        parts, arrays = [worker(("", 0, text.encode(), True)) for text in texts], {}
        for name, into in {"tokens": None, "sentences": "tokens", "documents": "sentences"}.items():
            moves = np.cumsum([0, *(len(part[into]) if into else 0 for part in parts)])
            arrays[name] = np.concatenate([part[name] + move for part, move in zip(parts, moves, strict=False)])
        corpora.append(SimpleNamespace(**arrays))
    return corpora, tokenizer, *looks(tokenizer)


def stories():
    """The embedded data set: documents that are shorter than a row."""
    groups = [["\n".join(story.text for story in sample.stories(split, 500, "text"))] for split in ("valid", "test")]
    return read(groups, "lines", "basic_english", 1000)


def books(shared_data):
    """Short books of different length and style."""
    with tarfile.open(shared_data / "books.tar.gz") as archive:
        entries = itertools.islice((e for e in archive if e.isfile() and 40_000 < e.size < 250_000), 8)
        texts = [archive.extractfile(entry).read().decode() for entry in entries]
    return read([texts[::2], texts[1::2]], "book", "sentencepiece", 2000)


@pytest.fixture(scope="module")
def texts(request):
    """name -> two corpora, their tokenizer, which tokens are stops, and which begin with a capital; made when asked for."""
    makers = {
        "long": lambda: made(30, (100, 800), (2, 20)), "short": lambda: made(3000, (2, 13), (2, 20)),
        "stories": stories, "books": lambda: books(request.getfixturevalue("shared_data")),
    }  # fmt: skip
    return functools.cache(lambda name: makers[name]())


# Not the order of stories: each is shorter than a row, and that it opens with a statement and ends with an answer is what
# the order of its sentences is.
@pytest.mark.parametrize(
    ("name", "objective"),
    [("long", "nsp"), ("long", "sop"), ("short", "nsp"), ("short", "sop"), ("stories", "nsp"), ("books", "nsp"),
     ("books", "sop")],
)  # fmt: skip
def test_cheap_clues_stay_at_chance(texts, name, objective):
    corpora, tokenizer, stops, capitals = texts(name)
    data = [SentencePairs(corpus, tokenizer, 128, 1, objective=objective) for corpus in corpora]
    told, error = told_by_clues(*data, stops, capitals)
    assert abs(told - 0.5) < 2 * error


@pytest.mark.parametrize("name", ["long", "short", "books"])
def test_a_full_stop_does_not_tell_swapped_parts(texts, name):
    corpora, tokenizer, stops, _ = texts(name)
    told, error = told_by_a_full_stop(SentencePairs(corpora[0], tokenizer, 128, 1, objective="sop"), stops)
    assert told - 0.5 < 2 * error


def test_lengths_of_both_parts_together_do_not_tell_a_short_document():
    """In a document shorter than a row a long first part leaves a short second one: also for wrong second parts."""
    corpus = toys.corpus(*([6] * size for size in np.random.default_rng(0).integers(2, 13, 600)))
    pairs = drawn(SentencePairs(corpus, toys.numbered(30_000), 128, 1), 6000)
    wrong, true = (np.corrcoef([(len(a), len(b)) for a, b, label in pairs if label == side], rowvar=False)[0, 1]
                   for side in (0, 1))  # fmt: skip
    assert abs(true - wrong) < 0.055  # two standard errors


def test_true_and_wrong_second_parts_begin_at_the_same_sentences_equally_often():
    """In large documents and in small ones, behind long sentences and behind short ones."""
    corpus = toys.corpus([3, 30] * 60, [5] * 80, *[[40, 2, 3, 4]] * 40)
    data = SentencePairs(corpus, toys.numbered(9000), 32, 1)
    numbers = {int(corpus.tokens[start]): number for number, start in enumerate(corpus.sentences[:, 0])}
    pairs, lengths = drawn(data, 8000), np.diff(corpus.sentences, axis=1)[:, 0]
    for side in (0, 1):
        sentences = np.array([numbers[int(second[0])] for _, second, label in pairs if label == side])
        assert abs((sentences < 120).mean() - 119 / 318) < 0.025  # three standard errors
        assert abs((sentences >= 200).mean() - 120 / 318) < 0.025
        assert abs((lengths[sentences - 1] >= 30).mean() - (60 + 40) / 318) < 0.025


def test_one_long_text_and_a_short_one_give_wrong_parts_from_all_over():
    """The three sentences of a README beside a novel were in all wrong pairs of the novel's sentences, in two forms."""
    rng = np.random.default_rng(0)
    corpus = toys.corpus(rng.integers(4, 30, 1000), [5, 9, 7])
    data = SentencePairs(corpus, toys.numbered(9000), 64, 1)
    wrong = [tuple(second[:1]) for _, second, label in drawn(data, 900) if not label]
    assert len(set(wrong)) > 0.7 * len(wrong)
