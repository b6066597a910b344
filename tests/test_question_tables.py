"""Questions in the rows of .jsonl and Parquet: the same examples as from SQuAD's and RACE's own files, as well checked."""

import json
import tarfile

import pytest
import toys
from test_tables import HOW, table
from toys import refused

import qa_task
import race_task
from files.mistakes import UserError
from files.question_tables import kind_of
from text.corpus import corpus_parts
from text.places import SPLITS, Places, kinds_of
from text.questions import load_race, load_race_splits, load_squad, load_squad_splits
from training.ranks import Ranks

TINY = "--bptt 64 --batch-size 8 --precision fp32 --cache-dir cache --log-dir run --save model.pt".split()
TRAIN = "--bert-model none --nlayers 1 --emsize 32 --nhead 2 --steps 1 --vocab vocab.txt --tokenizer wordpiece".split()


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    monkeypatch.setattr("text.cache.cores", lambda: 1)


def squad_rows(data):
    """SQuAD's JSON as the hub has it, a row a question."""
    return [{"id": q["id"], "title": article["title"], "context": paragraph["context"], "question": q["question"],
             "answers": {"text": [a["text"] for a in q["answers"]],
                         "answer_start": [a["answer_start"] for a in q["answers"]]}}
            for article in data["data"] for paragraph in article["paragraphs"] for q in paragraph["qas"]]  # fmt: skip


def race_rows(articles):
    """Articles as the hub has RACE, a row a question."""
    return [{"example_id": article.id, "article": article.text, "answer": "ABCD"[answer], "question": question,
             "options": options}
            for article in articles
            for question, options, answer in zip(article.questions, article.options, article.answers, strict=True)]


def asked(squad):
    return [(q.id, q.text, squad.contexts[q.context], q.title, q.answers) for q in squad.questions]


def mended(rows, **columns):
    """JSON lines of these rows, of which the second has other columns; None: without that one."""
    rows[1] = {name: value for name, value in (rows[1] | columns).items() if value is not None}
    return "".join(json.dumps(row) + "\n" for row in rows)


# -- The same examples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("impossible", [False, True])
def test_rows_on_passages_are_what_squads_file_is(tmp_path, how, impossible):
    data = toys.as_json(toys.squad(impossible=impossible))
    if not impossible:  # version 1.1
        for paragraph in (paragraph for article in data["data"] for paragraph in article["paragraphs"]):
            paragraph["qas"] = [{k: v for k, v in q.items() if k != "is_impossible"} for q in paragraph["qas"]]
    (tmp_path / "squad.json").write_text(json.dumps(data))
    (tmp_path / f"squad.{how}").write_bytes(table(squad_rows(data), f"a.{how}"))
    for needed in (True, False):
        one, other = (load_squad(tmp_path / name, needed) for name in ("squad.json", f"squad.{how}"))
        assert other == one and one.with_impossible == impossible


@pytest.mark.parametrize("how", HOW)
def test_rows_with_options_are_what_races_files_are(tmp_path, how):
    articles = toys.articles()
    toys.write_articles(tmp_path / "race", articles)
    path = tmp_path / f"race.{how}"
    path.write_bytes(table(race_rows(articles), path.name))
    for level in ("all", "high"):
        for needed in (True, False):
            one, other = (sorted(load_race(source, level, needed), key=lambda article: article.id)
                          for source in (tmp_path / "race", path))  # fmt: skip
            assert one == other and len(one) == {"all": 5, "high": 2}[level]


def test_the_hubs_squad_gives_the_examples_of_squads_own(shared_data, places, write):
    for split, name in (("validation", "dev-v1.1"), ("validation", "dev-v2.0")):
        path = shared_data / "squad" / f"{name}.json"
        rows = table(squad_rows(json.loads(path.read_text())), "a.parquet")
        mine = write({f"{split}-00000-of-00001.parquet": rows}, name)
        one, other = load_squad(path), load_squad(f"{mine}/{split}-00000-of-00001.parquet")
        assert asked(other) == asked(one) and other.with_impossible == one.with_impossible


def test_the_hubs_race_gives_the_examples_of_races_own(shared_data, tmp_path):
    with tarfile.open(shared_data / "RACE.tar.gz") as archive:
        some = [member for member in archive if member.name.startswith("RACE/dev/") and member.isfile()][:200]
        archive.extractall(tmp_path, some, filter="data")
    one = load_race(tmp_path / "RACE" / "dev")
    (tmp_path / "a.jsonl").write_bytes(table(race_rows(one), "a.jsonl"))
    assert load_race(tmp_path / "a.jsonl") == one and len(one) == 200


