"""The passages of question sets as running text: to pretrain on what will be asked about (Gururangan et al. 2020)."""

import functools
import re
from pathlib import Path

from files.mistakes import warn
from files.writing import atomic_write
from text import cache
from text.places import Places, kinds_of
from text.questions import load_race_splits, load_squad_splits
from text.splits import SPLITS

ALIKE = 8  # words in a row that make two passages, at least in part, the same
# Words, and of scripts that put no blanks between them each character.
RUNS = r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+"


@functools.cache
def passage_files(name: str, places: Places, beside: tuple[str, ...] = ()) -> Path:
    """The folder of train.txt, valid.txt and test.txt with a question set's passages, a document a line; written once.

    A document is an article, all of its passages. A training passage of which ALIKE words in a row stand in one that
    another split has, of this set or of those that are read ``beside`` it, is left out, so that nothing is read ahead of
    its questions.
    """
    documents = passages_of(name, places)
    scored = [passages_of(other, places) for other in beside if other != name and "text" not in kinds_of(other, places)]
    scored = [{split: found[split] for split in ("valid", "test")} for found in scored]
    title, key = cache.short(Path(name).absolute().name), cache.digest("passages", RUNS, documents, scored)
    folder = places.cache / f"{title}-passages-{key}"
    with cache.build_once(folder) as temporary:
        if temporary is not None:
            others = set().union(*(runs(text) for found in (documents, *scored) for split in ("valid", "test")
                                   for texts in found[split] for text in texts))  # fmt: skip
            train = [[text for text in texts if runs(text).isdisjoint(others)] for texts in documents["train"]]
            for split, part in {**documents, "train": train}.items():
                with atomic_write(temporary / f"{split}.txt") as stream:
                    stream.write("".join(f"{' '.join(texts)}\n" for texts in part if texts).encode("utf-8", "replace"))
            count, left = (sum(map(len, part)) for part in (documents["train"], train))
            print(f"{name}: {count - left:,} of {count:,} training passages share {ALIKE} words in a row with valid or "
                  "test, and are not pretrained on", flush=True)  # fmt: skip
    return folder


@functools.cache
def passages_of(name: str, places: Places) -> dict[str, list[list[str]]]:
    """split -> the texts of each article of a set of questions, each on one line."""
    return squad_passages(name, places) if "questions" in kinds_of(name, places) else race_passages(name, places)


def squad_passages(name, places):
    found = {}
    for split, squad in load_squad_splits(name, places, skip=warn, scored=False).items():
        articles = {}
        for context, title in {question.context: question.title for question in squad.questions}.items():
            articles.setdefault(title or context, []).append(" ".join(squad.contexts[context].split()))
        found[split] = list(articles.values())
    return found


def race_passages(name, places):
    sets = load_race_splits(name, places, skip=warn, scored=False)
    return {split: [[" ".join(article.text.split())] for article in sets[split]] for split in SPLITS}


def runs(text: str) -> set[tuple[str, ...]]:
    """All runs of ALIKE words; of a shorter text the whole."""
    return runs_of(words_of(text))


def words_of(text: str) -> list[str]:
    """The words in small letters, as they are compared."""
    return re.findall(RUNS, text.lower())


def runs_of(words: list[str]) -> set[tuple[str, ...]]:
    """`runs` of a text whose words these are."""
    return {tuple(words[at : at + ALIKE]) for at in range(max(1, len(words) - ALIKE + 1))}
