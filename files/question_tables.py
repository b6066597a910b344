"""Questions in the rows of .jsonl and Parquet, by the names of their columns: the layouts that the hub's sets have.

    kind_of(columns_of(path))               # "questions", "choices" or "text"
    question_of(row, answers_needed=True)   # as SQuAD's JSON has it; for questions.py, which checks it as it does that
    choice_of(row, answers_needed=True)

A row is one question. On a passage, answered by a part of it: ``context``, ``question``, ``answers {text: [...],
answer_start: [...]}`` (empty: no answer), ``id``, and ``title`` where there is one. With options: CHOICES.
"""

import itertools
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from files.records import entry, want
from files.tables import Row, stem

LETTERS = string.ascii_uppercase  # of options, in their order; RACE has A to D
QUESTIONS = ("id", "title", "context", "question", "answers", "is_impossible")
# What is wanted of a question with options, and the columns that may hold it, of which the first that a row has counts:
# those of RACE (one file an article there, here a row a question), SWAG, CommonsenseQA and the like.
CHOICES = {
    "article": ("article", "passage", "context", "sent1", "startphrase"),  # none: there is nothing to read
    "question": ("question", "question_stem", "sent2"),  # none: the options go on with the article
    "options": ("options", "choices", "ending0"),  # a list; {text: [...], label: [...]}; ending0, ending1 and so on
    "answer": ("answer", "answerKey", "label"),  # a letter, a number from 0 on, or one of the options' labels
    "article's id": ("example_id", "article_id"),
    "id": ("id",),  # of the question
}
ENDINGS = tuple(f"ending{number}" for number in range(len(LETTERS)))
CHOICE_COLUMNS = (*(name for names in CHOICES.values() for name in names), *ENDINGS)


def kind_of(columns: Iterable[str]) -> str:
    """What rows with such columns are, a key of places.SETS."""
    there = set(columns)
    if there & set(CHOICES["options"]) and there & {*CHOICES["question"], *CHOICES["article"]}:
        return "choices"
    return "questions" if {"context", "question"} <= there else "text"


def question_of(row: Row, answers_needed: bool) -> tuple[str, dict[str, Any], str, str, bool]:
    """Where it stands, the question as SQuAD's JSON has it, its context and title, and may its set have no answers?"""
    entries, where = row.entries(), row.where
    context = entry(entries, "context", str, where)
    where = f"{where}, question {entries['id']}" if "id" in entries else where
    record: dict[str, Any] = {name: entries[name] for name in ("id", "question") if name in entries}
    gold = entries.get("answers")
    unanswered = "is_impossible" in entries or (isinstance(gold, dict) and gold.get("text") == [])
    if answers_needed:
        want("answers" in entries, where, "no 'answers'", 'write "answers": {"text": ["Anna"], "answer_start": [0]}')
        gold = entry(entries, "answers", dict, where)
        texts, starts = (entry(gold, name, list, where) for name in ("text", "answer_start"))
        want(len(texts) == len(starts), where, f"answers with {len(texts)} text and {len(starts)} answer_start")
        record["answers"] = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        marked = entries.get("is_impossible")
        record["is_impossible"] = not texts if marked is None else marked
    return where, record, context, str(entries.get("title") or ""), unanswered


class Choice(NamedTuple):
    """A question with options as a row has it; what must be told with ``where``, no more is checked yet."""

    where: str
    id: str
    key: Any  # the same for the rows of one article
    article: str
    question: str
    options: Any
    answer: Any  # a letter, where it could be one


def choice_of(row: Row, answers_needed: bool) -> Choice:
    """Rows are of one article that have its id; else, where they are to train on or to score, its text.

    Answers of predictions go by id: there each row with an id of its own stays for itself.
    """
    entries, where = row.entries(), row.where
    named = {what: next((name for name in names if name in entries), "") for what, names in CHOICES.items()}
    article, question = (entry(entries, named[what], str, where) if named[what] else "" for what in ("article", "question"))
    of_article, own = (named[what] and str(entry(entries, named[what], str | int | float, where))
                       for what in ("article's id", "id"))  # fmt: skip
    want(named["options"], where, f"no column {' or '.join(CHOICES['options'])}")
    want(named["article"] or named["question"], where, f"no column {' or '.join(CHOICES['question'])}, nor an article")
    options, labels = options_of(entries, named["options"], where)
    answer = None
    if answers_needed:
        want(named["answer"], where, f"no column {' or '.join(CHOICES['answer'])}")
        answer = letter_of(entries[named["answer"]], labels, len(options) if isinstance(options, list) else 0)
    id = of_article or own or f"{stem(row.path)}-{row.number}"
    key = of_article or (article if answers_needed and article else id)
    return Choice(where, id, key, article, question, options, answer)


def options_of(entries, column, where):
    """The options, and their labels where they have some."""
    if column == ENDINGS[0]:
        found = [entries[name] for name in itertools.takewhile(lambda name: entries.get(name) is not None, ENDINGS)]
        while found and found[-1] == "":  # a spreadsheet's empty cell, beside questions that have more options
            found.pop()
        return found, []
    if isinstance(entries[column], dict):
        return entry(entries[column], "text", list, where), entry(entries[column], "label", list, where)
    return entries[column], []


def letter_of(answer, labels, count):
    """A number or a label as the letter of its option; what is neither as it is, which will be told."""
    if answer in labels[: len(LETTERS)]:
        return LETTERS[labels.index(answer)]
    if not labels and isinstance(answer, str) and answer.isascii() and answer.isdigit():  # of a spreadsheet
        answer = int(answer)
    number = isinstance(answer, int) and not isinstance(answer, bool)
    return LETTERS[answer] if number and 0 <= answer < min(count, len(LETTERS)) else answer


def race_id(article: dict, path: Path) -> str:
    """The id of an article of RACE; where it has none, the names of its folder and its file: high/3132.txt is
    "high3132.txt"."""
    return str(article.get("id", path.absolute().parent.name + path.name))