# -- Layouts -----------------------------------------------------------------------------------------------------------

LABELLED = {"label": ["A", "B"], "text": ["a dog", "a cat"]}
RACE = {"article": "The cat sat.", "question": "Who sat?", "options": ["a dog", "a cat"], "answer": "B"}
CHOICES = {
    "race": RACE,
    "a number": {**RACE, "answer": 1},
    "a passage": {**{k: v for k, v in RACE.items() if k != "article"}, "passage": "The cat sat."},
    "swag": {"sent1": "The cat sat.", "sent2": "Who sat?", "ending0": "a dog", "ending1": "a cat", "label": 1,
             "startphrase": "The cat sat. Who sat?"},
    "a spreadsheet, whose cells are text": {"context": "The cat sat.", "question": "Who sat?", "ending0": "a dog",
                                            "ending1": "a cat", "ending2": "", "answer": "1"},
    "commonsense_qa": {"id": "7", "question": "Who sat?", "choices": {"label": ["1", "2"], "text": ["a dog", "a cat"]},
                       "answerKey": "2"},
    "openbookqa": {"id": "7", "question_stem": "Who sat?", "choices": LABELLED, "answerKey": "B"},
    "labels and a number": {"id": "7", "question": "Who sat?", "choices": LABELLED, "label": 1},
}  # fmt: skip


@pytest.mark.parametrize("layout", CHOICES)
@pytest.mark.parametrize("how", ["jsonl", "parquet"])
def test_options_are_known_by_their_columns(tmp_path, places, layout, how):
    path = tmp_path / f"a.{how}"
    path.write_bytes(table([CHOICES[layout]] * 2, path.name))
    assert kinds_of(str(path), places) == ["choices"]
    (article,) = load_race(path)
    assert article.text == ("" if "choices" in CHOICES[layout] else "The cat sat.")
    assert (article.questions, article.options, article.answers) == (["Who sat?"] * 2, [["a dog", "a cat"]] * 2, [1, 1])
    assert load_race(path, answers_needed=False)[0].answers[0] is None


@pytest.mark.parametrize(("columns", "kind"), [
    (["text"], "text"), (["context", "question", "answers"], "questions"), (["context", "question", "text"], "questions"),
    (["context", "question", "options", "answer"], "choices"), (["question", "text"], "text"), ([], "text"),
    (["options", "text"], "text"),
])  # fmt: skip
def test_columns_tell_what_rows_are(columns, kind):
    assert kind_of(columns) == kind


def test_answers_go_by_the_id_of_a_row_where_it_has_its_own(tmp_path):
    rows = [{**RACE, "id": str(number), "question": f"{number}?"} for number in range(3)]
    (tmp_path / "a.jsonl").write_bytes(table(rows, "a.jsonl"))
    assert [article.questions for article in load_race(tmp_path / "a.jsonl")] == [["0?", "1?", "2?"]]  # to divide
    found = load_race(tmp_path / "a.jsonl", answers_needed=False)
    assert [(article.id, article.questions) for article in found] == [("0", ["0?"]), ("1", ["1?"]), ("2", ["2?"])]


# -- Splits ------------------------------------------------------------------------------------------------------------


def some_squad(name, questions=30):
    return [{"id": f"{name}{n}", "title": f"{name}{n}", "context": f"The cat sat on {name}{n}.", "question": "Who?",
             "answers": {"text": ["cat"], "answer_start": [4]}} for n in range(questions)]  # fmt: skip


def some_race(name, questions=30):
    return [{**RACE, "example_id": f"{name}{n}", "article": f"The cat {name}{n}"} for n in range(questions)]


@pytest.mark.parametrize(("files", "of_squad", "of_race"), [
    (("train", "validation"), ("train", "train", "validation"), ("train", "validation", "train")),  # the hub's SQuAD
    (("train", "valid"), ("train", "valid", "train"), ("train", "valid", "train")),
    (("train", "val"), ("train", "val", "train"), ("train", "val", "train")),
    (("train", "dev", "test"), ("train", "dev", "test"), ("train", "dev", "test")),
    (("all",), ("all", "all", "all"), ("all", "all", "all")),
    (("one", "two", "test"), ("one two", "one two", "test"), ("one two", "one two", "test")),
])  # fmt: skip
@pytest.mark.parametrize("form", ["{}.jsonl", "{}/a.jsonl", "{}-00000-of-00001.jsonl", "{}.jsonl/part-0.jsonl"])
def test_files_and_folders_are_the_split_that_they_are_called(write, places, files, of_squad, of_race, form):
    for make, load, expected in ((some_squad, load_squad_splits, of_squad), (some_race, load_race_splits, of_race)):
        name = write({form.format(file): table(make(file), "a.jsonl") for file in files}, make.__name__)
        found = load(name, places)
        for split, words in zip(SPLITS, expected, strict=True):
            ids = [one.id for one in (found[split].questions if load is load_squad_splits else found[split])]
            assert {id.rstrip("0123456789") for id in ids} <= set(words.split()) and ids


