"""Vectors of lines: those of transformers, whatever stands beside a line, and of files that are not as they should be."""

import gzip
import random

import numpy as np
import pytest
import torch
import toys

from checkpoint import load_model, save_model
from model import BertConfig, BertModel, MLMTask, NextSentenceTask
from text import vectors as module
from text.vectors import POOLS, line_vectors, write_vectors

LINES = ["What is Électricité?", "", "a longer line, so that others are padded, with rare words " * 3, "the cat"]


@pytest.fixture
def small():
    torch.manual_seed(0)
    config = BertConfig(len(toys.LETTERS), 32, 2, 2, max_position_embeddings=32)
    return BertModel(config).eval()


@pytest.mark.parametrize("pool", POOLS)
def test_a_real_model_gives_the_vectors_of_transformers(minilm, pool):
    transformers = pytest.importorskip("transformers")
    model, tokenizer = load_model(BertModel, minilm)
    other = transformers.AutoModel.from_pretrained(minilm).eval()
    inputs = transformers.BertTokenizer.from_pretrained(minilm)(LINES, return_tensors="pt", padding=True)
    with torch.no_grad():
        states, mask = other(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    expected = states[:, 0] if pool == "cls" else (states * mask).sum(1) / mask.sum(1)
    found = line_vectors(model.eval(), tokenizer, LINES, pool)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5, rtol=0)


def test_a_file_gives_a_vector_for_each_of_its_lines_a_few_at_a_time(small, tmp_path, monkeypatch):
    texts = [toys.text(random.Random(n), n % 9) for n in range(23)]
    (tmp_path / "lines.txt.gz").write_bytes(gzip.compress("\r\n".join(texts).encode("utf-8-sig")))
    monkeypatch.setattr(module, "GROUP", 5)
    assert write_vectors(tmp_path / "out.npy", tmp_path / "lines.txt.gz", small, toys.LETTERS) == (23, 32)
    found = np.load(tmp_path / "out.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, line_vectors(small, toys.LETTERS, texts), atol=1e-6)
    np.testing.assert_allclose(found[7:8], line_vectors(small, toys.LETTERS, texts[7:8]), atol=1e-6)


def test_a_long_line_is_cut_and_told(small, capsys):
    long = line_vectors(small, toys.LETTERS, ["the cat " * 40, "dog"])
    assert "lines of more than 32 tokens" in capsys.readouterr().err
    np.testing.assert_allclose(long[:1], line_vectors(small, toys.LETTERS, ["the cat " * 15]), atol=1e-6)


def test_what_cannot_be_read_is_one_line(small, tmp_path):
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"one\ncaf\xe9\n")
    for name, told in (("none.txt", "none.txt: no lines"), ("latin.txt", "latin.txt: line 2: not UTF-8 at its byte 3"),
                       ("gone.txt", "gone.txt: cannot be read")):  # fmt: skip
        toys.refused(lambda name=name: write_vectors(tmp_path / "out.npy", tmp_path / name, small, toys.LETTERS), told)
    assert not (tmp_path / "out.npy").exists()


def test_a_pipe_which_can_be_read_once_is_told(small, tmp_path, monkeypatch):
    lines = iter([["the cat"] * 3, []])
    monkeypatch.setattr(module, "texts_of", lambda source: iter(next(lines)))
    toys.refused(lambda: write_vectors(tmp_path / "out.npy", "/dev/stdin", small, toys.LETTERS), "/dev/stdin: is a pipe")
    assert not (tmp_path / "out.npy").exists()


def test_the_bare_body_of_a_file_is_a_model_too(tmp_path, capsys):
    config = BertConfig(len(toys.LETTERS), 32, 2, 2, max_position_embeddings=32)
    for head, pooler in ((MLMTask, False), (NextSentenceTask, True)):
        made = head(config)
        save_model(tmp_path / "made.pt", made, toys.LETTERS, {"bptt": 16})
        body, _ = load_model(BertModel, tmp_path / "made.pt", 0.0)
        assert (body.pooler is not None) == pooler and body.notes == {"bptt": 16} and body.embedding.dropout.p == 0
        assert all(map(torch.equal, body.state_dict().values(), made.bert.state_dict().values()))
        assert f"not used: the head of {head.__name__}" in capsys.readouterr().out


def test_the_command_says_what_it_wrote_and_reads_as_the_model_was_trained(run_script, tmp_path):
    model = MLMTask(BertConfig(len(toys.LETTERS), 32, 2, 2, max_position_embeddings=32))
    save_model(tmp_path / "made.pt", model, toys.LETTERS, {"bptt": 16})
    (tmp_path / "lines.txt").write_text("the cat\n" + "dog " * 20 + "\n")
    done = run_script("checkpoint.py", "embed", "made.pt", "--predict", "lines.txt", "--pool", "cls")
    assert "vectors.npy: 2 vectors of 32" in done.stdout and "lines of more than 16 tokens" in done.stderr
    assert np.load(tmp_path / "vectors.npy").shape == (2, 32)
