"""A fixed part of the fuzzing (tests/fuzz.py), and what it has found: each a case of its own."""

import argparse
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile

import fuzz
import numpy as np
import pytest
import torch
import toys

import files
from checkpoint import load_model, read_model, save_model
from files import torch_zip
from files.archives import extract
from files.mistakes import UserError
from files.reading import parse_json
from files.torch_zip import read_torch, read_zip
from model import BertConfig, MLMTask
from text import cache
from text.corpus import paragraphs
from text.tokenizer import Tokenizer
from text.vocabularies import train_tokenizer
from training import sharding
from training.states import States, check_layout, check_same_run


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_and_hostile_files_give_a_result_or_one_line(kind, tmp_path):
    assert fuzz.fuzz(kind, range(10 if kind == "text" else 40), tmp_path) == {}


def refused(function, *words):
    with pytest.raises(UserError) as error:
        function()
    assert str(error.value).isprintable() and all(word in str(error.value) for word in words), str(error.value)


# torch's files


def packed(path, order, **entries):
    """A file as torch.save writes it, of a pickle that is written by hand."""
    with zipfile.ZipFile(path, "w") as package:
        for name, content in {"data.pkl": b"\x80\x02" + order + b".", **entries}.items():
            package.writestr(f"archive/{name}", content)
    return path


def tensor(offset=0, size=(2,), stride=(1,), count=2, kind="FloatStorage"):
    """The order to make a tensor."""
    def number(n):
        return b"\x8a\x08" + struct.pack("<q", n)

    def several(numbers):
        return b"(" + b"".join(map(number, numbers)) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu" + number(count) + b"tQ"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + several(size) + several(stride)
            + b"\x89NtR")  # fmt: skip


BYTES = {"data/0": np.array([1, 2], np.float32).tobytes()}


def test_what_torch_saved_is_read_as_torch_reads_it(tmp_path):
    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "optimizer": optimizer.state_dict(), "weights": layer.state_dict(), "parameter": layer.weight,
        "dtype": torch.float32,
        "plain": [None, True, -5, 1.5, 2**70, "ü\ud800", (1, 2, 3, 4), {}, []], "part": torch.arange(9)[3:5],
        "turned": torch.arange(6).view(2, 3).T, "none": torch.zeros(0, 3), "one": torch.tensor(3.0),
        "half": torch.ones(2, dtype=torch.bfloat16), "many": {str(n): n for n in range(70_000)},
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pt")
    mine, theirs = read_zip(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=True)

    def same(one, other):
        if isinstance(one, torch.Tensor):
            return one.dtype == other.dtype and torch.equal(one, other)
        if isinstance(one, dict):
            return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
        return type(one) is type(other) and one == other

    assert same(mine, theirs)
    assert read_zip(packed(tmp_path / "y.pt", tensor(), **BYTES)).tolist() == [1, 2]


@pytest.mark.parametrize("order", [
    tensor(size=(3,)), tensor(offset=1), tensor(stride=(2,)), tensor(offset=-1), tensor(size=(1 << 40,), stride=(0,)),
    tensor(size=(1, 2), stride=(1,)), tensor(count=1 << 40), tensor(count=-1), tensor(count=3), tensor(size=(-2,)),
    tensor(kind="DoubleStorage"), tensor(kind="QInt8Storage"),
], ids=str)  # fmt: skip
def test_a_tensor_outside_of_its_bytes_is_refused(order, tmp_path):
    refused(lambda: read_torch(packed(tmp_path / "x.pt", order, **BYTES), "remedy"), "x.pt", "cannot be loaded", "remedy")


@pytest.mark.parametrize("order", [
    tensor() + b"K\x00K\x05s", tensor() + b"(K\x00K\x05u",  # SETITEM on a tensor: CVE-2026-24747
    tensor() + b"}b", b"ccollections\nOrderedDict\n}b", b"ctorch._utils\n_rebuild_tensor_v2\n(X\1\0\0\0xX\1\0\0\0yd",
    b"cos\nsystem\n(X\x04\0\0\0truetR", b"ctorch\nload\n(X\x01\0\0\0xtR", b"}\x93", b"}(K\x01K\x02e", b"N" * 5 + b"t",
    b"]q\x00h\x00a", b"]q\x00" + b"".join(b"](h\x00h\x00eq\x00" for _ in range(40)), b"ctorch\nFloatStorage\n)R",
], ids=range(13))  # fmt: skip
def test_orders_that_no_weights_need_are_refused(order, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_zip, "MOST_VALUES", 10_000)
    refused(lambda: read_torch(packed(tmp_path / "x.pt", order, **BYTES), "remedy"), "x.pt", "cannot be loaded")


