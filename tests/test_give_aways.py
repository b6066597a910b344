"""Whether a second part follows must be read from both parts: nothing that comes cheaper tells it better than chance.

Cheap are lengths, those of the sentences as full stops show them, and how the parts begin and end. A regression on these,
their squares and their products is fitted to some pairs and scored on others, for every objective on every text.
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
    """(pairs, features): the clues of both parts, within each part each times each, and the product of their lengths.

    Not each times each across the parts: that they are of one style is no give-away, but what is to be learned.
    """
    x = np.array([clues(first, stops, capitals) + clues(second, stops, capitals) for first, second, _ in pairs], float)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    half = x.shape[1] // 2
    squares = [side[:, [i]] * side[:, i:] for side in (x[:, :half], x[:, half:]) for i in range(half)]
    return np.concatenate([np.ones((len(x), 1)), x, *squares, x[:, [0]] * x[:, [half]]], 1)


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


def told_by_clues(data, stops, capitals, count=4000):
    """The share of ``count`` pairs that a regression tells which was fitted to as many others, and its standard error."""
    pairs = drawn(data, 2 * count)
    x, y = features(pairs, stops, capitals), np.array([label for *_, label in pairs])
    order = np.random.default_rng(0).permutation(2 * count)
    fitted, held_out = order[:count], order[count:]
    return ((x[held_out] @ regression(x[fitted], y[fitted]) > 0) == y[held_out]).mean(), 0.5 / count**0.5


def told_by_a_full_stop(data, stops, count=3000):
    """The share of pairs told by whether the first part ends with a full stop, and its standard error."""
    right = np.mean([stops[first[-2:]].any() == label for first, _, label in drawn(data, count)])
    return max(right, 1 - right), 0.5 / count**0.5


def made(documents, sizes, means):
    """Documents with a mean length of their sentences each, in which long sentences come together."""
    rng = np.random.default_rng(0)
    corpus = toys.corpus(*(
        3 + (rng.uniform(*means) * np.exp(0.7 * np.convolve(rng.normal(size=size + 3), [0.5] * 4, "valid"))).astype(int)
        for size in rng.integers(*sizes, documents)
    ))  # fmt: skip
    corpus.tokens[corpus.tokens != 3] = rng.integers(*WORDS, size=(corpus.tokens != 3).sum())
    corpus.tokens[corpus.sentences[:, 0]] = rng.integers(*CAPITALS, size=len(corpus.sentences))
    corpus.tokens[corpus.sentences[:, 1] - 1] = rng.integers(*STOPS, size=len(corpus.sentences))
    ids = np.arange(WORDS[1])
    return corpus, toys.numbered(WORDS[1]), (ids >= STOPS[0]) & (ids < STOPS[1]), (ids >= CAPITALS[0]) & (ids < CAPITALS[1])


def read(texts, style, kind, size):
    """A corpus of some texts, and what `told_by_clues` wants beside it."""
    tokenizer = train_tokenizer(kind, itertools.chain.from_iterable(map(str.splitlines, texts)), size)
    made = list(map(make_corpus_worker(tokenizer, style), (("", 0, text.encode(), True) for text in texts)))
    arrays, places = {}, {"tokens": 0, "sentences": "tokens", "documents": "sentences"}
    for name, into in places.items():
        sizes = [len(part[into]) if into else 0 for part in made]
        moved = [part[name] + sum(sizes[:number]) for number, part in enumerate(made)]
        arrays[name] = np.concatenate(moved)
    return SimpleNamespace(**arrays), tokenizer, *looks(tokenizer)


def stories():
    """The embedded data set: documents that are shorter than a row."""
    return read(["\n".join(story.text for story in sample.stories("test", 500, "text"))], "lines", "basic_english", 1000)


def books(shared_data):
    """Eight short books, of different length and style."""
    with tarfile.open(shared_data / "books.tar.gz") as archive:
        entries = itertools.islice((e for e in archive if e.isfile() and 40_000 < e.size < 250_000), 8)
        return read([archive.extractfile(entry).read().decode() for entry in entries], "book", "sentencepiece", 2000)


@pytest.fixture(scope="module")
def texts(request):
    """name -> a corpus, its tokenizer, which tokens are stops, and which begin with a capital; made when asked for."""
    makers = {
        "long": lambda: made(24, (100, 800), (2, 20)), "short": lambda: made(900, (2, 13), (9, 9)),
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
    corpus, tokenizer, stops, capitals = texts(name)
    told, error = told_by_clues(SentencePairs(corpus, tokenizer, 128, 1, objective=objective), stops, capitals)
    assert abs(told - 0.5) < 2 * error


@pytest.mark.parametrize("name", ["long", "short", "books"])
def test_a_full_stop_does_not_tell_swapped_parts(texts, name):
    corpus, tokenizer, stops, _ = texts(name)
    told, error = told_by_a_full_stop(SentencePairs(corpus, tokenizer, 128, 1, objective="sop"), stops)
    assert told - 0.5 < 2 * error


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
