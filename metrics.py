"""Scores: exact match and F1 for SQuAD, accuracy for RACE, and a command that scores a file of predictions.

    python metrics.py squad DATA.json PREDICTIONS.json      # {id: text}; SQuAD 1.1 or 2.0, told by the data
    python metrics.py squad DATA.json PREDICTIONS.json --null-odds ODDS.json --no-answer-threshold 0.5
    python metrics.py race RACE/test ANSWERS.json           # {"high3132.txt": ["A", "C", ...]}
    python metrics.py race test.jsonl ANSWERS.json          # rows, too: .jsonl, .parquet, or a folder of such, of either

The figures go to stdout as JSON, warnings to stderr. Choices made here:

- The SQuAD figures are those of the official scripts evaluate-v1.1.py (Rajpurkar et al. 2016, arXiv 1606.05250) and
  evaluate-v2.0.py (Rajpurkar et al. 2018, arXiv 1806.03822), to the last digit and with their oddities, save one:
  a question without a prediction counts as wrong, always. (The 2.0 script leaves it out of the mean, or stops.)
- Every question counts; nothing is filtered. What is missing or unknown is counted and reported.
- No import but the standard library (and pyarrow for .parquet): predictions can be scored where no torch is installed.
"""

import json
import math
import re
import string
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from files.command_line import CommandLine, spellings
from files.mistakes import UserError, run_main
from files.question_tables import CHOICE_COLUMNS, LETTERS, QUESTIONS, choice_of, question_of, race_id
from files.reading import read_json, texts_in
from files.records import entry, want
from files.tables import rows, tables_at

# -- One question ------------------------------------------------------------------------------------------------------

WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: “curly quotes” and dashes stay
ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text):
    """The form in which answers are compared: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def exact_score(prediction: str, gold_answers: list[str]) -> float:
    """1.0 if the text equals one of the gold texts once both are normalised, else 0.0. No gold text: the empty one."""
    return float(normalise(prediction) in {normalise(gold) for gold in gold_answers or [""]})


def f1_score(prediction: str, gold_answers: list[str]) -> float:
    """F1 over the multisets of normalised words, in [0, 1]; the best over the gold texts. No gold text: the empty one.

    Where either side has no words, the F1 is 1.0 if both have none, else 0.0.
    """
    return max(_f1(normalise(prediction).split(), normalise(gold).split()) for gold in gold_answers or [""])


def _f1(words, gold):
    if not words or not gold:
        return float(words == gold)
    shared = sum((Counter(words) & Counter(gold)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(words), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def accuracy(predicted, gold):
    """Percentage of places where two equally long, non-empty sequences agree. Raises ValueError for others."""
    if not len(gold) or len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} predictions for {len(gold)} gold labels")
    return 100.0 * sum(bool(one == other) for one, other in zip(predicted, gold, strict=True)) / len(gold)


# -- SQuAD -------------------------------------------------------------------------------------------------------------


def squad_scores(
    data: Any, predictions: dict[str, str], null_odds: dict[str, float] | None = None, no_answer_threshold: float = 1.0,
    where: str | Path = "SQuAD data",
) -> dict[str, float]:  # fmt: skip
    """The official figures, in percent, for parsed SQuAD JSON and ``{id: text}`` (an empty text: no answer).

    1.1: ``exact, f1, total``. 2.0 (some question has the key is_impossible) adds ``HasAns_*`` and ``NoAns_*`` of these
    three, each where there are such questions, and with ``null_odds``, ``{id: number}``, ``best_exact,
    best_exact_thresh, best_f1, best_f1_thresh``: what the best threshold in hindsight would give. In 2.0 a question
    whose odds exceed ``no_answer_threshold`` is scored as if answered by "no answer" (no ``null_odds``: all are 0).
    Null odds may be any numbers that grow with the belief in "no answer": qa_task.py writes probabilities, others write
    a difference of scores, for which the threshold must then be chosen (0.0 instead of 1.0, say).

    A question without a prediction counts as wrong whatever the odds, even where "no answer" is right: silence earns
    nothing. ``missing`` (questions without a prediction) and ``unknown`` (predictions without a question) tell how
    many there are and are absent where none.

    Official oddities kept: in 1.1 a gold text without words (".") matches an empty prediction exactly but with F1 0;
    in 2.0 such gold texts are dropped. An id that occurs twice counts twice in 1.1, once in 2.0.

    Raises UserError where the data (called ``where`` in the message) is not laid out as SQuAD, has no questions or no
    gold answers, or a predicted question has no null odds.
    """
    questions, version2 = _gold_texts(data, where)
    odds = dict.fromkeys(predictions, 0.0) if null_odds is None else null_odds
    if null_odds is not None and not version2:
        raise UserError(f"{where}: SQuAD 1.1 has no unanswerable questions; leave the null odds out")
    without = [key for key, _ in questions if key in predictions and key not in odds]
    if without:
        raise UserError(f"null odds: none for {len(without)} predicted questions, e.g. {without[0]}; add them")

    raw = [_exact_and_f1(predictions.get(key), texts, version2) for key, texts in questions]
    scores = list(raw)
    for i, (key, texts) in enumerate(questions):
        if version2 and key in predictions and odds[key] > no_answer_threshold:
            scores[i] = (float(not texts), float(not texts))

    result = _means(scores)
    if version2:
        for name, wanted in (("HasAns", True), ("NoAns", False)):
            part = [score for score, (_, texts) in zip(scores, questions, strict=True) if bool(texts) is wanted]
            result |= {f"{name}_{figure}": value for figure, value in _means(part).items()} if part else {}
    if null_odds is not None:
        for column, name in enumerate(("exact", "f1")):
            gains = {key: (score[column], texts) for score, (key, texts) in zip(raw, questions, strict=True)}
            result[f"best_{name}"], result[f"best_{name}_thresh"] = _best_threshold(gains, predictions, odds)
    known = dict(questions).keys()
    return result | _amiss(sum(key not in predictions for key, _ in questions), len(predictions.keys() - known))


def _gold_texts(data, where):
    """``([(id, gold texts)], is it version 2)``; an unanswerable question has no gold texts."""
    questions, version2 = [], False
    try:
        for article in data["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    questions.append((str(question["id"]), [str(answer["text"]) for answer in question["answers"]]))
                    version2 = version2 or "is_impossible" in question
    except (KeyError, TypeError) as error:
        problem = f"the key {error} is missing" if isinstance(error, KeyError) else "lists of objects are expected"
        raise UserError(f"{where}: not laid out as SQuAD, {problem}; give a SQuAD JSON file") from None
    if not questions or not (version2 or all(texts for _, texts in questions)):
        raise UserError(f"{where}: a question without gold answers, or no question at all; give a SQuAD JSON file")
    return list(dict(questions).items()) if version2 else questions, version2


def read_squad(path: str | Path) -> Any:
    """The parsed JSON of a SQuAD file; of rows, what they would be in such a file, but for the texts."""
    tables = tables_at(Path(path))
    if not tables:
        return read_json(path)
    questions, version2 = [], False
    for row in (row for table in tables for row in rows(table, QUESTIONS)):
        where, question, _, _, unanswered = question_of(row, answers_needed=True)
        entry(question, "id", str | int | float, where)
        questions.append(question)
        version2 = version2 or unanswered
    for question in [] if version2 else questions:
        del question["is_impossible"]
    return {"data": [{"paragraphs": [{"qas": questions}]}]}


def _exact_and_f1(prediction, texts, version2):
    if prediction is None:
        return 0.0, 0.0
    if version2:
        texts = [text for text in texts if normalise(text)]
    elif not normalise(prediction):
        return exact_score(prediction, texts), 0.0
    return exact_score(prediction, texts), f1_score(prediction, texts)


def _means(scores):
    exact, f1 = 0.0, 0.0
    for score in scores:  # one by one as the official script of 1.1: sum() rounds otherwise from Python 3.12 on
        exact, f1 = exact + score[0], f1 + score[1]
    return {"exact": 100.0 * exact / len(scores), "f1": 100.0 * f1 / len(scores), "total": len(scores)}


def _best_threshold(gains, predictions, odds):
    """The best percentage over all thresholds, and the threshold; ``gains`` is ``{id: (score, gold texts)}``.

    The official sweep: start with "no answer" everywhere (reported as threshold 0.0), then let the predictions in by
    rising odds. It looks after each question, so among questions of equal odds their order in ``odds`` matters.
    """
    score = best = sum(not texts for key, (_, texts) in gains.items() if key in predictions)
    threshold = 0.0
    for key in sorted((key for key in odds if key in gains and key in predictions), key=odds.get):
        gain, texts = gains[key]
        score += gain if texts else -bool(predictions[key])
        if score > best:
            best, threshold = score, odds[key]
    return 100.0 * best / len(gains), threshold


def _amiss(missing, unknown):
    return {name: count for name, count in (("missing", missing), ("unknown", unknown)) if count}


# -- RACE --------------------------------------------------------------------------------------------------------------


def race_scores(gold: dict[str, list[str]], answers: Mapping[str, Sequence[str | None]]) -> dict[str, float]:
    """Accuracies in percent from ``{id: [letters]}`` twice: ``accuracy, middle_accuracy, high_accuracy, total``.

    The level is how the id begins ("high3132.txt"); a level without questions is absent. A question without an answer
    ("" or None, a list too short, an article left out) counts as wrong and into ``missing``; an answer without a
    question into ``unknown``. Both are absent where zero. Raises UserError where there are no questions.
    """
    right: dict[str, list[bool]] = {"": [], "middle": [], "high": []}
    missing = unknown = 0
    for key, letters in gold.items():
        given = list(answers.get(key, ()))
        unknown += max(0, len(given) - len(letters))
        given += [None] * (len(letters) - len(given))
        for letter, correct in zip(given, letters, strict=False):
            missing += not letter
            for level, hits in right.items():
                if key.startswith(level):
                    hits.append(letter == correct)
    unknown += sum(len(given) for key, given in answers.items() if key not in gold)
    if not right[""]:
        raise UserError("RACE: no questions to score; give a folder laid out like RACE/test")
    result = {f"{level}_accuracy".lstrip("_"): 100.0 * sum(hits) / len(hits) for level, hits in right.items() if hits}
    return result | {"total": len(right[""])} | _amiss(missing, unknown)


def read_race_answers(folder: str | Path) -> dict[str, list[str]]:
    """``{id: [letters]}`` of a folder laid out like RACE: any depth, one JSON object in each N.txt; or of rows.

    Raises UserError where the folder or its files are not so, or where two files have the same id.
    """
    folder, gold = Path(folder), {}
    if (tables := tables_at(folder)) and not (folder.is_dir() and texts_in(folder)):
        return _answers_of_rows(tables)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one laid out like RACE/test, extracted from RACE.tar.gz")
    for path in texts_in(folder):
        article = read_json(path)
        letters: Any = article.get("answers") if isinstance(article, dict) else None
        if not _are_letters(letters) or "" in letters:
            raise UserError(f"{path}: not an article of RACE (its key answers: a list of letters); remove the file")
        key = race_id(article, path)
        if key in gold:
            raise UserError(f"{path}: the id {key} occurs twice below {folder}; give one split, e.g. RACE/test")
        gold[key] = letters
    if not gold:
        raise UserError(f"{folder}: no .txt files; give a folder laid out like RACE/test")
    return gold


def _answers_of_rows(tables):
    """The letters of each id, which may be of an article, in the order of its rows, as race_task.py --predict has them."""
    gold: dict[str, list[str]] = {}
    for row in (row for table in tables for row in rows(table, CHOICE_COLUMNS)):
        choice = choice_of(row, answers_needed=True)
        want(isinstance(choice.options, list), choice.where, "options not texts")
        known = [*LETTERS[: len(choice.options)]]
        want(choice.answer in known, choice.where, f"answer {choice.answer!r}; it must be {' or '.join(known)}")
        gold.setdefault(choice.id, []).append(choice.answer)
    return gold


def _are_letters(value):
    return isinstance(value, list) and all(isinstance(item, str) and re.fullmatch("[A-Z]?", item) for item in value)


# -- The command -------------------------------------------------------------------------------------------------------


def _read_dictionary(path, valid, kind):
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object {{id: {kind}}} was expected, not a {type(value).__name__}")
    for key, item in value.items():
        if not valid(item):
            raise UserError(f"{path}: {key!r} has {json.dumps(item)[:40]}, expected {kind}; mend that entry")
    return value


def _is_number(value):
    if type(value) is int:  # JSON's may be larger than any float
        return abs(value) <= sys.float_info.max
    return isinstance(value, float) and not math.isnan(value)


def main(arguments=None):
    parser = CommandLine(description="Score a file of predictions; the figures go to stdout as JSON.")
    data_sets = parser.add_subparsers(dest="data_set", required=True)
    squad = data_sets.add_parser("squad", help="exact match and F1")
    squad.add_argument("data", metavar="DATA.json", help="SQuAD 1.1 or 2.0, or rows of .jsonl or .parquet")
    squad.add_argument("predictions", metavar="PREDICTIONS.json", help="{id: text}")
    squad.add_argument(*spellings("null-odds"), metavar="FILE", help="{id: number}, higher: rather no answer (2.0 only)")
    squad.add_argument(*spellings("no-answer-threshold"), type=float, metavar="X",
                       help="no answer where the odds exceed X (1.0)")  # fmt: skip
    race = data_sets.add_parser("race", help="accuracy by level")
    race.add_argument("data", metavar="FOLDER", help="laid out like RACE/test, or rows of .jsonl or .parquet")
    race.add_argument("predictions", metavar="ANSWERS.json", help='{id: ["A", "C", ...]}')
    args = parser.parse_args(arguments)

    if args.data_set == "race":
        answers = _read_dictionary(args.predictions, _are_letters, "a list of letters")
        scores = race_scores(read_race_answers(args.data), answers)
    else:
        if args.no_answer_threshold is not None and args.null_odds is None:
            parser.error("--no-answer-threshold needs --null-odds")
        threshold = 1.0 if args.no_answer_threshold is None else args.no_answer_threshold
        odds = None if args.null_odds is None else _read_dictionary(args.null_odds, _is_number, "a number")
        predictions = _read_dictionary(args.predictions, lambda item: isinstance(item, str), "a text")
        scores = squad_scores(read_squad(args.data), predictions, odds, threshold, where=args.data)
    for name, fate in (("missing", "questions without a prediction: wrong"), ("unknown", "predictions ignored")):
        if name in scores:
            print(f"warning: {scores[name]} {fate} ({args.predictions} against {args.data})", file=sys.stderr)
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    run_main(main)
