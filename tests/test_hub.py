"""Models of the hub by name, with its real client and a hub on loopback."""

import json
import subprocess
import sys

import pytest
import torch
import toys
from conftest import ROOT
from loopback_hub import TOKEN, tiny

from checkpoint import load_body, load_model
from files.hub import is_name
from formats import by_name
from model import QuestionAnswerTask

pytest.importorskip("huggingface_hub")
NAMES = ["bert-base-uncased", "google-bert/bert-base-uncased", "a/b@v1.5", "a/b@refs/pr/1", "BAAI/bge-small-en-v1.5",
         "hub:a/b", "hub:data/b"]  # fmt: skip
PATHS = ["my_model.pt", "gone/qa_model.pt", "runs/qa/model", "./bert", "../bert", "/bert", "~/bert", "bert/", "data/bert",
         "bert.bin", "texts.tar.gz", "bert_model.ckpt", "data", "a b", "", "model.safetensors"]  # fmt: skip


def same(one, other):
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def refused(name, *words, load=load_body):
    toys.refused(lambda: load(QuestionAnswerTask, name), *words)


# What is a name


@pytest.mark.parametrize("text", NAMES)
def test_what_is_a_name(here, text):
    assert is_name(text)


@pytest.mark.parametrize("text", PATHS)
def test_what_is_a_path(here, text):
    assert not is_name(text)


def test_a_path_object_is_a_path(here):
    assert not is_name(here / "bert") and not is_name(here.relative_to(here) / "bert")


def test_what_lies_here_comes_before_the_hub_unless_one_says_so(here):
    (here / "bert-base-uncased").mkdir()
    assert not is_name("bert-base-uncased") and is_name("hub:bert-base-uncased")


# Fetching


def test_a_name_gives_the_model_and_only_what_is_read_is_fetched(hub, here, capsys):
    files = tiny(here)
    more = {"pytorch_model.bin": b"1", "tf_model.h5": b"2", "onnx/model.onnx": b"3", "tokenizer.json": b"4"}
    hub.put("someone/tiny", {**files, **more})
    model, tokenizer = load_model(QuestionAnswerTask, "someone/tiny")
    own, _ = load_model(QuestionAnswerTask, here / "made")
    assert same(model, own)
    assert tokenizer.fingerprint == toys.letters().fingerprint
    wanted = {"config.json", "model.safetensors", "tokenizer_config.json", "tokenizer.json", "vocab.txt"}
    assert {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line} == wanted
    asked = len(hub.asked)
    load_model(QuestionAnswerTask, "someone/tiny")  # the same process does not ask again
    assert len(hub.asked) == asked


@pytest.mark.parametrize("layout", [*by_name.WEIGHTS[1:]])
def test_weights_in_parts_and_torchs_own_are_fetched(hub, here, layout):
    hub.put("someone/tiny", tiny(here, layout))
    assert same(load_model(QuestionAnswerTask, "someone/tiny")[0], load_model(QuestionAnswerTask, here / "made")[0])


def test_a_revision_is_one_of_that_name(hub, here):
    hub.put("someone/tiny", {"config.json": b"{}"})
    hub.put("someone/tiny", tiny(here), revision="v1")
    assert load_model(QuestionAnswerTask, "someone/tiny@v1")
    refused("someone/tiny@v2", "someone/tiny@v2: http://127.0.0.1", "no such revision", load=load_model)


def test_what_was_fetched_serves_without_a_network(hub, here, capsys):
    hub.put("someone/tiny", tiny(here))
    load_model(QuestionAnswerTask, "someone/tiny")
    hub.server.shutdown()
    hub.server.server_close()
    by_name.fetched.cache_clear()
    assert load_model(QuestionAnswerTask, "someone/tiny")
    assert "someone/tiny: http://127.0.0.1" in (told := capsys.readouterr().err) and "taking what its cache has" in told


# What is not to be had, in one line


def test_a_name_that_the_hub_does_not_have(hub, here):
    refused("someone/none", "someone/none: no such file or folder here, and http://127.0.0.1", "has no such model",
            "check the spelling", "HF_TOKEN")  # fmt: skip


def test_one_that_wants_a_token(hub, here, monkeypatch):
    files = tiny(here)
    for name, kept in (("someone/private", hub.private), ("someone/gated", hub.gated)):
        hub.put(name, files)
        kept.add(name)
    refused("someone/private", "no such model, or a private one", "HF_TOKEN")
    refused("someone/gated", "someone/gated: http://127.0.0.1", "only to those who were let in", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("someone/private", "someone/gated"):
        assert load_model(QuestionAnswerTask, name)


def test_another_network_is_told_before_its_weights_are_fetched(hub, here):
    hub.put("someone/gpt", {"config.json": json.dumps({"model_type": "gpt2"}).encode(), "model.safetensors": b""})
    refused("someone/gpt", "someone/gpt/config.json: model_type gpt2 is another network; known are bert, ")
    assert not [line for line in hub.asked if line.endswith("model.safetensors")]
    files = {**tiny(here), "merges.txt": b"", "vocab.json": b"{}"}
    del files["vocab.txt"]
    hub.put("someone/merges", files)
    refused("someone/merges", "holds no vocab.txt, spiece.model or tokenizer.json; make tokenizer.json, by transformers'")
    assert not [line for line in hub.asked if line.endswith("model.safetensors")]
    hub.put("someone/words", {"README.md": b""})
    refused("someone/words", "someone/words: holds no config.json")


def test_damage_is_told_with_the_name(hub, here):
    hub.put("someone/tiny", {**tiny(here), "model.safetensors": b"abc"})
    refused("someone/tiny", "someone/tiny/model.safetensors: not a whole safetensors file")


def test_without_a_network_a_name_is_told_with_what_cannot_be_reached(here, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused("someone/tiny", "someone/tiny: no such file or folder here, and http://127.0.0.1:9 cannot be reached (",
            "Connection refused", "HF_ENDPOINT")  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("someone/tiny", "nothing in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it")


def test_without_the_client_one_line_names_it(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("someone/tiny", "someone/tiny: is no file or folder here; for the hub: pip install huggingface_hub")


@pytest.mark.parametrize("path", ["my_model.pt", "./bert", "data/bert"])
def test_a_misspelt_path_asks_no_hub(hub, here, path):
    refused(path, f"{path.removeprefix('./')}: no such file")
    assert not hub.asked


# In one command


def test_a_wrong_name_and_no_network_are_one_line_of_a_command(hub, tmp_path, run_script):
    for address, told in ((hub.address, "has no such model"), ("http://127.0.0.1:9", "cannot be reached (")):
        done = run_script("checkpoint.py", "show", "someone/none", code=2,
                          **hub.environment(tmp_path, HF_ENDPOINT=address))  # fmt: skip
        assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_the_client_is_imported_when_a_name_is_asked_for():
    code = "import sys, checkpoint; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300).returncode == 0
