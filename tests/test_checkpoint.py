"""What checkpoint.py promises: what was saved comes back, what is damaged, foreign or hostile is refused in one line."""

import os
import pickle
import subprocess
import sys
import zipfile
from argparse import Namespace

import pytest
import torch
import toys
from conftest import ROOT

import heads
from checkpoint import load_body, load_model, read_model, save_as, save_model
from formats.huggingface import write_folder
from formats.shapes import body_shapes, head_shapes
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask

HEADS = [MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask]
LETTERS = toys.letters()


def make(task, **changes):
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=32)
    return task(BertConfig(len(LETTERS), **{**sizes, **changes})).eval()


def scores(model):
    ids = torch.arange(24).view(1, 4, 6) if isinstance(model, RaceTask) else torch.arange(24).view(4, 6)
    output = model.eval()(ids, attention_mask=torch.ones_like(ids))
    return torch.stack(output) if isinstance(output, tuple) else output


@pytest.fixture
def saved(tmp_path):
    """A good model file, and a function that writes it again with its content changed."""
    path = tmp_path / "model.pt"
    save_model(path, make(MLMTask), LETTERS, {"null_threshold": 0.25})

    def change(edit):
        content = torch.load(path, weights_only=True)
        edit(content)
        torch.save(content, path)
        return path

    return path, change


# What was saved comes back


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_model_comes_back_as_it_was_saved(head, norm_first, tmp_path):
    model = make(head, norm_first=norm_first, hidden_act="gelu_new")
    save_model(tmp_path / "model.pt", model, LETTERS, {"null_threshold": 0.25})
    loaded, tokenizer = load_model(head, tmp_path / "model.pt")
    assert torch.equal(scores(loaded), scores(model))
    assert loaded.bert.config == model.bert.config and loaded.notes == {"null_threshold": 0.25}
    assert tokenizer.fingerprint == LETTERS.fingerprint and tokenizer.encode_ids("the cat") == LETTERS.encode_ids("the cat")


def test_dropout_is_the_files_unless_given(tmp_path):
    save_model(tmp_path / "model.pt", make(MLMTask, hidden_dropout_prob=0.3), LETTERS)
    assert load_model(MLMTask, tmp_path / "model.pt")[0].bert.embedding.dropout.p == 0.3
    for load in (load_model, load_body):
        model, _ = load(MLMTask, tmp_path / "model.pt", 0.05)
        assert model.bert.embedding.dropout.p == model.bert.layers[1].attention.dropout == 0.05


@pytest.mark.parametrize("source", HEADS)
@pytest.mark.parametrize("target", HEADS)
def test_any_task_starts_from_any_body(source, target, tmp_path):
    model = make(source)
    save_model(tmp_path / "model.pt", model, LETTERS)
    started, _ = load_body(target, tmp_path / "model.pt")
    given, taken = model.bert.state_dict(), started.bert.state_dict()
    assert all(torch.equal(given[name], taken[name]) for name in given if name in taken)
    assert {name.split(".")[0] for name in set(given) ^ set(taken)} <= {"pooler"}


