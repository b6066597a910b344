"""Questions: from the files of SQuAD and RACE, or of a folder laid out like them, to checked examples.

    load_squad("dev-v2.0.json").questions[0]      # a Question on .contexts[question.context]
    load_race("RACE/dev/high")[0]                 # an Article with its questions, options and answers


Nothing is left out: every question of a file becomes an example, and a file that is not as it should be is a UserError
that names the file, the place in it and the remedy. Of a training set alone bad records may be left out, where ``skip``
is given: it is called with one line that says how many. Of a file to predict on no answer is looked at, right or wrong.
``load_squad_splits`` and ``load_race_splits`` give train, valid and
test of a data set by its name or path; their ``places`` (see data.py) know where its files lie.
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from files.mistakes import UserError
from files.reading import parse_json, read_json, read_text
from metrics import LETTERS, race_id
from text.places import SPLITS, SQUAD_SETS, Places

Skip = Callable[[str], None] | None


def want(condition, where, what, remedy="mend the file or leave the entry out"):
    if not condition:
        raise UserError(f"{where}: {what}; {remedy}")


def entry(record, name, kind, where):
    """``record[name]``, which must be there and of the given type."""
    want(isinstance(record, dict), where, "not a JSON object")
    want(name in record, where, f"no {name!r}")
    kinds = {list: "a list", str: "a text", int: "a whole number", str | int | float: "a text or a number"}
    want(isinstance(record[name], kind), where, f"{name!r} is not {kinds[kind]}")
    return record[name]


class Records:
    """Counts the records of a file or folder, good and bad; a bad one is left out, or refused where ``skip`` is None."""

    def __init__(self, skip, training=False):
        self.skip, self.training = skip, training
        self.good, self.bad, self.first = Counter(), Counter(), None
        self.ids, self.twice = {}, []  # of questions: where each stood first; those that were there before

    @contextlib.contextmanager
    def one(self, kind):
        """Within it one record is read, an "article", a "question"."""
        try:
            yield
        except UserError as error:
            if self.skip is None:
                raise
            self.bad[kind] += 1
            self.first = self.first or error
        else:
            self.good[kind] += 1

    def own_id(self, id, place, number, where):
        """The id of a question, or in training another where a question before has it: nothing there goes by ids.

        SQuAD 1.1 made from its texts has such: the same question on several paragraphs.
        """
        first = self.ids.setdefault(id, (place, number))
        if first == (place, number):
            return id
        what = f"has the id of question {first[1]} in {first[0]}"
        want(self.training, where, what, "answers go by id: give each question its own")
        self.twice.append(f"{where}: {what}")
        return f"{where} ({number})"

    def tell(self):
        """A line on what was left out, if anything, and one on ids that stand twice.

        Raises UserError where most was left out: that is no set to train on.
        """
        parts = []
        for kind, bad in self.bad.items():
            part = f"{bad:,} of {bad + self.good[kind]:,} {kind}s"
            if bad > self.good[kind]:
                raise UserError(f"{self.first} ({part} are bad, too many to leave out)")
            parts.append(part)
        if parts:
            self.skip(f"warning: {' and '.join(parts)} left out as bad, the first: {self.first} (--strict refuses them)")
        if self.twice and self.skip:
            self.skip(f"warning: {len(self.twice):,} ids stand twice, the first: {self.twice[0]}; training keeps all")


# --------------------------------------------------------------------------------------------------------------------
# On a passage, answered by a part of it: SQuAD
# --------------------------------------------------------------------------------------------------------------------

@dataclass
class Question:
    """A question on ``contexts[context]``; ``answers`` are (text, first character), none where there is no answer."""

    id: str
    text: str
    context: int
    title: str
    answers: list[tuple[str, int]]


@dataclass
class SquadSet:
    contexts: list[str]
    questions: list[Question]
    with_impossible: bool  # laid out as version 2.0, where a question may have no answer


def load_squad(
    path: str | Path, answers_needed: bool = True, training: bool = False, skip: Skip = None
) -> SquadSet:
    """The questions of a SQuAD 1.1 or 2.0 file, every one; ``answers_needed=False`` for files to predict on.

    Raises UserError that names the file and the article, paragraph or question where something is missing or does not
    fit, such as an ``answer_start`` at which the answer does not stand, or, but in ``training``, an id that another
    question has. ``skip`` is for training, too.
    """
    found, records = SquadSet([], [], False), Records(skip, training)
    for a, article in enumerate(entry(read_json(path), "data", list, path)):
        where = f"{path}: article {a + 1}"
        title = article.get("title", "") if isinstance(article, dict) else ""
        with records.one("article"):
            for p, paragraph in enumerate(entry(article, "paragraphs", list, where)):
                with records.one("paragraph"):
                    place = f"{where} ({title}), paragraph {p + 1}"
                    read_paragraph(paragraph, place, str(title), found, answers_needed, records)
    records.tell()
    want(found.questions, path, "holds no question", "name another file")
    return found


def read_paragraph(paragraph, place, title, found, answers_needed, records):
    """Add a context and its questions to a SquadSet."""
    found.contexts.append(entry(paragraph, "context", str, place))
    for q, record in enumerate(entry(paragraph, "qas", list, place)):
        spot = f"{place}, question {record.get('id', q + 1) if isinstance(record, dict) else q + 1}"
        with records.one("question"):
            question = read_question(record, found.contexts[-1], spot, answers_needed)
            question.id = records.own_id(question.id, place, q + 1, spot)
            found.with_impossible |= "is_impossible" in record
            question.context, question.title = len(found.contexts) - 1, title
            found.questions.append(question)


def read_question(record, context, where, answers_needed):
    answers, id = [], str(entry(record, "id", str | int | float, where))
    text = entry(record, "question", str, where)
    if not answers_needed:
        return Question(id, text, 0, "", [])
    for answer in entry(record, "answers", list, where):
        wording, start = entry(answer, "text", str, where), entry(answer, "answer_start", int, where)
        want(wording, where, "an answer without text")
        right = start >= 0 and context[start : start + len(wording)] == wording
        want(right, where, f"answer {wording!r} does not stand at answer_start {start}")
        answers.append((wording, start))
    impossible = record.get("is_impossible", False)
    want(bool(answers) != bool(impossible), where,
         "marked impossible, yet it has answers" if impossible else "no answer, and not marked is_impossible")  # fmt: skip
    return Question(id, text, 0, "", answers)


def load_squad_splits(
    name: str, places: Places, splits: tuple[str, ...] = SPLITS, skip: Skip = None
) -> dict[str, SquadSet]:
    """The wanted splits: the development file is the test set, and some training articles are set aside to validate.

    Whole articles, about one in 25, chosen by their titles: no paragraph is both trained on and validated with.
    """
    if name == "Sample":
        return {split: load_squad(places.sample() / f"squad-{split}.json") for split in splits}
    found = {"test": load_squad(squad_path(name, "dev", places))} if "test" in splits else {}
    if set(splits) != set(found):
        path = squad_path(name, "train", places)
        found |= set_aside(load_squad(path, training=True, skip=skip), path)
    return {split: found[split] for split in splits}


def squad_path(name: str, part: str, places: Places) -> Path:
    """The training ("train") or development ("dev") file. Raises UserError where it is not to be had."""
    if name not in SQUAD_SETS:
        return only_json(places.own(name, "questions"), part)
    file = f"{part}-{SQUAD_SETS[name]}.json"
    return places.find(f"squad/{file}", file)


def set_aside(squad, path):
    """Training questions as a training and a validation set."""
    titles = sorted({q.title for q in squad.questions}, key=lambda title: hashlib.sha256(title.encode()).hexdigest())
    held_out = set(titles[: max(1, len(titles) // 25)])
    valid = [q.title in held_out for q in squad.questions]
    if len(titles) == 1:  # one article: every 25th paragraph, at least one
        used = sorted({q.context for q in squad.questions})
        want(len(used) > 1, path, "one paragraph, and some must be set aside to validate", "add another")
        held_out = set(used[min(24, len(used) - 1) :: 25])
        valid = [q.context in held_out for q in squad.questions]
    return {
        "train": with_questions(squad, [q for q, out in zip(squad.questions, valid, strict=True) if not out]),
        "valid": with_questions(squad, [q for q, out in zip(squad.questions, valid, strict=True) if out]),
    }


def with_questions(squad, questions):
    """A set of some of the questions and of the contexts that they need."""
    used = sorted({question.context for question in questions})
    number = {context: i for i, context in enumerate(used)}
    moved = [replace(question, context=number[question.context]) for question in questions]
    return SquadSet([squad.contexts[context] for context in used], moved, squad.with_impossible)


def only_json(folder, part):
    found = sorted(folder.glob(f"{part}*.json"))
    want(len(found) == 1, folder, f"{len(found)} files {part}*.json; exactly one is needed", "name a folder that has it")
    return found[0]


# --------------------------------------------------------------------------------------------------------------------
# On a passage, with four options: RACE
# --------------------------------------------------------------------------------------------------------------------

@dataclass
class Article:
    """A passage with its questions: ``options[q]`` are four texts, ``answers[q]`` the right one's number (or None)."""

    id: str
    text: str
    questions: list[str]
    options: list[list[str]]
    answers: list[int | None]

    @property
    def level(self) -> str:
        return level_of(self.id)


