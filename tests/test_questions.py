"""SQuAD and RACE: every question is kept, splits share nothing, and what is wrong in a file is told with its place."""

import copy
import json

import pytest

from files.mistakes import UserError
from text.places import Places
from text.questions import fill, fill_in, load_race, load_race_splits, load_squad, load_squad_splits

CONTEXT = "The cat sat on the mat. The mat was red."


def squad(titles=("Cats",), paragraphs=1, context=CONTEXT):
    """A small SQuAD 1.1 file's value: in each paragraph of each article two questions."""
    return {"version": "1.1", "data": [
        {"title": title, "paragraphs": [{"context": f"{context} {title} {p}.", "qas": [
            {"id": f"{title}-{p}-0", "question": "Who sat?", "answers": [{"text": "The cat", "answer_start": 0}]},
            {"id": f"{title}-{p}-1", "question": "What was red?", "answers": [{"text": "mat", "answer_start": 28}]},
        ]} for p in range(paragraphs)]} for title in titles
    ]}  # fmt: skip


def race():
    """A small article's value, laid out like RACE's."""
    return {"id": "high7.txt", "article": "The cat sat.", "questions": ["Who sat?", "The cat _ ."],
            "options": [["cat", "dog", "cow", "hen"], ["ran", "sat", "ate", "hid"]], "answers": ["A", "B"]}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(value, name="file.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return path

    return write


def changed(value, change):
    """A copy of ``value`` to which ``change`` was done."""
    value = copy.deepcopy(value)
    change(value)
    return value


# -- SQuAD -------------------------------------------------------------------------------------------------------------


def test_every_question_of_a_squad_file_is_read(write):
    found = load_squad(write(squad(("Cats", "Dogs"), paragraphs=2)))
    assert [q.id for q in found.questions] == [f"{t}-{p}-{q}" for t in ("Cats", "Dogs") for p in (0, 1) for q in (0, 1)]
    assert [q.context for q in found.questions] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.questions[1].answers == [("mat", 28)] and found.questions[1].title == "Cats"
    assert not found.with_impossible


def test_a_squad2_question_may_have_no_answer(write):
    value = squad()
    for question in value["data"][0]["paragraphs"][0]["qas"]:
        question["is_impossible"] = False
    value["data"][0]["paragraphs"][0]["qas"][0].update(answers=[], is_impossible=True)
    found = load_squad(write(value))
    assert [question.answers for question in found.questions] == [[], [("mat", 28)]]
    assert found.with_impossible


def test_a_file_to_predict_on_needs_no_answers(write):
    value = squad()
    del value["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    assert load_squad(write(value), answers_needed=False).questions[0].answers == []
    with pytest.raises(UserError, match="no 'answers'"):
        load_squad(write(value))


def article(value):
    return value["data"][0]


def paragraph(value):
    return article(value)["paragraphs"][0]


def question(value):
    return paragraph(value)["qas"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("data"), r"file\.json: no 'data'; mend"),
        (lambda v: v.update(data={}), r"file\.json: 'data' is not a list; mend"),
        (lambda v: v.update(data=[]), r"file\.json: holds no question; name another"),
        (lambda v: v.update(data=["x"]), r"file\.json: article 1: not a JSON object; mend"),
        (lambda v: article(v).pop("paragraphs"), r"article 1: no 'paragraphs'; mend"),
        (lambda v: paragraph(v).pop("context"), r"article 1 \(Cats\), paragraph 1: no 'context'; mend"),
        (lambda v: paragraph(v).pop("qas"), r"paragraph 1: no 'qas'; mend"),
        (lambda v: question(v).pop("id"), r"paragraph 1, question 2: no 'id'; mend"),
        (lambda v: question(v).pop("question"), r"question Cats-0-1: no 'question'; mend"),
        (lambda v: question(v).update(answers=[]), r"question Cats-0-1: no answer, and not marked is_impossible; mend"),
        (lambda v: question(v).update(is_impossible=True), r"Cats-0-1: marked impossible, yet it has answers; mend"),
        (lambda v: question(v)["answers"][0].pop("text"), r"Cats-0-1: no 'text'; mend"),
        (lambda v: question(v)["answers"][0].update(text=""), r"Cats-0-1: an answer without text; mend"),
        (lambda v: question(v)["answers"][0].update(answer_start="28"), r"'answer_start' is not a whole number; mend"),
        (lambda v: question(v)["answers"][0].update(answer_start=27), r"Cats-0-1: answer 'mat' does not stand at .* 27"),
        (lambda v: question(v)["answers"][0].update(answer_start=-12), r"'mat' does not stand at answer_start -12; mend"),
        (lambda v: question(v)["answers"][0].update(answer_start=999), r"'mat' does not stand at answer_start 999; mend"),
    ],
)
def test_what_is_wrong_in_a_squad_file_is_told_with_its_place(write, change, message):
    with pytest.raises(UserError, match=message) as caught:
        load_squad(write(changed(squad(), change)))
    assert "file.json" in str(caught.value) and "\n" not in str(caught.value)


