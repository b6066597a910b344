"""Data sets of the hub by name, with its real client and a hub on loopback, and tasks that take all by name."""

import pytest
import toys
from loopback_hub import tiny
from test_question_tables import some_race, some_squad
from test_tables import table

from text import hub_sets
from text.corpus import corpus_parts
from text.places import Places, kinds_of
from text.questions import load_race_splits, load_squad_splits

pytestmark = pytest.mark.usefixtures("here")
pytest.importorskip("pyarrow")
SQUAD = {f"plain_text/{name}-00000-of-00001.parquet": table(some_squad(name), ".parquet")
         for name in ("train", "validation")}  # fmt: skip
RACE = {f"{level}/{name}-00000-of-00001.parquet": table(some_race(level + name), ".parquet")
        for level in ("high", "middle") for name in ("train", "validation", "test")}  # fmt: skip


@pytest.fixture
def given(hub, here):
    """``given(files, name, revision)`` puts a set there, and gives where its files are looked for."""

    def given(files, name="someone/set", revision="main"):
        hub.put(name, {"README.md": b""}, "datasets")
        hub.put(name, files, "datasets", revision)
        return Places(here / "data", here / "cache")

    return given


def ids(squad):
    return {question.id.rstrip("0123456789") for question in squad.questions}


def test_a_set_by_name_has_its_named_splits(given, hub):
    places = given({**SQUAD, "more.csv": b"a"})
    assert kinds_of("hub:someone/set", places) == ["questions"]
    found = load_squad_splits("hub:someone/set", places)  # the hub's squad: what it calls validation is SQuAD's dev
    assert {split: ids(squad) for split, squad in found.items()} == {
        "train": {"train"}, "valid": {"train"}, "test": {"validation"}}  # fmt: skip
    assert not [line for line in hub.asked if "more.csv" in line]


@pytest.mark.parametrize("name", ["{}.parquet", "data/{}-00000-of-00001.parquet", "data/{}/a.parquet",
                                  "default/{}/0000.parquet"])  # fmt: skip
def test_the_layouts_that_sets_have(given, name):
    places = given({name.format(split): table(some_race(split), ".parquet") for split in ("train", "dev", "test")})
    found = load_race_splits("hub:someone/set", places)
    assert [found[split][0].id for split in ("train", "valid", "test")] == ["train0", "dev0", "test0"]


def test_what_the_hub_has_made_itself_serves_where_there_is_no_parquet(given):
    rows = {f"default/{split}/0000.parquet": table(some_race(split), ".parquet") for split in ("train", "dev", "test")}
    found = load_race_splits("hub:someone/set", given(rows, revision=hub_sets.CONVERTED))
    assert found["test"][0].id == "test0"


@pytest.mark.parametrize("revision", ["main", hub_sets.CONVERTED])
def test_what_was_fetched_serves_without_a_network(given, hub, revision):
    rows = {f"default/{split}/0000.parquet": table(some_race(split), ".parquet") for split in ("train", "dev", "test")}
    places = given(rows, revision=revision)
    before = load_race_splits("hub:someone/set", places)
    cut(hub)
    assert load_race_splits("hub:someone/set", places) == before


def test_a_part_of_a_set_is_not_taken_for_the_whole_without_a_network(given, hub):
    rows = {f"data/train-0000{number}-of-00003.parquet": table(some_race("train"), ".parquet") for number in range(3)}
    places = given(rows)
    load_race_splits("hub:someone/set", places)
    next((places.cache.parent / "hf").rglob("snapshots/*/data/train-00001-of-00003.parquet")).unlink()
    cut(hub)
    toys.refused(lambda: load_race_splits("hub:someone/set", places),
                 "--dataset hub:someone/set: the cache has 2 of the 3 files of train; fetch the rest")  # fmt: skip


def cut(hub):
    """From here on the hub is out of reach."""
    hub.server.shutdown()
    hub.server.server_close()
    hub_sets.fetched.cache_clear()


