"""Questions: from the files of SQuAD and RACE, of a folder laid out like them, or of tables, to checked examples.

    load_squad("dev-v2.0.json").questions[0]      # a Question on .contexts[question.context]
    load_race("RACE/dev/high")[0]                 # an Article with its questions, options and answers


Nothing is left out: every question of a file becomes an example, and a file that is not as it should be is a UserError
that names the file, the place in it and the remedy. Of a training set alone bad records may be left out, where ``skip``
is given: it is called with one line that says how many. Of a file to predict on no answer is looked at, right or wrong.
``load_squad_splits`` and ``load_race_splits`` give train, valid and
test of a data set by its name or path; their ``places`` (text/places.py) know where its files lie.
"""

import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from files.mistakes import UserError, warn
from files.question_tables import CHOICE_COLUMNS, LETTERS, QUESTIONS, choice_of, question_of, race_id
from files.reading import files_in, read_json, texts_in
from files.records import Records, Skip, entry, want
from files.tables import OTHER_ROWS, check_kind, rows, tables_at
from text.places import RACE_SETS, SPLITS, SQUAD_SETS, Places
from text.splits import folders_by_name, hashed, of_split, set_apart, split_files, table_files, warn_of_twins

SET_ASIDE = {"valid": 1 / 25, "test": 1 / 10}  # of the questions, where a set has no such split

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
    """Questions and the texts in which their answers stand."""
    contexts: list[str]
    questions: list[Question]
    with_impossible: bool  # laid out as version 2.0, where a question may have no answer


Source = str | Path | list[Path]  # a file or a folder, or the files of a split's rows


def load_squad(
    source: Source, answers_needed: bool = True, training: bool = False, skip: Skip = None
) -> SquadSet:
    """The questions of a SQuAD 1.1 or 2.0 file, or of tables, every one; ``answers_needed=False`` for files to predict on.

    Raises UserError that names the file and the article, paragraph, row or question where something is missing or does
    not fit, such as an ``answer_start`` at which the answer does not stand, or, but in ``training``, an id that another
    question has. ``skip`` is for training, too.
    """
    found, records, tables = SquadSet([], [], False), Records(skip, training), tables_of(source)
    path = tables[0] if tables else place_of(source)
    if tables:
        read_question_tables(tables, found, answers_needed, records)
    else:
        read_articles(path, found, answers_needed, records)
    records.tell()
    want(found.questions, path, "holds no question", "name another file")
    return found


def tables_of(source):
    return source if isinstance(source, list) else tables_at(Path(source))


def read_question_tables(tables, found, answers_needed, records):
    """Add the questions of rows to a SquadSet; those of one title with the same context share it."""
    numbers = {}
    for path in tables:
        for row in rows(path, QUESTIONS):
            with records.one("question"):
                where, record, context, title, unanswered = question_of(row, answers_needed)
                question = read_question(record, context, where, answers_needed)
                question.id, question.title = records.own_id(question.id, str(path), row.number, where), title
                question.context = numbers.setdefault((title, context), len(found.contexts))
                if question.context == len(found.contexts):
                    found.contexts.append(context)
                found.questions.append(question)
                found.with_impossible |= unanswered