def test_several_files_of_a_split_are_read_one_after_the_other(write, places):
    parts = {f"train-0000{n}-of-00002.jsonl": table(some_squad(f"part{n}"), "a.jsonl") for n in range(2)}
    name = write({**parts, "test.jsonl": table(some_squad("test"), "a.jsonl")})
    found = load_squad_splits(name, places)
    assert {q.title[:5] for q in found["train"].questions} == {"part0", "part1"} and len(found["test"].questions) == 30


def test_a_set_of_rows_alone_is_divided_and_its_passages_are_text(write, places):
    name = f"{write({'mine.jsonl': table(some_squad('a'), 'a.jsonl')})}/mine.jsonl"
    assert kinds_of(name, places) == ["questions"]
    assert "The cat sat on a" in corpus_parts(name, "train", places)[0][0][0].read_text()
    assert kinds_of(name, Places(places.data, places.cache, "context")) == ["text"]


# -- Training and prediction -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [qa_task, race_task], ids=["qa", "race"])
def test_a_task_trains_on_rows_predicts_for_them_and_leaves_bad_ones_out(tmp_path, monkeypatch, capsys, task):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(toys.letters().tokens))
    make = some_squad if task is qa_task else some_race
    bad = {"answers": {"text": ["cat"], "answer_start": [5]}} if task is qa_task else {"answer": "C"}
    good = {f"{split}.jsonl": table(make(split), "") for split in ("dev", "test")}
    toys.write_all(tmp_path / "set", {"train.jsonl": mended(make("train"), **bad) + "{", **good})
    task.run(task.arguments([*TINY, *TRAIN, "--dataset", "set"]), Ranks())
    assert "2 of 31 questions left out as bad, the first: " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"train\.jsonl: line 2.* answer "):
        task.run(task.arguments([*TINY, *TRAIN, "--dataset", "set", "--strict"]), Ranks())
    rows = [{k: v for k, v in row.items() if k not in ("answer", "answers")} for row in make("test")]
    (tmp_path / "new.jsonl").write_bytes(table(rows, ""))
    task.run(task.arguments(["--predict", "new.jsonl", "--bert-model", "model.pt", "--output", "out.json", *TINY]), Ranks())
    assert set(json.loads((tmp_path / "out.json").read_text())) == {f"test{number}" for number in range(30)}


# -- What is not as it should be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "words"), [
    ({"id": None}, ["line 2: no 'id'; mend the file or leave the entry out"]),
    ({"context": 7}, ["line 2: 'context' is not a text"]),
    ({"question": None}, ["line 2, question a1: no 'question'"]),
    ({"answers": None}, ["line 2, question a1: no 'answers'"]),
    ({"answers": []}, ["line 2, question a1: 'answers' is not an object"]),
    ({"answers": {"text": ["cat"]}}, ["line 2, question a1: no 'answer_start'"]),
    ({"answers": {"text": ["cat"], "answer_start": []}}, ["answers with 1 text and 0 answer_start"]),
    ({"answers": {"text": ["cat"], "answer_start": ["4"]}}, ["'answer_start' is not a whole number"]),
    ({"answers": {"text": ["cat"], "answer_start": [5]}}, ["answer 'cat' does not stand at answer_start 5"]),
    ({"answers": {"text": [""], "answer_start": [5]}}, ["an answer without text"]),
    ({"is_impossible": True}, ["marked impossible, yet it has answers"]),
    ({"id": "a0"}, ["line 2, question a0: has the id of question 1 in ", "a.jsonl"]),
])  # fmt: skip
def test_a_bad_row_on_a_passage_is_told_with_file_and_line(tmp_path, columns, words):
    (tmp_path / "a.jsonl").write_text(mended(some_squad("a", 3), **columns))
    refused(lambda: load_squad(tmp_path / "a.jsonl"), "a.jsonl: line 2", *words)


