"""A folder that its owner has divided: files and folders called train, valid and test are what they are called."""

import json
import re

import pytest

from files.mistakes import UserError
from text.corpus import corpus_parts
from text.places import SPLITS, kinds_of
from text.questions import load_race_splits, load_squad_splits

LONG = "A line to read.\n\n" * 400


def corpus_files(name, places):
    """split -> the names of its files, and whether they are whole."""
    found = {}
    for split in SPLITS:
        parts, _ = corpus_parts(name, split, places)
        found[split] = [str(path.relative_to(name)) for path, start, end in parts if end > start]
    return found


# -- Text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("valid", ["valid", "validation", "val", "dev", "Dev"])
@pytest.mark.parametrize("form", ["{}.txt", "{}/a.txt", "{}.TXT"])
def test_text_is_divided_as_its_names_say(write, places, capsys, valid, form):
    names = [form.format(part) for part in ("train", valid, "test")]
    assert corpus_files(write(dict.fromkeys(names, LONG)), places) == {
        split: [name] for split, name in zip(SPLITS, names, strict=True)}  # fmt: skip
    assert capsys.readouterr().err == ""


def test_a_split_without_a_name_is_set_aside_from_train(write, places):
    name = write({"train.txt": LONG, "test.txt": "Test.\n\n" * 40})
    assert corpus_files(name, places) == {"train": ["train.txt"], "valid": ["train.txt"], "test": ["test.txt"]}
    parts = [corpus_parts(name, split, places)[0][0] for split in ("train", "valid")]
    assert parts[0][2] == parts[1][1] and parts[1][2] == len(LONG) and 0.94 < parts[0][2] / len(LONG) < 0.96
    name = write({**{f"train/{number}.txt": "A text.\n\n" for number in range(40)}, "dev.txt": LONG}, "many")
    counts = {split: len(files) for split, files in corpus_files(name, places).items()}
    assert counts == {"train": 36, "valid": 1, "test": 4}


def test_files_beside_all_three_are_left_out_with_a_warning(write, places, capsys):
    name = write({"train.txt": LONG, "valid.txt": LONG, "test.txt": LONG, "README.txt": "Read me."})
    assert all("README.txt" not in files for files in corpus_files(name, places).values())
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "1 files are left out, such as" in error and "README.txt" in error


def test_without_train_all_others_are_trained_on_with_a_warning(write, places, capsys):
    name = write({"a.txt": LONG, "b/c.txt": LONG, "test.txt": LONG, "valid.txt": LONG})
    assert corpus_files(name, places) == {"train": ["a.txt", "b/c.txt"], "valid": ["valid.txt"], "test": ["test.txt"]}
    assert "nothing is called train; all files but valid and test are trained on, 2" in capsys.readouterr().err


def test_a_train_alone_among_others_is_no_split(write, places, capsys):
    name = write({"train.txt": LONG, "b.txt": LONG})
    assert corpus_files(name, places) == {split: ["b.txt", "train.txt"] for split in SPLITS}
    assert "what is called train is divided with the rest" in capsys.readouterr().err


def test_without_anything_to_train_on_the_missing_split_is_named(write, places):
    with pytest.raises(UserError, match=r"no text for the train split; add train\.txt"):
        corpus_parts(write({"test.txt": LONG}), "train", places)


def test_a_folder_of_plain_text_in_train_and_test_is_text(write, places):
    assert kinds_of(write({"train/1.txt": LONG, "test/1.txt": LONG}), places) == ["text"]
    assert kinds_of(write(dict(race("train", 1)), "r"), places) == ["choices"]
    assert kinds_of(write({"test.json": {}}, "q"), places) == ["questions"]
    assert kinds_of(write({"1.txt": LONG, "test.json": {}}, "t"), places) == ["text"]
    assert kinds_of(write({"train/1.txt": LONG, "train/about.json": {}}, "u"), places) == ["text"]


# -- Questions and choices ---------------------------------------------------------------------------------------------


def squad(name, articles=30):
    return {"data": [{"title": f"{name} {number}", "paragraphs": [{"context": f"The cat sat on {name} {number}.", "qas": [
        {"id": f"{name}-{number}", "question": "Who sat?", "answers": [{"text": "cat", "answer_start": 4}]}]}]}
        for number in range(articles)]}  # fmt: skip


