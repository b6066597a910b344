"""The same text under two names, on both sides of a split, is told in one line with both names."""

import os

import pytest

from text import cache, splits
from text.corpus import warn_of_twin_files
from text.questions import load_race_splits, load_squad_splits
from text.tokenizer import SPECIALS, Tokenizer
from text.tokens import load_corpus

TOKENIZER = Tokenizer("basic_english", [*SPECIALS, "one", "two", "cat", ".", "book", *(f"{n:02}" for n in range(30))])


@pytest.fixture
def warned(places, capsys):
    """What loading says on stderr."""

    def warned(load, name, *arguments):
        load(name, *arguments, places)
        return capsys.readouterr().err

    return warned


def test_a_book_under_two_names_in_two_splits_is_told_with_both(write, warned):
    books = {f"{number}.txt": f"Book {number:02}.\n\n" * 30 for number in range(30)}
    name = write({**books, "a copy.txt": books["7.txt"], "b copy.txt": books["8.txt"], "c copy.txt": books["9.txt"]})
    error = warned(load_corpus, name, "train", TOKENIZER)
    assert error.count("\n") == 1 and error.startswith("warning: ") and "the same text, by size, " in error
    assert " copy.txt (" in error and "(train)" in error
    assert warned(load_corpus, name, "train", TOKENIZER) == ""  # once


def test_a_test_that_is_a_copy_of_train_is_told(write, warned):
    name = write({"train.txt": "One cat.\n\n" * 900, "test.txt": "One cat.\n\n" * 900})
    error = warned(load_corpus, name, "train", TOKENIZER)
    assert "train.txt (train) and " in error and "test.txt (test): " in error


def test_copies_that_are_divided_alike_are_not_told_and_only_files_of_one_size_are_read(write, warned, monkeypatch):
    straight, read = cache.sample_of, []
    monkeypatch.setattr(cache, "sample_of", lambda path, size: read.append(path.name) or straight(path, size))
    files = {"a.txt": "One.\n\n" * 90, "b.txt": "One.\n\n" * 90, "other.txt": "Two.\n\n" * 90, "long.txt": "Cat.\n" * 99}
    assert warned(warn_of_twin_files, [write(files)]) == ""
    assert sorted(read) == ["a.txt", "b.txt", "other.txt"]


def test_a_test_of_one_set_that_another_trains_on_is_told(write, warned):
    one = write({"train.txt": "One cat.\n\n" * 900, "test.txt": "Two cat.\n\n" * 900}, "one")
    other = write({"train.txt": "Two cat.\n\n" * 900, "test.txt": "Book 01.\n\n" * 800}, "other")
    assert warned(load_corpus, one, "train", TOKENIZER) == warned(load_corpus, other, "train", TOKENIZER) == ""
    error = warned(load_corpus, [one, other], "train", TOKENIZER)
    assert "one/test.txt (test) and " in error and "other/train.txt (train): the same text" in error


def test_a_copy_that_is_divided_by_other_shares_is_told(write, warned, monkeypatch):
    """Of a large set less is set aside, so that it trains on what the small one is tested on."""
    monkeypatch.setattr(splits, "MOST", 3000)
    text = "One cat.\n\n" * 400
    small = write({"small.txt": text}, "small")
    large = write({"copy.txt": text, "large.txt": "Two cat.\n\n" * 9000}, "large")
    error = warned(warn_of_twin_files, [small, large])
    assert "small.txt (" in error and "copy.txt (" in error and "the same text" in error


def test_packed_files_of_one_name_in_two_splits_are_told(write, warned):
    texts = {f"{split}/a.jsonl": '{"text": "One cat."}\n' * 50 for split in ("train", "test")}
    name = write({**texts, "valid/b.jsonl": '{"text": "Two cat."}\n' * 40})
    for path in texts:
        os.utime(f"{name}/{path}", (0, 0))  # as after unpacking
    assert "(train)" in (error := warned(load_corpus, name, "train", TOKENIZER)) and "(test)" in error


def squad(*articles):
    return {"data": [{"title": title, "paragraphs": [{"context": context, "qas": [
        {"id": title, "question": "Who?", "answers": [{"text": "cat", "answer_start": 4}]}]}]}
        for title, context in articles]}  # fmt: skip


def test_a_passage_in_two_splits_is_told_with_both_titles(write, warned):
    articles = [(f"Article {number}", f"The cat {number}.") for number in range(30)]
    other = squad(("Other", "The cat."), ("Copy", "The cat 7."))
    name = write({"train.json": squad(*articles), "dev.json": other})
    error = warned(load_squad_splits, name)
    assert error == ("warning: Article 7 (train) and Copy (test): the same passage in two splits; what is trained on "
                     "should not be scored on, leave one out\n")  # fmt: skip


def test_an_article_with_options_in_two_splits_is_told_with_both_names(write, warned):
    def article(text):
        return {"article": text, "questions": ["Who?"], "options": [list("abcd")], "answers": ["A"]}

    files = {f"{part}/high/{part}{n}.txt": article(f"{part} {n}.") for part in ("train", "dev", "test") for n in range(3)}
    files |= {f"test/high/copy{n}.txt": article(f"train {n}.") for n in range(2)}
    error = warned(load_race_splits, write(files))
    assert error.startswith("warning: hightrain0.txt (train) and highcopy0.txt (test): the same text in two splits, and 1 "
                            "more such pairs; ") and error.count("\n") == 1  # fmt: skip