BROKEN_FILES = [
    (b"", "empty file"),
    (b'{"data": [', r"broken JSON at line 1, column 11"),
    (b'{"data": "caf\xe9"}', "not UTF-8 at byte 13"),
]


@pytest.mark.parametrize(("content", "message"), [*BROKEN_FILES, (b"[]", "a list, not SQuAD's layout; write it as .jsonl")])
def test_a_broken_squad_file_is_named(write, content, message):
    with pytest.raises(UserError, match=rf"file\.json: {message}"):
        load_squad(write(content))


def test_whole_articles_are_set_aside_to_validate(write, tmp_path):
    titles = [f"Article {number}" for number in range(50)]
    write(squad(titles, paragraphs=2), "set/train.json"), write(squad(["Other"]), "set/dev.json")
    splits = load_squad_splits(str(tmp_path / "set"), Places(tmp_path, tmp_path))
    names = {split: {question.title for question in found.questions} for split, found in splits.items()}
    assert {split: len(found.questions) for split, found in splits.items()} == {"train": 192, "valid": 8, "test": 2}
    assert names["train"].isdisjoint(names["valid"]) and names["train"] | names["valid"] == set(titles)
    for found in splits.values():  # each with its contexts only
        assert {question.context for question in found.questions} == set(range(len(found.contexts)))


@pytest.mark.parametrize(("paragraphs", "held_out"), [(2, 1), (20, 1), (60, 2)])
def test_of_a_single_article_some_paragraphs_are_set_aside(write, tmp_path, paragraphs, held_out):
    write(squad(paragraphs=paragraphs), "train.json"), write(squad(), "dev.json")
    splits = load_squad_splits(str(tmp_path), Places(tmp_path, tmp_path))
    assert len(splits["valid"].contexts) == held_out
    assert len(splits["train"].contexts) == paragraphs - held_out


def test_a_single_paragraph_is_too_little_to_train_and_validate(write, tmp_path):
    write(squad(), "train.json"), write(squad(), "dev.json")
    with pytest.raises(UserError, match=r"train\.json: one paragraph, .*; add another"):
        load_squad_splits(str(tmp_path), Places(tmp_path, tmp_path))


def test_articles_without_a_title_are_told_apart(write):
    one, two = (article["paragraphs"] for article in squad(("Cats", "Dogs"))["data"])
    found = load_squad(write({"data": [{"paragraphs": one}, {"paragraphs": two, "title": None}]}))
    assert [question.title for question in found.questions] == ["article 1", "article 1", "article 2", "article 2"]


def test_only_the_wanted_splits_are_read(write, tmp_path):
    write(squad(), "dev.json")
    assert list(load_squad_splits(str(tmp_path), Places(tmp_path, tmp_path), ("test",))) == ["test"]
    with pytest.raises(UserError, match=r"0 files train\*\.json; exactly one is needed"):
        load_squad_splits(str(tmp_path), Places(tmp_path, tmp_path))


def test_all_of_the_real_squad_is_kept_and_no_article_is_in_two_splits(shared_data, tmp_path):
    splits = load_squad_splits("SQuAD1", Places(shared_data, tmp_path))
    titles = [{question.title for question in found.questions} for found in splits.values()]
    assert len(splits["train"].questions) + len(splits["valid"].questions) == 87_599
    assert len(splits["test"].questions) == 5_952
    assert list(map(len, titles)) == [425, 17, 28]
    assert len(set.union(*titles)) == 425 + 17 + 28


def test_the_real_squad2_has_questions_without_answers(shared_data):
    found = load_squad(shared_data / "squad" / "dev-v2.0.json")
    assert found.with_impossible and len(found.questions) == 7_860
    assert sum(not question.answers for question in found.questions) == 3_854


# -- RACE --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def race_folder(write, tmp_path):
    for part in ("train", "dev", "test"):
        for level, number in (("high", 12), ("middle", 3), ("high", 1)):
            write({**race(), "id": f"{level}{number}.txt"}, f"RACE/{part}/{level}/{number}.txt")
    return tmp_path / "RACE"


def test_race_is_read_in_the_order_of_names_by_level(race_folder):
    places = Places(race_folder.parent, race_folder.parent)
    splits = load_race_splits("RACE", places)
    assert list(splits) == ["train", "valid", "test"]
    for found in splits.values():
        assert [article.id for article in found] == ["high1.txt", "high12.txt", "middle3.txt"]
    assert [a.id for a in load_race_splits("RACE", places, "middle")["test"]] == ["middle3.txt"]
    assert [a.level for a in splits["test"]] == ["high", "high", "middle"]
    assert splits["test"][0].answers == [0, 1] and splits["test"][0].options[1][1] == "sat"


def test_any_folder_laid_out_like_race_will_do_and_files_of_macos_are_no_articles(write, tmp_path):
    write(changed(race(), lambda v: v.pop("id")), "mine/dev/one.txt"), write(b"\0\5", "mine/dev/._one.txt")
    assert [found.id for found in load_race(tmp_path / "mine" / "dev")] == ["devone.txt"]