def read_articles(path, found, answers_needed, records):
    content = read_json(path)
    want(not isinstance(content, list), path, "a list, not SQuAD's layout", "write it as .jsonl, an object a line")
    for a, article in enumerate(entry(content, "data", list, path)):
        where = f"{path}: article {a + 1}"
        named = article.get("title") if isinstance(article, dict) else None
        title = named or f"article {a + 1}"  # by which articles are told apart
        with records.one("article"):
            for p, paragraph in enumerate(entry(article, "paragraphs", list, where)):
                with records.one("paragraph"):
                    place = f"{where} ({named or ''}), paragraph {p + 1}"
                    read_paragraph(paragraph, place, str(title), found, answers_needed, records)


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
    name: str, places: Places, splits: tuple[str, ...] = SPLITS, skip: Skip = None, scored: bool = True
) -> dict[str, SquadSet]:
    """The wanted splits: the development file is the test set, and some training articles are set aside to validate.

    Whole articles with about one in 25 of the questions, chosen by their titles: no paragraph is both trained on and
    validated with. Where there are no such articles, paragraphs. A folder of the user's may have both a validation and
    a test file, or neither; a line then tells how many are ``scored``.
    """
    if name == "Sample":
        return {split: load_squad(places.sample() / f"squad-{split}.json") for split in splits}
    missing, found = ["valid"], {}
    if name not in SQUAD_SETS:
        files = split_files(places.own(name, "questions"))
        missing = [split for split in ("valid", "test") if not files[split]]
    for split in splits:
        if split not in ("train", *missing):
            with of_split(split):
                found[split] = load_squad(squad_source(name, split, places))
    if set(splits) != set(found):
        with of_split("train"):
            source = squad_source(name, "train", places)
            whole = load_squad(source, training=True, skip=skip)
            divided = set_aside(whole, source, missing)
        found |= divided
        if "test" in missing and scored:
            tell_of_part(name, {split: len(part.questions) for split, part in divided.items()}, splits == ("test",))
    found = {split: found[split] for split in splits}
    titles = {split: {q.context: q.title for q in squad.questions} for split, squad in found.items()}
    warn_of_twins(((split, found[split].contexts[context], title) for split in found
                   for context, title in titles[split].items()), "the same passage")  # fmt: skip
    return found


def tell_of_part(name, counts, scored_alone):
    """Who scores a set of which nothing is called test, or trains on it, should know how much of it that is."""
    scored, whole = counts["test"], sum(counts.values())
    more = ("which training sets aside; to score all, put them into a folder as test, or use --predict and metrics.py"
            if scored_alone else f"{counts['valid']:,} choose the model" if "valid" in counts else "the others train")
    warn(f"{name}: nothing there is called test; {scored:,} of {whole:,} questions are scored, {more}", word="note")


def squad_source(name: str, split: str, places: Places) -> Source:
    """Where a split lies: its file, or those of its rows. Raises UserError where that is not to be had."""
    if name in SQUAD_SETS:
        file = f"{'train' if split == 'train' else 'dev'}-{SQUAD_SETS[name]}.json"
        return places.find(f"squad/{file}", file)
    folder = places.own(name, "questions")
    found = split_files(folder)[split]
    if found and tables_at(found[0]):
        return found
    if folder.is_file():
        raise UserError(f"{folder}: one file; of SQuAD's layout name the folder in which it is train.json, or rows of "
                        ".jsonl or .parquet")  # fmt: skip
    names = {"train": "train*.json", "valid": "valid*.json or dev*.json", "test": "test*.json or dev*.json"}[split]
    for path in files_in(folder, OTHER_ROWS) if not found else ():
        check_kind(path)
    want(len(found) == 1, folder, f"{len(found)} files {names}; exactly one is needed", "name a folder that has it")
    return found[0]


def set_aside(squad, source, parts=("valid",)):
    """Training questions, and those set aside of them for other splits."""
    found, path, group = {}, place_of(source), of_one_text(squad)
    for part, share in ((part, SET_ASIDE[part]) for part in ("test", "valid") if part in parts):
        wanted = share * len(squad.questions)
        titles = [group[question.title] for question in squad.questions]  # of each question
        contexts = [squad.contexts[question.context] for question in squad.questions]
        of, chosen = titles, set_apart(in_order(Counter(titles), str), wanted, len(squad.questions) / 5)
        if not chosen:  # few articles: paragraphs
            want(len(set(contexts)) > 1, path, f"one paragraph, and some must be set aside for the {part} split",
                 "add another")  # fmt: skip
            of, chosen = contexts, some_of(in_order(Counter(contexts), str), wanted)
        aside = set(chosen)
        found[part] = with_questions(squad, [q for q, name in zip(squad.questions, of, strict=True) if name in aside])
        squad = with_questions(squad, [q for q, name in zip(squad.questions, of, strict=True) if name not in aside])
    return {"train": squad, **found}


