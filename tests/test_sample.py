"""The embedded data set: the same everywhere, in the layout of the real ones, and nothing to be had without reading."""

import itertools
from collections import Counter

import pytest
from toys import refused

from metrics import squad_scores
from text import sample
from text.places import Places
from text.questions import load_race, load_squad, load_squad_splits


def facts(split, purpose, count=300):
    return {
        (person, words[person])
        for story in sample.stories(split, count, purpose)
        for words in story.facts.values() for person in words
    }  # fmt: skip


def test_the_same_stories_every_time():
    first, second = (list(itertools.islice((s.text for s in sample.stories("test", 20, "text")), 20)) for _ in range(2))
    assert first == second


def test_held_out_stories_tell_of_nothing_that_training_told():
    train = facts("train", "text") | facts("train", "squad") | facts("train", "race")
    assert not train & (facts("test", "text") | facts("test", "squad") | facts("test", "race"))


def test_answers_stand_where_the_file_says():
    squad = sample.squad("train", 100)
    for paragraph in squad["data"][0]["paragraphs"]:
        for question in paragraph["qas"]:
            for answer in question["answers"]:
                start = answer["answer_start"]
                assert paragraph["context"][start : start + len(answer["text"])] == answer["text"]
            assert question["is_impossible"] == (not question["answers"])


def test_the_options_of_a_question_are_equally_often_right():
    letters = Counter(letter for _, article in sample.race("train", 600) for letter in article["answers"])
    assert set(letters) == set("ABCD") and min(letters.values()) > 0.2 * letters.total()


def test_an_option_is_right_as_often_as_others_like_it():
    """A word that is an option is the right one a quarter of the time: the options alone say nothing."""
    offered, right = Counter(), Counter()
    for _, article in sample.race("train", 2000):
        for options, letter in zip(article["options"], article["answers"], strict=True):
            offered.update(options)
            right[options["ABCD".index(letter)]] += 1
    for word, count in offered.items():
        assert abs(right[word] - count / 4) < 5 * (count * 3 / 16) ** 0.5, word  # five standard deviations


def test_it_reads_as_the_real_sets_do(tmp_path, task_cache):
    folder = Places(tmp_path, task_cache).sample()
    assert len(load_race(folder / "RACE" / "test")) == sample.SIZES[2][4]
    assert len(load_squad(folder / "squad-test.json").questions) == 3 * sample.SIZES[2][3]


def test_the_most_frequent_answer_is_none(tmp_path, task_cache):
    squad = load_squad_splits("Sample", Places(tmp_path, task_cache))["test"]
    gold = {"data": [{"paragraphs": [{"context": "", "qas": [
        {"id": q.id, "answers": [{"text": text} for text, _ in q.answers], "is_impossible": not q.answers}
        for q in squad.questions
    ]}]}]}  # fmt: skip
    assert 10 < squad_scores(gold, {q.id: "" for q in squad.questions})["f1"] < 30


def test_neither_form_place_nor_length_tells_whether_there_is_an_answer():
    count, none = Counter(), Counter()
    for paragraph in sample.squad("train", 4000)["data"][0]["paragraphs"]:
        for place, question in enumerate(paragraph["qas"]):
            words = question["question"].split()
            clues = [("place", place), ("first", words[0]), ("words", len(words)),
                     ("sentences", paragraph["context"].count("."))]  # fmt: skip
            count.update([*clues, "all"])
            none.update([*clues, "all"] if question["is_impossible"] else [])
    share = none["all"] / count["all"]
    for clue, number in count.items():  # six standard deviations: questions of one story are not independent
        assert abs(none[clue] - share * number) < 6 * (number * share * (1 - share)) ** 0.5, clue


@pytest.mark.parametrize("place, told", [
    ("taken", "exists already"), ("taken/within", "cannot be written ("), ("full", "exists already"),
])  # fmt: skip
def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch, place, told):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    monkeypatch.setattr("sys.argv", ["sample.py", str(tmp_path / place)])
    refused(sample.main, f"{tmp_path / place}: {told}")


def test_the_data_set_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sample.py", str(tmp_path / "made")])
    monkeypatch.setattr(sample, "SIZES", [("valid", "dev", 2, 2, 2)])
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(sample, "race", lambda *_: 1 / 0)
        sample.main()
    assert not list(tmp_path.iterdir())
    sample.main()
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["RACE", "squad-valid.json", "valid.txt"]
