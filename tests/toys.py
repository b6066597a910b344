"""Small worlds for the tests: a vocabulary of letters, corpora whose every token is unique, questions and articles,
the examples made of them, and files.

Nothing here comes from text/sample.py, whose stories may change.
"""

import itertools
import json
import math
import random
import re
import string
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from files.mistakes import UserError
from text.masked_blocks import MaskedBlocks
from text.option_rows import OptionRows
from text.question_windows import QuestionWindows
from text.questions import Article, Question, SquadSet
from text.sentence_pairs import SentencePairs
from text.tokenizer import BERT_SPECIALS, Tokenizer

WORDS = "the cat dog sat on mat red blue garden house river who where what is".split()
LONG = [[7, 5, 9, 6, 8, 4, 10, 5]] * 120  # for `corpus`: 120 documents of 8 sentences, 6600 tokens
KINDS = ["sentencepiece", "wordpiece", "wordpiece cased", "basic_english"]  # the fixture ``tokenizers`` has one of each,
LINES = [  # trained on these lines
    'The grey cat said, "I am ½ asleep!" and slept on the warm stone.',
    "Café crème costs 5 coins; the cats' dish (a small one) costs naïve cats more: 7?",
    "Über the river the fine lights were lit, and the rivers' fish swam asleep.",
] * 20
VOCAB_SIZE = 70
# Hypothesis' tries share a test's cache, in which each finds what is its own.
some = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def letters():
    """A wordpiece tokenizer: some whole words, every other word letter by letter. Needs no torchtext."""
    marks = list(".,?!'\"-")
    pieces = [f"##{letter}" for letter in string.ascii_lowercase + string.digits]
    return Tokenizer(
        "wordpiece", [*BERT_SPECIALS, *marks, *WORDS, *string.ascii_lowercase, *string.digits, *pieces], BERT_SPECIALS
    )


def numbered(size):
    """Stands in for a tokenizer of ``size`` tokens where nothing is tokenised; every third token continues a word."""
    starts = np.arange(size) % 3 != 0
    starts[:5] = False
    return Numbered(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, special_ids=[*range(5)], size=size,
                    word_starts=starts)  # fmt: skip


class Numbered(SimpleNamespace):
    def __len__(self):
        return self.size


LETTERS = letters()


def corpus(*documents):
    """A token cache of documents, each a list of sentence lengths; every token but the separators is another number."""
    number, tokens, sentences, begins = itertools.count(10), [], [], []
    for document in documents:
        begins.append(len(sentences))
        tokens.append(3)
        for length in document:
            sentences.append((len(tokens), len(tokens) + length))
            tokens.extend(itertools.islice(number, length))
    return SimpleNamespace(
        tokens=np.array(tokens, np.uint16), sentences=np.array(sentences, np.int64), documents=np.array(begins, np.int64)
    )