def of_one_text(squad):
    """title -> one for all articles that have a passage in common, as where each question is an article of its own."""
    group = {question.title: question.title for question in squad.questions}
    first: dict[str, str] = {}  # passage -> the first title that has it

    def top(title):
        while group[title] != title:
            title = group[title]
        return title

    for question in squad.questions:
        group[top(question.title)] = top(first.setdefault(squad.contexts[question.context], question.title))
    return {title: top(title) for title in group}


def place_of(source):
    """What a mistake in a split is told of."""
    return source[0] if isinstance(source, list) else source


def some_of(ordered, wanted):
    """As `set_apart`, but never none: the smallest, where there is nothing better."""
    return set_apart(ordered, wanted, sum(size for _, size in ordered) / 2) or [min(ordered, key=itemgetter(1))[0]]


def in_order(sizes, text_of):
    """(thing, size) in the order of the hashes of their texts, or of things of the same text, as they came."""
    return sorted(sizes.items(), key=lambda pair: hashed(text_of(pair[0])))


def with_questions(squad, questions):
    """A set of some of the questions and of the contexts that they need."""
    used = sorted({question.context for question in questions})
    number = {context: i for i, context in enumerate(used)}
    moved = [replace(question, context=number[question.context]) for question in questions]
    return SquadSet([squad.contexts[context] for context in used], moved, squad.with_impossible)


# --------------------------------------------------------------------------------------------------------------------
# On a passage, with options: RACE
# --------------------------------------------------------------------------------------------------------------------

@dataclass
class Article:
    """A passage with its questions: ``options[q]`` are two or more texts, ``answers[q]`` the right one's number or None."""

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
    source: Source, level: str = "all", answers_needed: bool = True, skip: Skip = None, training: bool = False
) -> list[Article]:
    """The articles of a folder laid out like RACE, ``folder/**/N.txt``, one JSON object a file, in the order of names; or
    those of tables, in the order of their first questions, of which in ``training`` two may have one id."""
    return list(read_race(source, level, answers_needed, skip, training).values())


def read_race(source, level, answers_needed, skip, training):
    """path, or of tables what tells articles apart -> Article."""
    articles, records = {}, Records(skip, training)
    paths = [] if isinstance(source, list) else [path for path in texts_in(Path(source)) if of_level(path, None, level)]
    tables = [] if paths else tables_of(source)
    if tables:
        read_choice_tables(tables, level, answers_needed, records, articles)
        records.tell()
        return articles
    want(paths, source, "no .txt file of RACE's kind" + ("" if level == "all" else f" of level {level}"),
         "name a folder laid out like RACE, e.g. RACE/dev, or one of .jsonl or .parquet")  # fmt: skip
    first: dict[str, Path] = {}
    for path in paths:
        with records.one("article"):
            article = read_article(path, answers_needed, records)
            other = first.setdefault(article.id, path)
            want(other is path, path, f"has the id {article.id} of {other}", "give each article its own")
            articles[path] = article
    records.tell()
    return articles


def of_level(key: Hashable, article: Article | None, level: str) -> bool:
    """Is an article of this level? RACE's files tell by their names."""
    if isinstance(key, Path):
        return level in ("all", key.parent.name, level_of(key.name))
    return article is not None and level in ("all", article.level)