@pytest.mark.parametrize("changes", [
    {}, dict(norm_first=True), dict(share_layers=True, embedding_size=6), dict(tie_word_embeddings=False),
    dict(head="duma"), dict(head="dcmn", compare_options=True), dict(head="mix", mix_layers=2),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("head", HEADS)
def test_a_file_must_hold_the_weights_of_a_model_of_its_config(head, changes):
    model = make(head, **changes)
    shapes = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    body = body_shapes(model.bert.config, model.bert.pooler is not None)
    assert shapes == {f"bert.{name}": shape for name, shape in body.items()} | head_shapes(head.__name__, model.bert.config)


def test_models_are_read_without_sympy_which_takes_half_a_second_to_import(tmp_path):
    made = [make(head) for head in HEADS] + [make(RaceTask, head=head, mix_layers=2) for head in heads.HEADS]
    for number, model in enumerate(made):
        save_model(tmp_path / f"{number}.pt", model, LETTERS)
    paths = list(map(str, tmp_path.glob("*.pt")))
    code = f"import sys, checkpoint; list(map(checkpoint.read_model, {paths})); sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    path, _ = saved
    before = path.read_bytes()

    def break_off(content, stream):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(OSError):
        save_model(path, make(MLMTask), LETTERS)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["model.pt"]


# Weights in another precision


def saved_as(file, precision):
    new = file.parent / f"{precision}.pt"
    save_as(Namespace(file=file, new=new, precision=precision, save_vocab=None, nhead=None))
    return new


def dtypes(weights):
    return {weight.dtype for weight in weights}


@pytest.mark.parametrize("head", HEADS)
def test_a_file_in_bf16_gives_the_logits_of_the_model_with_its_weights_rounded(head, tmp_path):
    model = make(head)
    save_model(tmp_path / "model.pt", model, LETTERS, {"null_threshold": 0.25})
    narrow = saved_as(tmp_path / "model.pt", "bf16")
    assert dtypes(torch.load(narrow, weights_only=True)["body"].values()) == {torch.bfloat16}
    loaded, tokenizer = load_model(head, narrow)
    exact = scores(model)
    model.load_state_dict({name: weight.bfloat16().float() for name, weight in model.state_dict().items()})
    assert torch.equal(scores(loaded), scores(model)) and not torch.equal(scores(loaded), exact)
    assert loaded.notes == {"null_threshold": 0.25} and tokenizer.fingerprint == LETTERS.fingerprint
    wide, _ = load_model(head, saved_as(narrow, "fp32"))
    assert torch.equal(scores(wide), scores(loaded))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_whoever_starts_from_a_narrow_file_has_fp32_weights(precision, saved):
    narrow = saved_as(saved[0], precision)
    for model, _ in (load_model(MLMTask, narrow), load_body(NextSentenceTask, narrow)):  # the pooler is new
        assert dtypes(model.state_dict().values()) == {torch.float32}
    pytest.importorskip("safetensors")
    write_folder(read_model(narrow), narrow.parent / "folder")
    assert dtypes(read_model(narrow.parent / "folder")["body"].values()) == {torch.float32}


def test_a_folder_becomes_a_model_file_with_its_first_head_or_none(saved, capsys):
    pytest.importorskip("safetensors")
    content, folder = read_model(saved[0]), saved[0].parent
    pooled = make(NextSentenceTask)
    heads = {"MLMTask": content["head"], "NextSentenceTask": pooled.classifier.state_dict(prefix="classifier.")}
    write_folder({**content, "body": pooled.bert.state_dict(), "heads": heads}, folder / "two")
    write_folder({**content, "heads": {}}, folder / "none")
    assert list(read_model(saved_as(folder / "two", "bf16"))["heads"]) == ["MLMTask"]
    assert "not used: the head of NextSentenceTask" in capsys.readouterr().out
    bare = saved_as(folder / "none", "fp32")
    assert read_model(bare)["heads"] == {} and load_body(QuestionAnswerTask, bare)
    toys.refused(lambda: load_model(MLMTask, bare), "no head of a task here")


def test_weights_beyond_the_range_of_fp16_are_refused(saved):
    path, change = saved
    change(lambda content: content["head"]["bias"].fill_(1e5))
    refused(path, "bias has numbers that fp16 cannot hold", load=lambda path: saved_as(path, "fp16"))
    assert not (path.parent / "fp16.pt").exists()


# What is wrong with a file is told in one line


def refused(path, *words, load=lambda path: load_model(MLMTask, path)):
    toys.refused(lambda: load(path), str(path), *words)


def test_another_tasks_model_is_refused_by_name(saved):
    refused(saved[0], "MLMTask", "RaceTask", load=lambda path: load_model(RaceTask, path))


def test_a_missing_file_says_what_to_run_first(tmp_path):
    refused(tmp_path / "mlm_bert.pt", "no such file", "mlm_task.py", load=lambda path: load_body(NextSentenceTask, path))
    refused(tmp_path, "no such file")  # a folder


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, -1], ids=str)
def test_a_truncated_file_is_refused(saved, keep):
    path, _ = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(path)


def test_a_web_page_saved_under_the_name_is_refused(saved):
    saved[0].write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    refused(saved[0], "not a file that torch.save wrote")


@pytest.mark.parametrize("name, words", [
    ("body", ["lacks", "embedding.embed.weight"]), ("head", ["lacks", "transform.weight"]),
])  # fmt: skip
def test_a_missing_weight_is_named(saved, name, words):
    path, change = saved
    change(lambda content: content[name].pop(words[1]))
    refused(path, *words, "1 in all")


@pytest.mark.parametrize("name", ["body", "head"])
def test_a_left_over_weight_is_named(saved, name):
    path, change = saved
    change(lambda content: content[name].update(extra=torch.zeros(2)))
    refused(path, "left-over", "extra")


def test_a_weight_of_the_wrong_shape_is_named(saved):
    path, change = saved
    change(lambda content: content["body"].update({"layers.1.linear1.bias": torch.zeros(3)}))
    refused(path, "wrong shape", "layers.1.linear1.bias")