def text(rng, words):
    """Words and letters with punctuation, so that a word is one token or several."""
    made = [rng.choice([rng.choice(WORDS), "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 6)))])
            for _ in range(words)]  # fmt: skip
    return "".join(word + rng.choice([" ", " ", " ", ", ", ". "]) for word in made)


def squad(seed=0, contexts=6, words=120, questions=4, impossible=True):
    """Questions whose answers are one to three words from anywhere in their context."""
    rng, made = random.Random(seed), SquadSet([], [], impossible)  # impossible: every context has a question without
    for number in range(contexts):
        context = text(rng, rng.randint(words // 4, words))
        made.contexts.append(context)
        spans = [match.span() for match in re.finditer(r"\w+", context)]
        for asked in range(questions):
            first = rng.randrange(len(spans))
            last = min(first + rng.randrange(3), len(spans) - 1)
            start, end = spans[first][0], spans[last][1]
            answers = [] if impossible and asked == 0 else [(context[start:end], start)]
            made.questions.append(Question(f"q{number}-{asked}", text(rng, rng.randint(1, 12)), number, "", answers))
    return made


def as_json(squad, answers=True):
    """A `SquadSet` as the content of a SQuAD 2.0 file; without answers, a file to predict on."""

    def record(question):
        found = [{"text": text, "answer_start": start} for text, start in question.answers]
        gold = {"answers": found, "is_impossible": not found} if answers else {}
        return {"id": question.id, "question": question.text, **gold}

    def article(number, context):
        questions = [record(question) for question in squad.questions if question.context == number]
        return {"title": str(number), "paragraphs": [{"context": context, "qas": questions}]}

    return {"data": list(itertools.starmap(article, enumerate(squad.contexts)))}


def small_squad(paragraphs):
    """A SQuAD 1.1 file of one article, a question in each paragraph."""
    return {"data": [{"title": "Cats", "paragraphs": [{"context": f"The cat sat {p}.", "qas": [
        {"id": f"{paragraphs}-{p}", "question": "Who sat?", "answers": [{"text": "cat", "answer_start": 4}]}]}
        for p in range(paragraphs)]}]}  # fmt: skip


def articles(seed=0, count=5, words=120, questions=2):
    """Articles of RACE's layout, one in two questions a cloze."""
    rng = random.Random(seed)
    return [
        Article(
            f"{('middle', 'high')[number % 2]}{number}.txt", text(rng, words),
            ["the cat is on the _ ." if asked % 2 else "where is the cat ?" for asked in range(questions)],
            [[f"{rng.choice(WORDS)} {letter}" for letter in "wxyz"] for _ in range(questions)],
            [rng.randrange(4) for _ in range(questions)],
        )
        for number in range(count)
    ]  # fmt: skip


# Examples


def blocks(corpus, bptt=32, seed=1, **options):
    return MaskedBlocks(corpus, numbered(9000), bptt, seed, **options)


def pairs(corpus, bptt=64, seed=1, **options):
    return SentencePairs(corpus, numbered(9000), bptt, seed, **options)


def windows(squad, places, max_length=48, stride=12, **options):
    return QuestionWindows(squad, LETTERS, places, max_length, stride, **options)


def options(articles, places, max_length=64, **settings):
    return OptionRows(articles, LETTERS, places, max_length, 1, **settings)


def same_batches(one, other):
    return all(torch.equal(x, other[name]) if isinstance(x, torch.Tensor) else x == other[name] for name, x in one.items())


def parts(batch, row):
    """The tokens of a row's two parts, without [CLS] and [SEP]."""
    ids, types = batch["input_ids"][row], batch["token_type_ids"][row]
    used = ids[: int(batch["attention_mask"][row].sum())]
    first, second = (used[types[: len(used)] == part].tolist() for part in (0, 1))
    assert first[0] == LETTERS.cls_id and first[-1] == second[-1] == LETTERS.sep_id
    return first[1:-1], second[:-1]


def log_softmax(*scores):
    total = math.log(math.fsum(map(math.exp, scores)))
    return [score - total for score in scores]


# Files and mistakes


def write_articles(folder, articles, answers=True):
    """Articles as files of RACE's layout; without answers, to predict on."""
    for article in articles:
        record = {"article": article.text, "questions": article.questions, "options": article.options}
        record |= {"answers": ["ABCD"[answer] for answer in article.answers]} if answers else {}
        path = folder / article.level / article.id.removeprefix(article.level)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))


def write_all(folder, members):
    """Files of bytes, text or JSON values, {name below the folder: content}."""
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        (folder / name).write_bytes(content)


def caches(places):
    """What lies in the cache folder but locks and the tag that says what it is."""
    found = places.cache.iterdir() if places.cache.exists() else []
    return sorted(path.name for path in found if path.suffix not in (".lock", ".TAG"))


def refused(function, *words):
    """The function tells a user's mistake, in one line with these words in it."""
    with pytest.raises(UserError) as error:
        function()
    assert str(error.value).isprintable() and all(word in str(error.value) for word in words), str(error.value)


def complaint(pattern):
    """What is called in this ``with`` tells a user's mistake, in words that match."""
    return pytest.raises(UserError, match=pattern)


def saved(folder, name="state.pt"):
    """The state of a run whose logs are in ``folder``."""
    return torch.load(folder / name, weights_only=True)