def test_a_zip_that_lies_is_refused(tmp_path):
    path = packed(tmp_path / "x.pt", tensor(), **BYTES)
    good = path.read_bytes()
    at = good.rfind(b"PK\x01\x02")
    path.write_bytes(good[: at + 24] + b"\xff\xff\xff\x7f" + good[at + 28 :])  # the last entry's size
    refused(lambda: read_torch(path, "remedy"), "x.pt", "sizes")
    path.write_bytes(good.replace(BYTES["data/0"], bytes(8)))
    refused(lambda: read_torch(path, "remedy"), "CRC")
    refused(lambda: read_torch(packed(path, b"N", byteorder=b"big"), "remedy"), "highest byte")


# Model files


@pytest.fixture
def content(tmp_path):
    tokenizer = toys.letters()
    model = fuzz.small_model(MLMTask, tokenizer)
    save_model(tmp_path / "m.pt", model, tokenizer)
    return torch.load(tmp_path / "m.pt", weights_only=True)


@pytest.mark.parametrize("part, name, value, word", [
    ("config", "hidden_size", 10**9, "hidden_size"), ("config", "hidden_size", 10**6, "shape"),
    ("config", "num_hidden_layers", 10**9, "num_hidden_layers"), ("config", "num_hidden_layers", 30, "lacks"),
    ("config", "vocab_size", 10**30, "vocab_size"), ("config", "vocab_size", 10, "words"),
    ("config", "initializer_range", "x", "initializer_range"), ("config", "layer_norm_eps", float("nan"), "layer_norm_eps"),
    ("config", "share_layers", "no", "share_layers"), ("config", "hidden_act", [], "hidden_act"),
    ("tokenizer", "tokens", [1, 2], "m.pt"), ("tokenizer", "tokens", ["\ud800"], "m.pt"),
    ("tokenizer", "lowercase", "x", "m.pt"),
    ("tokenizer", "specials", [], "m.pt"), ("body", "two\nlines", torch.zeros(1), "two\\nlines"), ("head", "x", 1, "m.pt"),
    (None, "task", "BertModel", "BertModel"), (None, "notes", [], "m.pt"),
])  # fmt: skip
def test_a_model_file_that_claims_what_it_does_not_hold_is_refused(part, name, value, word, content, tmp_path):
    (content[part] if part else content)[name] = value
    torch.save(content, tmp_path / "m.pt")
    refused(lambda: load_model(MLMTask, tmp_path / "m.pt"), "m.pt", word)
    refused(lambda: read_model(tmp_path / "m.pt"), "m.pt", word)


def test_a_damaged_sentencepiece_model_is_one_line_when_it_first_encodes():
    state = Tokenizer("sentencepiece", ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "a"], model=b"\xff\xff").state()
    refused(lambda: Tokenizer.from_state(state).encode("text"), "SentencePiece")


# States and caches