def test_of_several_configurations_one_is_named(given):
    places = given(RACE)
    found = load_race_splits("hub:someone/set/middle", places)
    assert {article.id[:6] for articles in found.values() for article in articles} == {"middle"}
    toys.refused(lambda: kinds_of("hub:someone/set", places), "--dataset hub:someone/set: it has several configurations; "
                 "name one of high, middle, such as hub:someone/set/high")  # fmt: skip
    toys.refused(lambda: kinds_of("hub:someone/set/all", places), "no configuration all; name one of high, middle")
    toys.refused(lambda: kinds_of("hub:someone/set@main", places), "such as hub:someone/set/high@main")


def test_text_is_text(given):
    rows = {f"data/{split}.parquet": table([{"text": f"The cat {split} {n}."} for n in range(9)], ".parquet")
            for split in ("train", "test")}  # fmt: skip
    places = given(rows)
    assert kinds_of("hub:someone/set", places) == ["text"]
    assert "The cat test 0." in corpus_parts("hub:someone/set", "test", places)[0][0][0].read_text()


@pytest.mark.parametrize("hidden", [lambda row: {**row, "answer": ""},
                                    lambda row: {name: row[name] for name in row if name != "answer"}])  # fmt: skip
def test_a_test_split_with_secret_answers_is_left_out(given, capsys, hidden):
    secret = [hidden(row) for row in some_race("secret")]
    places = given({f"data/{split}.parquet": table(rows, ".parquet") for split, rows in (
        ("train", some_race("train")), ("validation", some_race("valid")), ("test", secret))})  # fmt: skip
    found = load_race_splits("hub:someone/set", places)
    assert found["valid"][0].id == "valid0" and found["test"][0].id.startswith("train")
    assert "hub:someone/set: its test split has no answers, and is left out" in capsys.readouterr().err


@pytest.mark.parametrize("answers", [{"text": [], "answer_start": []}, {"text": [""], "answer_start": [-1]}], ids=str)
def test_a_test_split_in_which_no_question_has_an_answer_is_left_out(given, capsys, answers):
    secret = [{**row, "answers": answers} for row in some_squad("secret")]
    places = given({f"data/{split}.parquet": table(rows, ".parquet") for split, rows in (
        ("train", some_squad("train")), ("validation", some_squad("valid")), ("test", secret))})  # fmt: skip
    found = load_squad_splits("hub:someone/set", places)
    assert "secret" not in ids(found["test"]) and len(found["test"].questions)
    assert "hub:someone/set: its test split has no answers, and is left out" in capsys.readouterr().err


def test_what_is_not_to_be_had_is_one_line(given):
    places = given({"train.csv": b"a,b"})
    for name, told in (("hub:someone/set", "--dataset hub:someone/set: no .parquet files"),
                       ("hub:someone/none", "--dataset hub:someone/none: http://127.0.0.1"),
                       ("hub:someone/set@v2", "has no such revision"), ("hub:a/b/c/d", "too many slashes"),
                       ("hub:", "no name of the hub")):  # fmt: skip
        toys.refused(lambda name=name: kinds_of(name, places), told)


@pytest.mark.parametrize("task", ["qa", "race"])
def test_a_task_takes_model_and_set_by_name_in_one_command(hub, here, run_script, task):
    hub.put("someone/tiny", tiny(here))
    hub.put("someone/squad", SQUAD, "datasets")
    hub.put("someone/race", RACE, "datasets")
    done = run_script(f"{task}_task.py", "--bert-model", "someone/tiny", "--dataset",
                      {"qa": "hub:someone/squad", "race": "hub:someone/race/high"}[task],
                      *"--steps 2 --bptt 64 --batch-size 4 --log-interval 1".split(), **hub.environment(here))  # fmt: skip
    assert "someone/tiny: new: the head of " in done.stdout and "| End of training | test loss" in done.stdout
    assert (here / f"{task}_model.pt").is_file()
    assert "Traceback" not in done.stderr