def race(folder, count):
    return {f"{folder}/high/{number}.txt": {
        "id": f"{folder}{number}", "article": f"{folder} {number}", "questions": ["Who?"], "options": [list("abcd")],
        "answers": ["A"]} for number in range(count)}.items()  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), [
    (("train", "dev"), {"train": "train", "valid": "train", "test": "dev"}),
    (("train", "dev", "test"), {"train": "train", "valid": "dev", "test": "test"}),
    (("train", "validation", "test"), {"train": "train", "valid": "validation", "test": "test"}),
    (("train", "valid", "dev"), {"train": "train", "valid": "valid", "test": "dev"}),
    (("train", "test"), {"train": "train", "valid": "train", "test": "test"}),
    (("train", "valid"), {"train": "train", "valid": "valid", "test": "train"}),
    (("train",), {"train": "train", "valid": "train", "test": "train"}),
])  # fmt: skip
@pytest.mark.parametrize("form", ["{}-v1.json", "{}/a.json"])
def test_question_files_are_what_they_are_called(write, places, files, expected, form):
    name = write({form.format(part): squad(part) for part in files})
    assert kinds_of(name, places) == ["questions"]
    found = load_squad_splits(name, places)
    assert {split: {q.title.split()[0] for q in part.questions} for split, part in found.items()} == {
        split: {part} for split, part in expected.items()}  # fmt: skip
    titles = [q.title for part in found.values() for q in part.questions]
    assert len(titles) == len(set(titles)) == 30 * len(files) and len(found["train"].questions) >= 25
    for split in SPLITS:
        assert load_squad_splits(name, places, (split,))[split] == found[split]


@pytest.mark.parametrize("form", ["data/{}.txt", "clone/data/{}/a.txt"])
def test_names_below_a_folder_that_holds_all_count_too(write, places, form):
    names = [form.format(part) for part in SPLITS]
    assert corpus_files(write(dict.fromkeys(names, LONG)), places) == {
        split: [name] for split, name in zip(SPLITS, names, strict=True)}  # fmt: skip


def test_several_sets_in_one_folder_are_not_mixed(write, places):
    name = write({f"{part}/{split}.txt": LONG for part in ("all", "high") for split in SPLITS})
    with pytest.raises(UserError, match=r"several sets, each divided, such as .*; name the folder of one"):
        corpus_parts(name, "train", places)
    name = write({f"{author}/{book}.txt": LONG for author in ("a", "b") for book in ("one", "test")}, "books")
    assert len(corpus_files(name, places)["train"]) == 4  # one title is no division
    name = write({"a/test.txt": LONG, "b/dev.txt": LONG, "b/one.txt": LONG}, "titles")
    assert len(corpus_files(name, places)["train"]) == 3  # nor two in two places
    for names in (("a/train/x/1.txt", "a/test/x/2.txt", "b/3.txt"), ("a/train.txt", "b/test.txt")):
        with pytest.raises(UserError, match="several sets, each divided"):
            corpus_parts(write(dict.fromkeys(names, LONG), f"deep{len(names)}"), "train", places)


def test_who_scores_a_set_without_a_test_is_told_how_much_of_it_that_is(write, places, capsys):
    name = write({"train.json": squad("train"), "valid.json": squad("valid")})
    count = len(load_squad_splits(name, places)["test"].questions)
    told = f"note: {name}: nothing there is called test; {count} of 30 questions are scored"
    assert 0 < count < 30 and capsys.readouterr().err == f"{told}, the others train\n"
    assert len(load_squad_splits(name, places, ("test",))["test"].questions) == count
    assert capsys.readouterr().err.startswith(f"{told}, which training sets aside; ")
    load_squad_splits(write({"train.json": squad("train")}, "alone"), places)
    assert re.search(r"; \d of 30 questions are scored, \d choose the model\n", capsys.readouterr().err)


@pytest.mark.parametrize("load", [load_squad_splits, load_race_splits])
@pytest.mark.parametrize(("name", "message"), [
    ("q.csv", r"rows of \.csv are not read; write them as \.jsonl"), ("q.pdf", r"\.pdf is no plain text; save it as \.txt"),
    ("q.tar.xz", "is not unpacked here; unpack it by hand"), ("q.txt.bz2", "is not unpacked here; unpack it by hand"),
])  # fmt: skip
def test_what_nothing_here_reads_is_told_with_what_to_make_of_it(write, places, load, name, message):
    folder = write({name: "a,b\n1,2\n"})
    with pytest.raises(UserError, match=message):
        load(f"{folder}/{name}", places)
    with pytest.raises(UserError, match=message):
        corpus_parts(f"{folder}/{name}", "train", places)


def test_in_a_folder_as_well(write, places):
    folder = write({"train.csv": "a,b\n1,2\n"})
    for load in (lambda: load_squad_splits(folder, places), lambda: corpus_parts(folder, "train", places)):
        with pytest.raises(UserError, match=r"train\.csv: rows of \.csv are not read"):
            load()


@pytest.mark.parametrize("name, meant", [("c4.json.gz", ".jsonl.gz"), ("a.ndjson", ".jsonl"), ("a.JSON.zst", ".jsonl.zst")])
def test_lines_of_json_by_another_name_are_told_the_one_to_give_them(write, places, capsys, name, meant):
    folder = write({name: '{"text": "A cat."}\n'})
    for path in (folder, f"{folder}/{name}"):
        with pytest.raises(UserError, match=rf"{name}: where each of its lines is a JSON object, call it {meant}$"):
            corpus_parts(path, "train", places)
    write({"LICENSE.txt": "Do as you like.\n" * 50})
    corpus_parts(folder, "train", places)
    assert f"1 files are left out, such as {folder}/{name}" in capsys.readouterr().err


