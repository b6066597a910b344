"""Bad records of questions: left out of a training set with a word, refused where scores are made, of no concern to
predictions that do not need them."""

import json

import pytest
import toys
from toys import write_articles

import qa_task
import race_task
from files.mistakes import UserError
from text.places import Places
from text.questions import load_race, load_race_splits, load_squad, load_squad_splits
from training.ranks import Ranks

TINY = "--bptt 64 --batch-size 8 --precision fp32 --cache-dir cache --log-dir run --save model.pt".split()
TRAIN = "--bert-model none --nlayers 1 --emsize 32 --nhead 2 --steps 1 --vocab vocab.txt --tokenizer wordpiece".split()


def squad_file(path, *changes):
    """A SQuAD file of 24 questions; the n-th change is done to the n-th article, of four questions."""
    data = toys.as_json(toys.squad(words=60, impossible=False))
    for article, change in zip(data["data"], changes, strict=False):
        change(article["paragraphs"][0])
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def shifted(paragraph):
    paragraph["qas"][1]["answers"][0]["answer_start"] = -1


def repeated(paragraph):
    paragraph["qas"][2]["id"] = paragraph["qas"][0]["id"]


def race_folder(folder, change=lambda record: None, count=3):
    """RACE's train, dev and test; the change is done to the first article of train."""
    for split in ("train", "dev", "test"):
        write_articles(folder / split, toys.articles(count=count, words=40))
    path = folder / "train" / "high" / "1.txt"
    path = path if path.exists() else sorted((folder / "train").rglob("*.txt"))[0]
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return path


# Training


def test_in_training_an_id_that_stands_twice_is_told_and_loses_no_question(tmp_path):
    told, path = [], squad_file(tmp_path / "train.json", repeated)
    found = load_squad(path, training=True, skip=told.append)
    assert len({question.id for question in found.questions}) == 24
    (line,) = told
    assert line.startswith(f"1 ids stand twice, the first: {path}: article 1 (0), paragraph 1, question q0-0: ")


def test_a_few_bad_records_are_left_out_of_training_and_told_in_one_line(tmp_path):
    told, path = [], squad_file(tmp_path / "train.json", shifted, lambda paragraph: paragraph.pop("context"))
    found = load_squad(path, training=True, skip=told.append)
    assert [q.id for q in found.questions if q.id[1] in "012"] == ["q0-0", "q0-2", "q0-3", "q2-0", "q2-1", "q2-2", "q2-3"]
    assert len(found.questions) == 24 - 1 - 4
    (line,) = told
    assert line.startswith("1 of 20 questions and 1 of 6 paragraphs left out as bad, the first: ")
    assert f"{path}: article 1 (0), paragraph 1, question q0-1: answer " in line and "--strict" in line


def test_bad_questions_and_articles_of_race_are_left_out_of_training_alone(tmp_path):
    places, told = Places(tmp_path, tmp_path), []
    path = race_folder(tmp_path / "set", lambda record: record["answers"].__setitem__(1, "F"))
    (tmp_path / "set" / "train" / "broken.txt").write_text("{")
    splits = load_race_splits(str(tmp_path / "set"), places, skip=told.append)
    assert [sum(len(article.questions) for article in found) for found in splits.values()] == [5, 6, 6]
    assert all(len(a.questions) == len(a.options) == len(a.answers) for a in splits["train"])
    (line,) = told
    assert "1 of 4 articles" in line and "1 of 6 questions" in line and "broken JSON at line 1" in line
    with pytest.raises(UserError, match="broken JSON"):
        load_race_splits(str(tmp_path / "set"), places)
    path.write_text("{"), path.rename(tmp_path / "set" / "test" / "broken.txt")
    with pytest.raises(UserError, match=r"test/broken\.txt: broken JSON"):
        load_race_splits(str(tmp_path / "set"), places, skip=told.append)


def test_a_set_of_mostly_bad_records_is_refused(tmp_path):
    bad = [lambda paragraph: [question.update(answers=[]) for question in paragraph["qas"]]] * 4
    with pytest.raises(UserError, match=r"q0-0: no answer, .* \(16 of 24 questions are bad, too many to leave out\)"):
        load_squad(squad_file(tmp_path / "train.json", *bad), training=True, skip=pytest.fail)
    race_folder(tmp_path / "set", lambda record: record.pop("article"), count=1)
    with pytest.raises(UserError, match=r"no 'article'; .* \(1 of 1 articles are bad, too many to leave out\)"):
        load_race(tmp_path / "set" / "train", skip=pytest.fail)


@pytest.mark.parametrize("task", [qa_task, race_task], ids=["qa", "race"])
def test_training_leaves_them_out_unless_it_is_strict(tmp_path, monkeypatch, capsys, task):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(toys.letters().tokens))
    if task is qa_task:
        squad_file(tmp_path / "set" / "train.json", shifted), squad_file(tmp_path / "set" / "dev.json")
    else:
        race_folder(tmp_path / "set", lambda record: record["answers"].__setitem__(1, "F"))
    task.run(task.arguments([*TINY, *TRAIN, "--dataset", "set"]), Ranks())
    error = capsys.readouterr().err
    assert error.count("warning: 1 of ") == 1 and "train" in error
    with pytest.raises(UserError, match=r"does not stand at answer_start -1|answer 'F'"):
        task.run(task.arguments([*TINY, *TRAIN, "--dataset", "set", "--strict"]), Ranks())


# Scoring


def test_a_bad_record_among_what_is_scored_is_refused(tmp_path):
    squad_file(tmp_path / "train.json"), squad_file(tmp_path / "dev.json", shifted)
    with pytest.raises(UserError, match=r"dev\.json: .* q0-1: answer .* does not stand"):
        load_squad_splits(str(tmp_path), Places(tmp_path, tmp_path), skip=pytest.fail)


@pytest.mark.parametrize("answers_needed", [True, False])
def test_an_id_that_two_questions_have_is_told_since_answers_go_by_id(tmp_path, answers_needed):
    with pytest.raises(UserError, match=r"paragraph 1, question q0-0: has the id of question 1 in .*json: article 1 "):
        load_squad(squad_file(tmp_path / "file.json", repeated), answers_needed)


# Prediction


@pytest.mark.parametrize("change", [
    shifted, lambda paragraph: paragraph["qas"][0]["answers"][0].pop("answer_start"),
    lambda paragraph: paragraph["qas"][0].update(answers=None), lambda paragraph: paragraph["qas"][0].update(answers=7),
    lambda paragraph: paragraph["qas"][0].update(is_impossible=True),
])  # fmt: skip
def test_predictions_need_no_answers_right_or_wrong(tmp_path, change):
    found = load_squad(squad_file(tmp_path / "file.json", change), answers_needed=False)
    assert len(found.questions) == 24 and not any(question.answers for question in found.questions)


@pytest.mark.parametrize("answers", [[], None, ["F", "A"], ["A"], [1, 2]], ids=str)
def test_predictions_for_race_need_no_answers_right_or_wrong(tmp_path, answers):
    race_folder(tmp_path / "set", lambda record: record.update(answers=answers))
    found = load_race(tmp_path / "set" / "train", answers_needed=False)
    assert [article.answers for article in found] == [[None, None]] * 3


def test_an_id_may_be_a_number_and_becomes_a_text(tmp_path):
    path = squad_file(tmp_path / "file.json", lambda paragraph: paragraph["qas"][0].update(id=17))
    assert [load_squad(path, needed).questions[0].id for needed in (True, False)] == ["17", "17"]
