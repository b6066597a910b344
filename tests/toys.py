"""Small worlds for the tests: a vocabulary of letters, corpora whose every token is unique, questions and articles.

Nothing here comes from text/sample.py, whose stories may change.
"""

import itertools
import random
import re
import string
from types import SimpleNamespace

import numpy as np

from text.questions import Article, Question, SquadSet
from text.tokenizer import BERT_SPECIALS, Tokenizer

WORDS = "the cat dog sat on mat red blue garden house river who where what is".split()


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
    return Numbered(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, size=size, word_starts=starts)


class Numbered(SimpleNamespace):
    def __len__(self):
        return self.size


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