def test_a_state_of_another_layout_or_optimizer_is_one_line(tmp_path):
    fuzz.good_state(tmp_path)
    good = torch.load(tmp_path / "state.pt", weights_only=True)

    def read(edit):
        saved = {**good, "state": dict(good["state"]), "optimizer": pickle.loads(pickle.dumps(good["optimizer"]))}
        edit(saved)
        stream = io.BytesIO()
        torch.save(saved, stream)
        (tmp_path / "state.pt").write_bytes(stream.getvalue() + hashlib.sha256(stream.getvalue()).digest())
        saved, args = States(tmp_path, print).load(), argparse.Namespace(lr=0.1, seed=0)
        check_layout(saved)
        check_same_run(saved, "mlm", {"hidden_size": 16}, args, 5)
        return fuzz.restored(fuzz.trainer(), saved)

    read(lambda saved: None)
    for edit in (
        lambda saved: saved.pop("task"), lambda saved: saved.update(examples="x"),
        lambda saved: saved["state"].pop("step"),
        lambda saved: saved["state"].update(step="x"), lambda saved: saved["state"].update(recent=[1]),
        lambda saved: saved.update(model={}), lambda saved: saved["optimizer"]["state"].update({0: {"step": "x"}}),
        lambda saved: saved["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda saved: saved["optimizer"]["state"][0].pop("exp_avg"),
        lambda saved: saved["optimizer"]["param_groups"].pop(),
        lambda saved: saved["optimizer"]["param_groups"][0].update(fused=True),
        lambda saved: saved["optimizer"]["param_groups"][0].update(params=[[]]),
    ):  # fmt: skip
        refused(lambda edit=edit: read(edit), "state.pt", "remove it")
    assert not sharding.belongs({}, [], 0)


@pytest.mark.parametrize("name, place, number", [("tokens", 3, 60_000), ("sentences", 2, 1 << 40), ("sentences", 2, -1),
                                                 ("documents", 0, 10**6)])  # fmt: skip
def test_a_cache_that_points_out_of_itself_is_refused(name, place, number, tmp_path):
    fuzz.good_cache(tmp_path)
    folder = tmp_path / "corpus"
    array = np.array(getattr(cache.TokenCache(folder), name))
    array.reshape(-1)[place] = number
    array.tofile(folder / f"{name}.bin")
    refused(lambda: cache.TokenCache(folder), "corpus", "damaged cache", "out of range")


@pytest.mark.parametrize("meta", ["[]", '{"arrays": 1}', '{"arrays": {"tokens": ["O", [1]]}}', "[" * 100_000,
                                  '{"arrays": {"tokens": ["<u2", ["x"]]}}',
                                  '{"arrays": {"../x": ["<u2", [1]]}}'])  # fmt: skip
def test_a_cache_with_a_broken_meta_is_refused(meta, tmp_path):
    (tmp_path / "meta.json").write_text(meta)
    refused(lambda: cache.TokenCache(tmp_path).tokens, "damaged cache")


# Text, JSON, archives


def test_a_number_of_thousands_of_digits_is_one_line():
    refused(lambda: parse_json("9" * 5000, "x.json"), "x.json", "digits")


def test_a_config_keeps_out_what_is_no_number():
    with pytest.raises(ValueError, match="vocab_size"):
        BertConfig(vocab_size=True)


def test_a_name_cannot_break_the_line():
    assert str(UserError("a\nb\x1b[31m\ud800: gone")) == "a\\nb\\x1b[31m\\ud800: gone"


@pytest.mark.parametrize("name", ["bomb.gz", "bomb.tar.gz", "bomb.zip", "header.tar.gz", "many.tar.gz", "sparse.tar"])
def test_an_archive_that_swells_is_refused_and_leaves_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ALLOWANCE", 1 << 20)
    path, zeros = tmp_path / name, bytes(20 << 20)
    if name == "bomb.gz":
        path.write_bytes(fuzz.gzip.compress(zeros))
    elif name == "bomb.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
            package.writestr("a", zeros)
    else:
        with tarfile.open(path, "w:gz" if "gz" in name else "w") as package:
            info = tarfile.TarInfo("a")
            if name == "header.tar.gz":  # a header that is read into memory as a whole
                info.type = b"x"
            if name == "sparse.tar":  # a file of holes
                info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**12), "GNU.sparse.major": "0"}
                package.addfile(info)
            elif name == "many.tar.gz":
                for number in range(2_000):
                    info.name = str(number)
                    package.addfile(info)
            else:
                info.size = len(zeros)
                package.addfile(info, io.BytesIO(zeros))
    refused(lambda: extract(path, tmp_path / "out"), name, "times its size")
    assert [left.name for left in tmp_path.iterdir()] == [name]


def test_a_zip_with_a_nameless_entry_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as package:
        package.writestr(zipfile.ZipInfo(""), b"x")
    refused(lambda: extract(tmp_path / "a.zip", tmp_path / "out"), "a.zip")


def test_a_text_without_blanks_that_repeats_itself_trains_a_vocabulary_soon():
    assert len(train_tokenizer("sentencepiece", ["é" * 1_000_000, "the cat sat"], 16)) == 16


@pytest.mark.parametrize("part", ["<!--", "<ref>", "{|", "[[", "{{", "<math>", "[http://a ", "<text>"])
def test_markup_that_is_never_closed_takes_no_minutes(part):
    list(paragraphs(("x", 0, (part * 100_000)[: 1 << 18].encode(), True), "xml"))