def read_choice_tables(tables, level, answers_needed, records, articles):
    """Add the articles of rows, each put together of the questions that are asked on it."""
    first: dict[str, tuple[Hashable, str]] = {}
    beyond, has_zero = "", False
    for path in tables:
        for row in rows(path, CHOICE_COLUMNS):
            with records.one("question"):
                choice = choice_of(row, answers_needed)
                count = len(choice.options) if isinstance(choice.options, list) else -1
                beyond = beyond or (choice.where if choice.answer == count else "")
                has_zero |= choice.answer == LETTERS[0]
                answer = read_choice(choice.question, choice.options, choice.answer, choice.where, answers_needed)
                article = articles.get(choice.key) or Article(choice.id, choice.article, [], [], [])
                if not of_level(choice.key, article, level):
                    continue
                key, where = first.setdefault(article.id, (choice.key, choice.where))
                if key != choice.key or article.text != choice.article:
                    what = f"has the id {article.id} of {where}, and another article"
                    want(records.training and key != choice.key, choice.where, what, "give each article its own")
                    records.twice.append(f"{choice.where}: {what}")
                    article.id = f"{article.id} ({hashed(choice.article)[:12]})"  # the same wherever the file lies
                articles[choice.key] = article
                article.questions.append(choice.question)
                article.options.append(choice.options)
                article.answers.append(answer)
    if beyond and not has_zero:
        raise UserError(f"{beyond}: the answer is the number of options, and none is 0: they seem to count from 1; let "
                        "them count from 0, or write letters")  # fmt: skip


def read_article(path, answers_needed, records):
    record = read_json(path)
    text = entry(record, "article", str, path)
    questions, options = entry(record, "questions", list, path), entry(record, "options", list, path)
    answers = entry(record, "answers", list, path) if answers_needed else [None] * len(questions)
    want(len(questions) == len(options) == len(answers), path,
         f"{len(questions)} questions, {len(options)} lists of options and {len(answers)} answers")  # fmt: skip
    article = Article(race_id(record, path), text, [], [], [])
    for number, (question, choice, answer) in enumerate(zip(questions, options, answers, strict=True), 1):
        with records.one("question"):
            right = read_choice(question, choice, answer, f"{path}: question {number}", answers_needed)
            article.questions.append(question)
            article.options.append(choice)
            article.answers.append(right)
    return article


def read_choice(question, options, answer, where, answers_needed):
    """The number of a question's right option; None where answers are not needed."""
    want(isinstance(question, str), where, "not a text")
    texts = isinstance(options, list) and all(isinstance(option, str) for option in options)
    want(texts, where, "options not texts")
    want(2 <= len(options) <= len(LETTERS), where, f"{len(options)} options; it must have 2 to {len(LETTERS)}")
    *others, last = LETTERS[: len(options)]
    known = answer in (*others, last) or not answers_needed
    want(known, where, f"answer {answer!r}; it must be {', '.join(others)} or {last}")
    return LETTERS.index(answer) if answers_needed else None


def load_race_splits(
    name: str, places: Places, level: str = "all", splits: tuple[str, ...] = SPLITS, skip: Skip = None, scored: bool = True
) -> dict[str, list[Article]]:
    """The wanted splits of RACE, of the embedded set, or of any folder laid out like RACE; valid is RACE's dev.

    Where a folder of the user's has no valid or no test, articles are set aside from train.
    """
    if name == "Sample":
        root = places.sample() / "RACE"
    else:
        root = places.find("RACE", "RACE") if name == "RACE" else places.own(name, "choices")
    sources, found = race_sources(root), {}
    missing = [split for split in ("valid", "test") if name not in RACE_SETS and not sources[split]]
    for split in splits:
        if split not in (["train", *missing] if missing else ()):
            with of_split(split):
                may_skip = skip if split == "train" else None
                found[split] = load_race(race_source(root, split, sources[split]), level, True, may_skip, split == "train")
    if set(splits) != set(found):
        with of_split("train"):
            divided = race_set_aside(race_source(root, "train", sources["train"]), level, missing, skip)
        found |= divided
        if "test" in missing and scored:
            counts = {split: sum(len(article.questions) for article in part) for split, part in divided.items()}
            tell_of_part(name, counts, splits == ("test",))
    for split in splits:
        want(any(article.questions for article in found[split]), root, f"no question in the {split} split", "add some")
    found = {split: found[split] for split in splits}
    if name != "Sample":
        warn_of_twins(((split, article.text, article.id) for split, articles in found.items() for article in articles
                       if article.text), "the same text")  # fmt: skip
    return found