@pytest.mark.parametrize("edit, word", [
    (lambda c: c.pop("tokenizer"), "not a model file"), (lambda c: c.update(format=99), "99"),
    (lambda c: c["config"].update(num_attention_heads=3), "16"), (lambda c: c["config"].update(colour="red"), "colour"),
    (lambda c: c.update(config=None), "model.pt"), (lambda c: c["body"].update(extra="text"), "not a model file"),
    (lambda c: c.update(head=None), "not a model file"),
], ids=["key", "format", "sizes", "unknown size", "no sizes", "no tensor", "no head"])  # fmt: skip
def test_content_that_cannot_be_used_is_refused(saved, edit, word):
    _, change = saved
    refused(change(edit), word)


def test_what_torch_saved_but_no_task_did_is_refused(tmp_path):
    for number, content in enumerate(({"a": torch.zeros(2)}, [1, 2], torch.zeros(3))):
        torch.save(content, tmp_path / f"{number}.pt")
        refused(tmp_path / f"{number}.pt", "not a model file")


@pytest.mark.parametrize("part, name, value, word", [
    ("config", "hidden_size", 10**9, "hidden_size"), ("config", "hidden_size", 10**6, "shape"),
    ("config", "num_hidden_layers", 10**9, "num_hidden_layers"), ("config", "num_hidden_layers", 30, "lacks"),
    ("config", "vocab_size", 10**30, "vocab_size"), ("config", "vocab_size", 10, "words"),
    ("config", "initializer_range", "x", "initializer_range"), ("config", "layer_norm_eps", float("nan"), "layer_norm_eps"),
    ("config", "share_layers", "no", "share_layers"), ("config", "hidden_act", [], "hidden_act"),
    ("tokenizer", "tokens", [1, 2], "model.pt"), ("tokenizer", "tokens", ["\ud800"], "model.pt"),
    ("tokenizer", "lowercase", "x", "model.pt"), ("tokenizer", "specials", [], "model.pt"),
    ("body", "two\nlines", torch.zeros(1), "two\\nlines"), ("head", "x", 1, "model.pt"),
    (None, "task", "BertModel", "BertModel"), (None, "notes", [], "model.pt"),
])  # fmt: skip
def test_a_model_file_that_claims_what_it_does_not_hold_is_refused(part, name, value, word, saved):
    path, change = saved
    change(lambda content: (content[part] if part else content).update({name: value}))
    refused(path, word)
    refused(path, word, load=read_model)


# No pickle is ever executed


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_hostile_pickle_in_the_zip_is_not_executed(saved, tmp_path):
    path, _ = saved
    with zipfile.ZipFile(path) as good:
        members = {info.filename: good.read(info) for info in good.infolist()}
    with zipfile.ZipFile(path, "w") as bad:
        for name, content in members.items():
            bad.writestr(name, pickle.dumps(Evil(tmp_path / "run")) if name.endswith("data.pkl") else content)
    refused(path, "cannot be loaded")
    assert not (tmp_path / "run").exists()


# The command


def test_show_tells_what_is_inside(saved, run_script):
    output = run_script("checkpoint.py", "show", saved[0]).stdout
    for word in ("MLMTask", "hidden_size=16", f"wordpiece, {len(LETTERS)} tokens", "null_threshold",
                 "body  layers.1.attention.in_proj.weight", "[48, 16]", "head  transform.weight"):  # fmt: skip
        assert word in output


def test_save_as_writes_a_file_whose_precision_show_tells(saved, run_script, tmp_path):
    printed = run_script("checkpoint.py", "save-as", saved[0], "narrow.pt", "--precision", "bf16").stdout
    assert printed == "narrow.pt: written, weights in bf16\n"
    output = run_script("checkpoint.py", "show", "narrow.pt").stdout
    assert "MLMTask" in output and "null_threshold" in output and "bfloat16" in output and "float32" not in output


def test_show_without_a_file_is_a_users_mistake(run_script, tmp_path):
    error = run_script("checkpoint.py", code=2).stderr
    assert error == "error: the following arguments are required: command; see --help\n"
    assert "no such file" in run_script("checkpoint.py", "show", "none.pt", code=2).stderr


@pytest.mark.parametrize("new, words", [
    ("m.pt", "is what is read"), ("m.safetensors", "a name of weights alone"), ("", "is a folder"),
])  # fmt: skip
def test_save_as_takes_no_name_that_costs_the_model_or_that_is_read_otherwise(tmp_path, new, words):
    save_model(tmp_path / "m.pt", make(MLMTask), LETTERS)
    before = (tmp_path / "m.pt").read_bytes()
    args = Namespace(file=str(tmp_path / "m.pt"), new=str(tmp_path / new), precision="bf16", save_vocab="", nhead=None)
    toys.refused(lambda: save_as(args), words)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"] and (tmp_path / "m.pt").read_bytes() == before
