"""The threshold from which an answer is withheld: who finds one, and the flag that overrides it."""

import json
from types import SimpleNamespace

import pytest
import torch
import toys

import qa_task
from checkpoint import read_model, save_model
from files.mistakes import UserError
from model import BertConfig, QuestionAnswerTask
from training.ranks import Ranks

TINY = "--bptt 64 --batch-size 8 --precision fp32 --cache-dir cache --log-dir run".split()
TRAIN = "--bert-model none --nlayers 1 --emsize 32 --nhead 2 --steps 2 --vocab vocab.txt --tokenizer wordpiece".split()


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """``call("--evaluate")`` runs qa_task.py with these flags, in this process; gives what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(toys.letters().tokens))

    def run(flags):
        qa_task.run(qa_task.arguments([*TINY, *flags.split()]), Ranks())
        return capsys.readouterr().out

    return run


def write_set(folder, impossible):
    """A set laid out as 2.0, each question with is_impossible."""
    folder.mkdir()
    for part, seed in (("train", 1), ("dev", 2)):
        squad = toys.squad(seed, contexts=8, words=60, impossible=impossible)
        (folder / f"{part}.json").write_text(json.dumps(toys.as_json(squad)))


def write_plain(path, seed):
    """A file as 1.1 has it: every question has an answer, and none says so."""
    records = toys.as_json(toys.squad(seed, contexts=8, words=60, impossible=False))
    for question in [q for article in records["data"] for part in article["paragraphs"] for q in part["qas"]]:
        question.pop("is_impossible", None)
    path.write_text(json.dumps(records))


@pytest.mark.parametrize("impossible", [False, True])
def test_only_a_training_set_with_impossible_questions_gives_a_threshold(call, tmp_path, impossible):
    write_set(tmp_path / "set", impossible)
    call(" ".join(["--dataset set", *TRAIN]))
    assert ("null_threshold" in read_model("qa_model.pt")["notes"]) == impossible
    figures = json.loads((tmp_path / "run/result.json").read_text())
    assert {"HasAns_f1", "best_f1", "best_f1_thresh"} <= set(figures)  # as the official script has them of such a file
    call("--predict set/dev.json --output out.json")
    if not impossible:
        assert all(json.loads((tmp_path / "out.json").read_text()).values())
        call("--evaluate --dataset set")
        scored = json.loads((tmp_path / "run/evaluation.json").read_text())
        assert scored["exact"] == figures["exact"] == scored["HasAns_exact"]


def test_the_threshold_that_is_found_leaves_room_on_both_sides():
    squad, found = toys.squad(contexts=5), {}
    for number, question in enumerate(squad.questions):  # all are answered right, by logits of 18 on either side
        text, start = question.answers[0] if question.answers else ("", 0)
        null = -9.0 if question.answers else 9.0
        found[number] = (null, null), [(0.0, 0.0, start, start + len(text))]
    scores = qa_task.official(SimpleNamespace(squad=squad), found, None, find_threshold=True)
    assert scores["f1"] == scores["best_f1"] == 100 and scores["best_f1_thresh"] < 1e-7
    assert scores["null_threshold"] == pytest.approx(0.5)


@pytest.mark.parametrize("answered", [True, False])
def test_a_few_examples_that_all_have_answers_or_all_none_withhold_none(answered):
    squad, found = toys.squad(contexts=5), {}
    for number, question in enumerate(squad.questions):
        if bool(question.answers) == answered:  # by small odds, those answered wrong are what a threshold would cut off
            found[number] = (-1.0, -1.0), [(0.0, 0.0, 0, 1)]
    assert squad.with_impossible and 0 < len(found) < len(squad.questions)
    scores = qa_task.official(SimpleNamespace(squad=squad), found, None, find_threshold=True)
    assert scores["null_threshold"] == 1.0


@pytest.mark.parametrize("layout", ["1.1", "2.0"])
def test_validation_questions_that_all_have_answers_give_no_threshold_which_is_told(call, tmp_path, monkeypatch, layout):
    told = []
    monkeypatch.setattr(qa_task, "warn", told.append)
    write_set(tmp_path / "set", True)
    write_plain(tmp_path / "set/valid.json", 2)
    if layout == "2.0":
        answerable = toys.as_json(toys.squad(2, contexts=8, words=60, impossible=False))
        (tmp_path / "set/valid.json").write_text(json.dumps(answerable))
    call(" ".join(["--dataset set", *TRAIN]))
    assert "null_threshold" not in read_model("qa_model.pt")["notes"]
    assert "no threshold is found for withholding one; give --null-threshold" in told[0]


def test_validation_questions_of_which_none_has_an_answer_choose_no_model(call, tmp_path):
    write_set(tmp_path / "set", True)
    records = toys.as_json(toys.squad(2, contexts=8, words=60))
    for paragraph in (paragraph for article in records["data"] for paragraph in article["paragraphs"]):
        paragraph["qas"] = [question for question in paragraph["qas"] if not question["answers"]]
    (tmp_path / "set/valid.json").write_text(json.dumps(records))
    with pytest.raises(UserError, match="no question of the validation set has an answer"):
        call(" ".join(["--dataset set", *TRAIN]))


@pytest.fixture
def models(tmp_path):
    """Two models, of which one holds a threshold."""
    for name, notes in (("a", {"null_threshold": 0.5}), ("b", {})):
        torch.manual_seed(ord(name))
        config = BertConfig(len(toys.letters()), 32, 1, 2, max_position_embeddings=128)
        save_model(tmp_path / f"{name}.pt", QuestionAnswerTask(config), toys.letters(), notes)
    write_set(tmp_path / "set", True)
    (tmp_path / "text.txt").write_text("the cat sat on the mat.")


@pytest.mark.parametrize("names", ["a.pt", "b.pt", "a.pt b.pt"])
def test_a_flag_overrides_the_threshold(call, models, tmp_path, names):
    def empty(threshold):
        call(f"--predict set/dev.json --output out.json --bert-model {names} --null-threshold {threshold}")
        return {not text for text in json.loads((tmp_path / "out.json").read_text()).values()}

    assert (empty(0), empty(1)) == ({True}, {False})
    for threshold, score in ((0, 100.0), (1, 0.0)):
        call(f"--evaluate --dataset set --bert-model {names} --null-threshold {threshold}")
        scored = json.loads((tmp_path / "run/evaluation.json").read_text())
        assert scored["NoAns_exact"] == score
        shown = [one["answer"] for one in scored["examples"]]
        assert set(map(bool, shown)) == {bool(threshold)}
        printed = call(f"--ask Who? --context text.txt --bert-model {names} --null-threshold {threshold}")
        assert ("none in this text" in printed) == (threshold == 0)


@pytest.mark.parametrize("names", ["a.pt", "b.pt"])
def test_where_every_question_has_an_answer_it_withholds_as_well(call, models, tmp_path, names):
    (tmp_path / "plain").mkdir()
    for part, seed in (("train", 1), ("dev", 2)):
        write_plain(tmp_path / f"plain/{part}.json", seed)
    for threshold in (0, 1):
        call(f"--evaluate --dataset plain --bert-model {names} --null-threshold {threshold}")
        scored = json.loads((tmp_path / "run/evaluation.json").read_text())
        assert {bool(one["answer"]) for one in scored["examples"]} == {bool(threshold)}
        assert (scored["f1"] > 0) == bool(threshold)


def test_the_flag_is_for_a_trained_model_and_a_probability(capsys):
    with pytest.raises(UserError, match=r"--null-threshold 0\.5: training finds its own; add --predict"):
        qa_task.arguments(["--null-threshold", "0.5"])
    with pytest.raises(SystemExit):
        qa_task.arguments(["--evaluate", "--null-threshold", "nan"])
    assert "nan is not from 0 to 1" in capsys.readouterr().err