def race_sources(root):
    """split -> its folders of RACE's kind; where there is no article in any, its files of rows."""
    folders = folders_by_name(root)
    of_race = any(path.suffix.lower() == ".txt" for found in folders.values() for folder in found
                  for path in folder.rglob("*"))  # fmt: skip
    return folders if of_race or not tables_at(root) else table_files(root)


def race_source(root, split, found):
    expected = root / {"valid": "dev"}.get(split, split)
    want(found, expected, "no such folder", "a RACE folder has train, dev and test")
    if found[0].is_file():
        return found
    want(len(found) == 1, found[-1], f"the second folder of the {split} split", "leave one")
    return found[0]


def race_set_aside(source, level, parts, skip):
    """The articles to train on, and those set aside of them: the same ones whichever level is asked for."""
    articles, place = read_race(source, "all", True, skip, training=True), place_of(source)
    total, found, rest = sum(len(article.questions) for article in articles.values()), {}, articles
    texts = {key: article.text or article.id for key, article in articles.items()}
    ids: dict[str, str] = {}  # of each text the first article's, for some sets repeat it for every question
    for key, text in texts.items():
        ids.setdefault(text, articles[key].id)
    for part in (part for part in ("test", "valid") if part in parts):
        sizes: Counter = Counter()
        for key, article in rest.items():
            sizes[texts[key]] += len(article.questions)
        want(len(sizes) > 1, place, f"one article, and some must be set aside for the {part} split", "add another")
        chosen = set(some_of(in_order(sizes, ids.__getitem__), SET_ASIDE[part] * total))
        found[part] = {key for key in rest if texts[key] in chosen}
        rest = {key: article for key, article in rest.items() if key not in found[part]}
    wanted = [key for key, article in articles.items() if of_level(key, article, level)]
    return {part: [articles[key] for key in wanted if key in keys] for part, keys in {"train": rest, **found}.items()}


PARTS = ("; ", ";", "；", "/", "...", "…", ",")  # between the parts of an option, the surest first; RACE has ";"


# Thai, Lao, Burmese, Khmer, kana and ideographs, which put no blanks between words: each character is one of its own.
ALONE = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"


def blanks(question: str) -> list[tuple[int, int]]:
    """The places that an option is to fill: each run of underscores that stands for itself, or at the end of a word.

    Not those of a name such as my_var or __init__. RACE has no names, but one in 500 of its blanks has lost the spaces
    ("Active children_than others."), and a few slips are no blanks ("is told in the_passage?"): so where no other is, a
    run within a word is a blank, unless the question ends with a question mark.
    """
    words = [word for word in re.finditer(rf"[^\W{ALONE}]+", question) if re.fullmatch(r"[^\W_]*_+", word[0])]
    if words or re.search(r"\?\W*$", question):
        return [(word.end() - len(word[0]) + len(word[0].rstrip("_")), word.end()) for word in words]
    return [run.span() for run in re.finditer("_+", question)]


def parts_of(option, count):
    """What each of so many blanks is filled with: a part of the option where it has as many, else all of it."""
    for mark in PARTS if count > 1 else ():
        parts = [part for part in option.split(mark) if part.strip()]
        if len(parts) == count:
            return parts
    return [option] * count


def fill(question: str, option: str) -> str:
    """The statement that an option makes: it takes the place of the blanks, or follows the question."""
    return fill_in(question, option)[0]


def fill_in(question: str, option: str) -> tuple[str, list[tuple[int, int]]]:
    """The statement, and where in it the option stands: from which character, and up to which, not including."""
    places = blanks(question)
    if not places:
        return f"{question} {option}", [(len(question) + 1, len(question) + 1 + len(option))]
    edges = [0, *(edge for place in places for edge in place), len(question)]
    around = [question[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    statement, found = around[0], []
    for part, after in zip(parts_of(option, len(places)), around[1:], strict=True):
        statement = join(statement, part)
        found.append((len(statement) - len(join(part)), len(statement)))
        statement = join(statement, after)
    return statement, found


def join(*texts):
    """With one space between all words."""
    return " ".join(" ".join(texts).split())
