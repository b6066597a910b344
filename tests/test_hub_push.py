"""Models to the hub: what lies there then is what was here, with a card, and what goes wrong is one line."""

import json

import pytest
import torch
import toys
from loopback_hub import TOKEN

import checkpoint
from checkpoint import load_model, save_model
from formats.card import card
from model import TASKS, BertConfig, QuestionAnswerTask


@pytest.fixture
def model(here):
    """A small model with notes, in qa_model.pt."""
    torch.manual_seed(0)
    made = QuestionAnswerTask(BertConfig(len(toys.LETTERS), 32, 1, 2, max_position_embeddings=64))
    save_model("qa_model.pt", made, toys.LETTERS, {"bptt": 64, "null_threshold": 0.5})
    return made


@pytest.fixture
def push(monkeypatch):
    def push(*words):
        monkeypatch.setattr("sys.argv", ["checkpoint.py", "push", "qa_model.pt", *words])
        checkpoint.main()

    return push


def test_what_is_pushed_can_be_taken_by_its_name(hub, here, model, run_script, monkeypatch):
    done = run_script("checkpoint.py", "push", "qa_model.pt", "someone/mine", "--private",
                      **hub.environment(here, HF_TOKEN=TOKEN))  # fmt: skip
    assert f"{hub.address}/someone/mine\n" in done.stdout
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    asked = hub.created["someone/mine"]  # in the words of older clients, or of newer ones
    assert asked.get("private") is True or asked.get("visibility") == "private"
    files = hub.content["models", "someone/mine", "main"]
    assert set(files) == {"README.md", "config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}
    again, _ = load_model(QuestionAnswerTask, "someone/mine")
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))


def test_what_another_model_left_there_goes_lest_it_be_taken_for_this_ones(hub, here, model, run_script, monkeypatch):
    left = {"spiece.model": b"", "tokenizer.json": b"{}", "vocab.txt": b"a", "notes.txt": b"kept",
            "checkpoint-1/model.safetensors": b"kept", "training_args.bin": b"kept", "pytorch_model.bin": b""}  # fmt: skip
    hub.put("someone/mine", left)
    run_script("checkpoint.py", "push", "qa_model.pt", "someone/mine", **hub.environment(here, HF_TOKEN=TOKEN))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    files = hub.content["models", "someone/mine", "main"]
    assert not {"spiece.model", "tokenizer.json", "pytorch_model.bin"} & set(files)
    assert [files[name] for name in ("notes.txt", "checkpoint-1/model.safetensors", "training_args.bin")] == [b"kept"] * 3
    assert files["vocab.txt"] != b"a" and load_model(QuestionAnswerTask, "someone/mine")


def test_the_card_tells_what_file_and_run_know(here, model, push, capsys):
    toys.write_all(here / "run", {"result.json": {"dataset": "SQuAD1", "steps": 7, "exact": 61.23456, "f1": 70.5}})
    push("someone/mine", "--run", "run", "--dry-run")
    assert "mine: written, nothing sent" in capsys.readouterr().out
    text = (here / "mine" / "README.md").read_text()
    for told in ("pipeline_tag: question-answering\n---\n", "| network | BERT, 1 layers of 32, 2 heads, ",
                 "| vocabulary | uncased wordpiece, ", "| noted in training: bptt | 64 |", "| dataset | SQuAD1 |",
                 "| exact on test | 61.235 |", 'AutoModelForQuestionAnswering.from_pretrained("someone/mine")',
                 " --bert-model someone/mine --bptt 64 --null-threshold 0.5\n"):  # fmt: skip
        assert told in text, text
    load_model(QuestionAnswerTask, here / "mine")


@pytest.mark.parametrize("task", [*TASKS, None])
def test_each_model_has_a_card(task):
    content = {"task": task, "config": BertConfig(len(toys.LETTERS), 32, 1, 2), "tokenizer": toys.LETTERS.state(),
               "body": {}, "heads": {} if task is None else {task: {}}, "notes": {}}  # fmt: skip
    text = card(content, "someone/mine", {})
    assert text.startswith("---\nlibrary_name: transformers\n") and "someone/mine" in text.split("scripts")[1]


@pytest.mark.parametrize("share, named", [(False, "AutoModelForNextSentencePrediction"), (True, "AutoModelForPreTraining")])
def test_the_card_of_a_next_sentence_model_names_a_class_that_there_is(share, named):
    config = BertConfig(len(toys.LETTERS), 32, 2, 2, share_layers=share)
    content = {"task": "NextSentenceTask", "config": config, "tokenizer": toys.LETTERS.state(), "body": {},
               "heads": {"NextSentenceTask": {}}, "notes": {}}  # fmt: skip
    assert f'{named}.from_pretrained("someone/mine")' in card(content, "someone/mine", {})


def test_what_cannot_be_sent_is_one_line(hub, here, model, push, monkeypatch):
    for name in ("mine", "a/b/c", "./mine", "a/b@main"):
        toys.refused(lambda name=name: push(name), f"{name}: no name to push to; write owner/name")
    toys.refused(lambda: push("someone/mine"), "someone/mine: not sent, http://127.0.0.1", "(HTTP 401)", "HF_TOKEN")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    toys.refused(lambda: push("someone/mine"), "someone/mine: not sent (", "--dry-run")
    (here / "mine").mkdir()
    (here / "mine" / "file").write_text("")
    toys.refused(lambda: push("someone/mine", "--dry-run"), "mine: exists already")
    (here / "run").mkdir()
    (here / "run" / "result.json").write_text(json.dumps([]))
    toys.refused(lambda: push("someone/other", "--run", "gone", "--dry-run"), "gone/result.json: cannot be read")