def test_only_the_wanted_splits_of_race_are_read(race_folder, tmp_path):
    (race_folder / "dev").rename(tmp_path / "elsewhere")
    assert list(load_race_splits(str(race_folder), Places(tmp_path, tmp_path), splits=("test",))) == ["test"]
    with pytest.raises(UserError, match=r"RACE/dev: no such folder; a RACE folder has train, dev and test"):
        load_race_splits("RACE", Places(tmp_path, tmp_path))


def test_articles_to_predict_on_need_no_answers(write, tmp_path):
    write(changed(race(), lambda v: v.pop("answers")), "a/1.txt")
    assert load_race(tmp_path / "a", answers_needed=False)[0].answers == [None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("article"), "no 'article'; mend"),
        (lambda v: v.pop("answers"), "no 'answers'; mend"),
        (lambda v: v.update(article=7), "'article' is not a text; mend"),
        (lambda v: v["answers"].pop(), "2 questions, 2 lists of options and 1 answers; mend"),
        (lambda v: v["options"][1].extend("fly" * 8), "question 2: 28 options; it must have 2 to 26; mend"),
        (lambda v: v["options"].__setitem__(1, ["fly"]), "question 2: 1 options; it must have 2 to 26; mend"),
        (lambda v: v["options"].__setitem__(0, "ABCD"), "question 1: options not texts; mend"),
        (lambda v: v["questions"].__setitem__(0, None), "question 1: not a text; mend"),
        (lambda v: v["answers"].__setitem__(1, "F"), "question 2: answer 'F'; it must be A, B, C or D; mend"),
        (lambda v: v["answers"].__setitem__(1, None), "question 2: answer None; it must be A, B, C or D; mend"),
        (lambda v: v["answers"].__setitem__(1, "AB"), "question 2: answer 'AB'; it must be A, B, C or D; mend"),
    ],
)
def test_what_is_wrong_in_a_race_file_is_told_with_its_place(write, tmp_path, change, message):
    write(race(), "RACE/dev/high/6.txt"), write(changed(race(), change), "RACE/dev/high/7.txt")
    with pytest.raises(UserError, match=rf"high/7\.txt: {message}") as caught:
        load_race(tmp_path / "RACE" / "dev")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [*BROKEN_FILES, (b"[]", "not a JSON object")])
def test_a_broken_race_file_is_named(write, tmp_path, content, message):
    write(content, "RACE/7.txt")
    with pytest.raises(UserError, match=rf"7\.txt: {message}"):
        load_race(tmp_path / "RACE")


def test_two_articles_of_the_same_id_are_refused_because_answers_go_by_id(write, tmp_path):
    write(race(), "RACE/6.txt"), write(race(), "RACE/7.txt")
    with pytest.raises(UserError, match=r"7\.txt: has the id high7\.txt of .*6\.txt; give each article its own"):
        load_race(tmp_path / "RACE")


def test_a_folder_without_articles_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"no \.txt file of RACE's kind of level high; name a folder"):
        load_race(tmp_path, "high")


def test_no_article_and_no_question_of_the_real_race_is_lost(shared_data, tmp_path):
    splits = load_race_splits("RACE", Places(shared_data, tmp_path))
    assert {split: len(found) for split, found in splits.items()} == {"train": 20_846, "valid": 695, "test": 700}
    assert {split: sum(len(a.questions) for a in found) for split, found in splits.items()} == {
        "train": 73_816, "valid": 2_449, "test": 2_487,
    }  # fmt: skip
    assert len({article.id for found in splits.values() for article in found}) == 20_846 + 695 + 700


def test_an_option_fills_the_blank_or_follows_the_question():
    assert fill("The cat _ .", "sat") == "The cat sat ."
    assert fill("He is a_____.", r"\1 man") == r"He is a \1 man ."
    assert fill("_ is big, _ is small", "A") == "A is big, A is small"
    assert fill("Who sat?", "The cat") == "Who sat? The cat"


@pytest.mark.parametrize("question, option, statement", [
    ("The cat is _ .", "red", "The cat is red ."), ("The cat is ____.", "red", "The cat is red ."),
    ("_ is red.", "The cat", "The cat is red."), ("Who ?", "The cat", "Who ? The cat"),
    ("It is _ .", r"a \1 thing", r"It is a \1 thing ."),
])  # fmt: skip
def test_the_blank_is_filled_by_the_option(question, option, statement):
    assert fill(question, option) == statement


@pytest.mark.parametrize("question, option, statement", [
    ("The cat is _ .", "red", "The cat is [red] ."), ("_ is red.", "The  cat", "[The cat] is red."),
    ("Who ?", "The cat", "Who ? [The cat]"), ("The cat: ____", "red", "The cat: [red]"), ("It is _.", "", "It is [] ."),
])  # fmt: skip
def test_where_the_option_stands_in_the_statement(question, option, statement):
    text, [(start, end)] = fill_in(question, option)
    assert text == fill(question, option)
    if option:
        assert f"{text[:start]}[{text[start:end]}]{text[end:]}" == statement
    else:
        assert start == end