def level_of(name):
    """The word that the names of RACE begin with: "high" for high3132.txt."""
    return re.match(r"[a-z]*", name).group()


def load_race(
    folder: str | Path, level: str = "all", answers_needed: bool = True, skip: Skip = None
) -> list[Article]:
    """The articles of a folder laid out like RACE: ``folder/**/N.txt``, one JSON object a file, in the order of names."""
    folder = Path(folder)
    paths = [path for path in sorted(folder.rglob("*.txt")) if not path.name.startswith(".")  # as macOS makes them
             and (level == "all" or level in (path.parent.name, level_of(path.name)))]  # fmt: skip
    want(paths, folder, "no .txt file of RACE's kind" + ("" if level == "all" else f" of level {level}"),
         "name a folder laid out like RACE, e.g. RACE/dev")  # fmt: skip
    articles, records = [], Records(skip)
    first: dict[str, Path] = {}
    for path in paths:
        with records.one("article"):
            article = read_article(path, answers_needed, records)
            other = first.setdefault(article.id, path)
            want(other is path, path, f"has the id {article.id} of {other}", "give each article its own")
            articles.append(article)
    records.tell()
    return articles


def read_article(path, answers_needed, records):
    record = parse_json(read_text(path), path)
    text = entry(record, "article", str, path)
    questions, options = entry(record, "questions", list, path), entry(record, "options", list, path)
    answers = entry(record, "answers", list, path) if answers_needed else [None] * len(questions)
    want(len(questions) == len(options) == len(answers), path,
         f"{len(questions)} questions, {len(options)} lists of options and {len(answers)} answers")  # fmt: skip
    article = Article(race_id(record, path), text, [], [], [])
    for number, (question, choice, answer) in enumerate(zip(questions, options, answers, strict=True), 1):
        where = f"{path}: question {number}"
        with records.one("question"):
            want(isinstance(question, str), where, "not a text")
            texts = isinstance(choice, list) and all(isinstance(option, str) for option in choice)
            want(texts, where, "options not texts")
            want(len(choice) == 4, where, f"{len(choice)} options; RACE has four")
            known = answer in tuple(LETTERS) or not answers_needed
            want(known, where, f"answer {answer!r}; it must be A, B, C or D")
            article.questions.append(question)
            article.options.append(choice)
            article.answers.append(LETTERS.index(answer) if answers_needed else None)
    return article