def test_settings_and_predictions_beside_questions_are_no_split(write, places, capsys):
    """Of SQuAD's JSON or of rows, which a stray JSON does not hide."""
    files = {"train.json": squad("train"), "dev.json": squad("dev"), "test-predictions.json": {"dev-0": "cat"}}
    found = load_squad_splits(write(files, "json"), places)
    assert {q.title.split()[0] for q in found["test"].questions} == {"dev"}
    assert "test-predictions.json: not read, for it has no" in capsys.readouterr().err
    name = write({**files, "test.json": [squad("test")]}, "test")
    with pytest.raises(UserError, match=r"test\.json"):  # meant as it is called: told, not left out
        load_squad_splits(name, places)
    rows = {f"{part}.jsonl": "".join(json.dumps({
        "id": f"{part}{number}", "context": f"The cat {part} {number}.", "question": "Who?",
        "answers": {"text": ["cat"], "answer_start": [4]}}) + "\n" for number in range(40))
        for part in ("train", "test")}  # fmt: skip
    name = write({**rows, "train_config.json": {"lr": 1}, "test-predictions.json": {}}, "rows")
    assert kinds_of(name, places) == ["questions"]
    assert {q.id.rstrip("0123456789") for q in load_squad_splits(name, places)["test"].questions} == {"test"}


@pytest.mark.parametrize("titles", [False, True])
def test_a_passage_that_is_repeated_for_each_question_is_in_one_split(write, places, capsys, titles):
    """Also where each question is an article of its own, with a title of its own or none."""
    rows = squad("train", 200)["data"]
    for number, row in enumerate(rows):
        row["paragraphs"][0]["context"] = f"The cat sat on mat {number // 5}."
        if not titles:
            del row["title"]
    found = load_squad_splits(write({"train.json": {"data": rows}}), places)
    texts = {split: {part.contexts[q.context] for q in part.questions} for split, part in found.items()}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 40
    assert {split: len(part.questions) for split, part in found.items()} == {"train": 175, "valid": 5, "test": 20}
    assert "two splits" not in capsys.readouterr().err


def test_an_article_that_is_repeated_for_each_question_is_in_one_split(write, places, capsys):
    files = dict(race("train", 100))
    for number, article in enumerate(files.values()):
        article["article"] = f"Article {number // 5}."
    found = load_race_splits(write(files), places)
    texts = [{article.text for article in articles} for articles in found.values()]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 20 and "two splits" not in capsys.readouterr().err


def test_one_file_of_squads_layout_wants_a_folder(write, places):
    with pytest.raises(UserError, match=r"q\.json: one file; of SQuAD's layout name the folder in which it is train\.json"):
        load_squad_splits(write({"q.json": squad("train")}) + "/q.json", places)


def test_two_files_for_one_split_are_refused_with_its_name(write, places):
    with pytest.raises(UserError, match=r"valid split: .*: 2 files valid\*\.json or dev\*\.json; exactly one is needed"):
        load_squad_splits(write({f"{part}.json": squad(part) for part in ("train", "dev", "valid", "test")}), places)


def ids(found):
    return {split: {article.id for article in articles} for split, articles in found.items()}


@pytest.mark.parametrize("valid", ["dev", "valid", "Validation"])
def test_folders_of_choices_are_what_they_are_called(write, places, valid):
    name = write({**dict(race("train", 3)), **dict(race(valid, 2)), **dict(race("test", 2))})
    assert ids(load_race_splits(name, places))["valid"] == {f"{valid}0", f"{valid}1"}


def test_choices_without_a_folder_are_set_aside_from_train_whatever_the_level(write, places):
    high = dict(race("train", 60))
    middle = {file.replace("high", "middle"): {**article, "id": f"m{article['id']}"} for file, article in high.items()}
    name = write({**high, **middle})
    found = ids(load_race_splits(name, places))
    assert {split: len(some) for split, some in found.items()} == {"train": 104, "valid": 4, "test": 12}  # the same texts
    middle = ids(load_race_splits(name, places, "middle"))
    assert middle == {split: {id for id in some if id[0] == "m"} for split, some in found.items()}
    assert ids(load_race_splits(name, places, splits=("test",)))["test"] == found["test"]


def test_a_wrong_file_of_choices_and_a_split_without_questions_are_told_with_the_split(write, places):
    files = {**dict(race("train", 3)), **dict(race("dev", 1)), **dict(race("test", 1))}
    with pytest.raises(UserError, match=r"^valid split: .*broken JSON"):
        load_race_splits(write({**files, "dev/high/0.txt": "{"}), places)
    none = {"id": "none", "article": "Nothing.", "questions": [], "options": [], "answers": []}
    with pytest.raises(UserError, match="no question in the test split"):
        load_race_splits(write({**files, "test/high/0.txt": none}, "other"), places)
