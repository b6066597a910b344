"""Splits go by size and by names: train is the largest, what is called test is the test, and what stands twice is told."""

import random
from argparse import Namespace
from pathlib import Path

import pytest

from files.mistakes import UserError
from text.corpus import corpus_parts
from text.places import SPLITS, Places
from text.questions import Question, SquadSet, set_aside
from text.splits import held_out, set_apart, whole_files


def shares(sizes):
    return [sizes[split] / sum(sizes.values()) for split in SPLITS]


def corpus_sizes(name, places):
    return {split: sum(end - start for _, start, end in corpus_parts(name, split, places)[0]) for split in SPLITS}


# -- By size -----------------------------------------------------------------------------------------------------------


def test_a_novel_among_notes_is_divided_by_length(write, places):
    files = {f"note {number}.txt": "A short note.\n\n" * 7 for number in range(19)}
    name = write({**files, "novel.txt": "A long novel.\n\n" * 40_000})
    assert shares(corpus_sizes(name, places)) == pytest.approx([0.85, 0.05, 0.10], abs=0.001)


def test_files_here_and_in_a_cache_elsewhere_are_divided_together():
    names = [f"{number}.txt" for number in range(20)]
    paths = [Path(folder, name) for folder in ("texts", "/cache") for name in names]
    found = whole_files(dict.fromkeys(paths, 9))
    assert found and sum(map(len, found.values())) == 40


@pytest.mark.parametrize("seed", range(20))
def test_whole_files_of_any_sizes_make_about_the_wanted_shares_or_none_are_chosen(seed):
    rng = random.Random(seed)
    sizes = {Path(f"{number}.txt"): int(10 ** rng.uniform(1, 6)) for number in range(rng.randint(20, 300))}
    found = whole_files(sizes)
    if found:
        assert sorted(path for paths in found.values() for path in paths) == sorted(sizes)
        train, valid, test = shares({split: sum(map(sizes.get, paths)) for split, paths in found.items()})
        assert train >= 0.7 and 0.025 <= valid <= 0.1 and 0.05 <= test <= 0.2
        assert whole_files(dict(rng.sample(sorted(sizes.items()), len(sizes)))) == found


def test_books_of_about_one_size_are_still_divided_by_number():
    found = whole_files({Path(f"{number}.txt"): 100 + number for number in range(40)})
    assert [len(found[split]) for split in SPLITS] == [34, 2, 4]


def test_of_a_large_corpus_ten_megabytes_each_are_scored_unless_shares_are_given(monkeypatch, write, places, capsys):
    monkeypatch.setattr("text.corpus.MOST", 10_000)
    monkeypatch.setattr("text.splits.MOST", 10_000)
    name = write({"long.txt": "A long novel.\n\n" * 40_000})  # 600 kB
    sizes = corpus_sizes(name, places)
    assert (sizes["valid"], sizes["test"]) == pytest.approx((10_000, 10_000), rel=0.01)
    assert "1 MB of text: 1.7 % for valid and 1.7 % for test" in capsys.readouterr().err
    places.shares = {"test": 0.5}
    assert shares(corpus_sizes(name, places)) == pytest.approx([0.483, 0.017, 0.5], abs=0.001)


def test_whole_files_of_a_large_corpus_are_set_aside_up_to_ten_megabytes():
    found = whole_files({Path(f"{number}.txt"): 1_000_000 + number for number in range(1000)})
    assert [len(found[split]) for split in SPLITS] == [980, 10, 10]


@pytest.mark.parametrize("given", [{"valid": 0.2, "test": 0.8}, {"valid": 0.999, "test": 0.5}])
def test_shares_that_leave_nothing_to_train_on_are_refused(given):
    flags = Namespace(data_dir="d", cache_dir="c", text_column=None, valid_share=given["valid"], test_share=given["test"])
    with pytest.raises(UserError, match="leave nothing to train on"):
        Places.of_text(flags)


@pytest.mark.parametrize("given", [{"test": 0.97}, {"valid": 0.95}, {"valid": 0.6, "test": 0.5}])
def test_a_share_and_what_the_other_has_by_default_must_leave_something(given):
    with pytest.raises(UserError, match="leaving nothing to train on; lower"):
        held_out(1000, given)
    assert sum(held_out(1000, {"test": 0.9}).values()) == 95


def test_what_is_set_apart_comes_near_the_wanted_size_and_passes_over_what_is_too_large():
    assert set_apart([("novel", 900), ("a", 30), ("b", 30), ("c", 30)], 50, 100) == ["a", "b"]
    assert set_apart([("novel", 900), ("a", 90)], 50, 100) == ["a"]
    assert set_apart([("novel", 900), ("a", 10)], 50, 100) == []


def questions(counts, paragraphs=1):
    """A set of articles with so many questions each, in so many paragraphs."""
    contexts = [f"{title} {p}" for title in counts for p in range(paragraphs)]
    asked = [Question(f"{title}-{q}", "Who?", number * paragraphs + q % paragraphs, title, [])
             for number, (title, count) in enumerate(counts.items()) for q in range(count)]  # fmt: skip
    return SquadSet(contexts, asked, False)


@pytest.mark.parametrize("counts", [{"A": 1000, "B": 10}, {"A": 10, "B": 1000}, {"A": 500, "B": 510}, {"A": 1010}])
@pytest.mark.parametrize("paragraphs", [2, 60])
def test_most_questions_are_trained_on_whatever_the_sizes_of_the_articles(counts, paragraphs):
    parts = set_aside(questions(counts, paragraphs), "file")
    train, valid = (len(parts[part].questions) for part in ("train", "valid"))
    assert train + valid == 1010 and 0 < valid < (80 if paragraphs == 60 else 510) and train >= valid
    assert not {q.id for q in parts["train"].questions} & {q.id for q in parts["valid"].questions}


def test_articles_of_one_size_are_set_aside_whole():
    parts = set_aside(questions({f"Article {number}": 10 for number in range(10)}, 5), "file")
    assert {part: len({q.title for q in found.questions}) for part, found in parts.items()} == {"train": 9, "valid": 1}


def test_what_is_set_aside_does_not_depend_on_the_order_in_the_file():
    counts = {f"Article {number}": 10 + number for number in range(60)}
    found = [{q.title for q in set_aside(questions(dict(order)), "file")["valid"].questions}
             for order in (counts.items(), reversed(counts.items()))]  # fmt: skip
    assert found[0] == found[1]