def load_race_splits(
    name: str, places: Places, level: str = "all", splits: tuple[str, ...] = SPLITS, skip: Skip = None
) -> dict[str, list[Article]]:
    """The wanted splits of RACE, of the embedded set, or of any folder laid out like RACE; valid is RACE's dev."""
    if name == "Sample":
        root = places.sample() / "RACE"
    else:
        root = places.find("RACE", "RACE") if name == "RACE" else places.own(name, "choices")
    found = {}
    for split in splits:
        folder = root / {"valid": "dev"}.get(split, split)
        want(folder.is_dir(), folder, "no such folder", "a RACE folder has train, dev and test")
        found[split] = load_race(folder, level, skip=skip if split == "train" else None)
    return found


def fill(question: str, option: str) -> str:
    """The statement that an option makes: it takes the place of the blank, or follows the question."""
    return fill_in(question, option)[0]


def fill_in(question: str, option: str) -> tuple[str, int, int]:
    """The statement, and the characters from which and up to which, not including, it is the option."""
    before, *behind = re.split("_+", question, maxsplit=1)
    if not behind:
        return f"{question} {option}", len(question) + 1, len(question) + 1 + len(option)
    before, option, after = (" ".join(text.split()) for text in (before, option, *behind))
    start = len(before) + bool(before)
    return " ".join(filter(None, (before, option, after))), start, start + len(option)