@pytest.mark.parametrize(("columns", "words"), [
    ({"options": None, "choices": {"text": ["a", "b"]}}, ["no 'label'"]),
    ({"article": None, "question": None}, ["no column question or question_stem or sent2, nor an article"]),
    ({"options": None}, ["no column options or choices or ending0"]),
    ({"options": "ab"}, ["options not texts"]),
    ({"options": 7}, ["options not texts"]),
    ({"options": ["a", 1]}, ["options not texts"]),
    ({"options": ["a"]}, ["1 options; it must have 2 to 26"]),
    ({"answer": None}, ["no column answer or answerKey or label"]),
    ({"answer": "C"}, ["answer 'C'; it must be A or B"]),
    ({"answer": -1}, ["answer -1; it must be A or B"]),
    ({"answer": True}, ["answer True; it must be A or B"]),
    ({"answer": [1]}, ["answer [1]; it must be A or B"]),
    ({"article": 1}, ["'article' is not a text"]),
    ({"example_id": "a0"}, ["has the id a0 of", "line 1, and another article; give each article its own"]),
])  # fmt: skip
def test_a_bad_row_with_options_is_told_with_file_and_line(tmp_path, columns, words):
    (tmp_path / "a.jsonl").write_text(mended(some_race("a", 3), **columns))
    refused(lambda: load_race(tmp_path / "a.jsonl"), "a.jsonl: line 2", *words)


def test_a_row_of_parquet_is_told_by_its_number(tmp_path):
    rows = some_squad("a", 3)
    rows[2]["answers"] = {"text": ["dog"], "answer_start": [4]}
    (tmp_path / "a.parquet").write_bytes(table(rows, "a.parquet"))
    refused(lambda: load_squad(tmp_path / "a.parquet"), "a.parquet: row 3, question a2: answer 'dog' does not stand")


def test_no_rows_are_no_questions(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    refused(lambda: load_squad(tmp_path / "a.jsonl"), "a.jsonl: holds no question")


@pytest.mark.parametrize("own", [{}, {"id": "0"}])
def test_articles_to_train_on_may_have_one_id_and_those_to_score_may_not(write, places, own):
    """As shards of one name have where rows have no ids, and those that each count from 0."""
    def shard(word):
        asked = {"question": "who?", "options": ["a", "b"], "answer": 0, **own}
        return "".join(json.dumps({"article": f"the {word} {n}", **asked}) + "\n" for n in range(1 if own else 3))

    shards = {f"{folder}/part.jsonl": shard(word) for folder, word in (("train/a", "cat"), ("train/b", "dog"))}
    name = write({**shards, "valid/v.jsonl": shard("mat"), "test/t.jsonl": shard("red")})
    articles = load_race_splits(name, places, "all")["train"]
    assert len(articles) == (2 if own else 6) and len({article.id for article in articles}) == len(articles)
    refused(lambda: load_race([places.data.parent / "mine" / path for path in shards]), "has the id", "another article")


def test_what_is_set_aside_of_articles_of_one_id_is_the_same_wherever_they_lie(write, places, tmp_path, monkeypatch):
    files = {f"{name}.jsonl": "".join(json.dumps(
        {"id": str(number), "article": f"the {name} {number}", "question": "who?", "options": ["a", "b"], "answer": 0})
        + "\n" for number in range(20)) for name in ("cat", "dog")}  # fmt: skip
    write(files, "here"), write(files, "elsewhere")
    monkeypatch.chdir(tmp_path)
    tests = [sorted(article.text for article in load_race_splits(name, places)["test"])
             for name in ("here", str(tmp_path / "elsewhere"))]  # fmt: skip
    assert tests[0] == tests[1] != []


@pytest.mark.parametrize("answers, refused_", [([1, 2, 3, 4], True), ([1, 2, 3, 3], False), ([0, 1, 2, 4], False)])
def test_answers_that_count_from_one_are_refused_even_where_bad_rows_are_left_out(tmp_path, answers, refused_):
    rows = [{"id": str(number), "article": "a", "question": f"{number}?", "options": list("abcd"), "answer": answer}
            for number, answer in enumerate(answers)]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if refused_:
        refused(lambda: load_race(tmp_path / "a.jsonl", skip=print), "line 4", "count from 1")
    else:
        assert sum(len(article.questions) for article in load_race(tmp_path / "a.jsonl", skip=print)) in (3, 4)
