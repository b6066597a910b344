"""Fuzzing of all that reads files from outside: damaged and hostile inputs give a result or a UserError, nothing else.

    python tests/fuzz.py                                  # 200 inputs of each kind
    python tests/fuzz.py --kind model --inputs 5000 --seed 7

A kind is a folder of good files and the code that reads it. Each input is a copy of the folder in which something was
changed at random: bits, lengths, chunks, the structure of JSON and of torch's files, the entries of a zip. Findings: any
exception but UserError, or one of several lines; a process that dies, is silent for SECONDS, or takes over MEMORY bytes
(address space, so that claims count and not only use); an order to run something, and a file touched outside the
folder, both seen by Python's audit hook. Finding number S of a kind is repeated by ``--kind K --seed S --inputs 1``.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import types
import warnings
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import toys

import checkpoint
import metrics
from files.archives import extract
from files.mistakes import UserError
from files.writing import write_json
from formats import huggingface
from formats.torchtext_files import read_vocab
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from qa_task import null_threshold
from text import cache, sample
from text import tokenizer as tokenizers
from text.masked_blocks import MaskedBlocks
from text.option_rows import OptionRows
from text.places import Places
from text.question_windows import QuestionWindows
from text.questions import load_race, load_squad
from text.sentence_pairs import SentencePairs
from text.tokens import load_corpus
from training import optimizer, sharding
from training.saving import Saving
from training.states import State, States, check_layout, check_same_run

SECONDS, MEMORY = 20, 2 << 30
HEADS = (MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask)
TEXTS = ["the cat sat on the mat.", "Él dijo: “Ünïcode” İ \u0301\u0301 字 \ud800 \x00 x1,2,", "a" * 300]

# --------------------------------------------------------------------------------------------------------------------
# Changes
# --------------------------------------------------------------------------------------------------------------------

ODD = [None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**9, 10**30, 0.5, -1.5, 1e308, float("nan"), float("inf"),
       "", "x", "\ud800", "\x00", "two\nlines\x1b[31m", "../../outside", "/outside", "[MASK]", "<mask>", "9" * 30,
       [], {}, [[]], [None], {"a": 1}, ["A"], "A"]  # fmt: skip
PICKLES = [b"cos\nsystem\n(S'touch outside'\ntR.", b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", b"(lp0\n0",
           b"r\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"J\xff\xff\xff\x7f", b"2", b"}", b"b", b"R", b"Q"]  # fmt: skip


def change_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        size, at = len(data), rng.randrange(len(data) + 1)
        length = rng.choice([1, 2, 8, 64, 1000])
        kind = rng.randrange(8)
        if kind == 0 and size:
            data[at % size] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:  # a chunk is lost
            del data[at : at + length]
        elif kind == 3:  # a chunk comes twice
            data[at:at] = data[at : at + length]
        elif kind == 4:  # a chunk of another place
            other = rng.randrange(size + 1)
            data[at : at + length] = data[other : other + length]
        elif kind == 5:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 6:
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"PK\x03\x04", b"\n\n"])
        else:
            data[at:at] = rng.choice([*PICKLES, b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"[" * 300, b"9" * 5000])
    return bytes(data)


def odd_tensor(tensor, rng):
    """The tensor as no file of a model should have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rng.choice([
            lambda t: t.flatten()[:1].expand(*(10**6,) * max(t.dim(), 1)), lambda t: t.flatten()[:1].expand(10**12),
            lambda t: t[:0], lambda t: t.reshape(-1)[:-1].clone(), lambda t: t.to(torch.int64), lambda t: t > 0,
            lambda t: t.to(torch.complex64), lambda t: t.half(), lambda t: t.double(), lambda t: t * float("nan"),
            lambda t: t * 1e38, lambda t: t[None], lambda t: torch.tensor(1.0), lambda t: t.to_sparse(),
            lambda t: torch.nn.Parameter(t.float()), lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
            lambda t: t.flatten().as_strided(t.shape, [0] * t.dim()), lambda t: torch.empty(t.shape, device="meta"),
            lambda t: t.flatten()[:1].expand(t.shape),
        ])(tensor)  # fmt: skip


def places_in(value, found):
    """Every (container, key) in a tree of dicts and lists; of long ones the first few."""
    keys = list(value)[:200] if isinstance(value, dict) else range(min(len(value), 50))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], dict | list):
            places_in(value[key], found)
    return found


def change_tree(value, rng):
    """Something else in one to three places of plain values and tensors."""
    root = [value]
    for _ in range(rng.choice([1, 1, 2, 3])):
        found = places_in(root, [])
        holder, key = rng.choice(found)
        kind, old = rng.randrange(8), holder[key]
        if kind == 0 and holder is not root:
            del holder[key]
        elif kind == 1 and isinstance(holder, list) and holder is not root:
            holder.append(old)
        elif kind == 2:
            holder[key] = [old]
        elif kind == 3:
            holder[key] = str(old)[:1000]
        elif kind == 4:
            other, place = rng.choice(found)
            if not isinstance(other[place], dict | list):
                holder[key] = other[place]
        elif kind == 5 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "\ud800", "a\nb", *map(str, holder)])] = rng.choice([old, rng.choice(ODD)])
        elif isinstance(old, torch.Tensor) and rng.random() < 0.7:
            with contextlib.suppress(RuntimeError, IndexError):
                holder[key] = odd_tensor(old, rng)
        else:
            holder[key] = rng.choice(ODD)
    return root[0]


def change_json(data, rng):
    value = change_tree(json.loads(data), rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        number = rng.choice(["9" * 5000, "1e99999", "-0", "NaN", "[" * 100_000, '{"a":' * 100_000, '"\\ud800"'])
        text = text.replace(rng.choice(["0", "1", '"']), number, 1)
    return text.encode("utf-8", "surrogatepass")


def change_zip(data, rng):
    """Other entries in a zip whose checksums are right, or sizes that lie."""
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        entries = [(info.filename, package.read(info)) for info in package.infolist()]
    kind, at = rng.randrange(7), rng.randrange(len(entries))
    name, content = entries[at]
    pickles = [number for number, entry in enumerate(entries) if entry[0].endswith(".pkl")]
    if kind == 0:
        del entries[at]
    elif kind == 1:
        entries.append((rng.choice([name, "x/../../outside", "archive/constants.pkl"]), content))
    elif kind == 2:
        entries[at] = (name, content[: rng.randrange(len(content) + 1)])
    elif kind == 3 or not pickles:
        entries[at] = (name, change_bytes(content, rng))
    elif kind < 6:
        at = rng.choice(pickles)
        entries[at] = (entries[at][0], change_bytes(entries[at][1], rng))
    made = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", packing) as package:
        warnings.simplefilter("ignore")
        for name, content in entries:
            package.writestr(name, content)
    data = bytearray(made.getvalue())
    if kind == 6:  # a size, a name's length or an offset of the directory
        start = data.rfind(b"PK\x01\x02", 0, rng.randrange(len(data)))
        at = max(start, 0) + rng.choice([8, 10, 20, 24, 28, 30, 32, 42])
        data[at : at + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", rng.randbytes(4), b"\0\0\0\0"])
    return bytes(data)


def change_file(path, rng):
    data, name = path.read_bytes(), path.name
    if rng.random() < 0.7:
        with contextlib.suppress(Exception):  # what was changed before may be beyond reading
            if data[:1] in (b"{", b"[") or name.startswith(("high", "middle")):
                return path.write_bytes(change_json(data, rng))
            if data.startswith(b"PK") and rng.random() < 0.6 and "bert_vocab_old" not in name:
                value = change_tree(torch.load(path, weights_only=True), rng)
                with contextlib.suppress(RuntimeError, NotImplementedError):
                    torch.save(value, path)
                return signed(path, rng)
    changed = None
    with contextlib.suppress(Exception):
        if data.startswith(b"PK") and rng.random() < 0.6:
            changed = change_zip(data, rng)
        elif name.endswith(".safetensors") and rng.random() < 0.6:
            size = int.from_bytes(data[:8], "little")
            header = change_json(data[8 : 8 + size], rng)
            changed = len(header).to_bytes(8, "little") + header + data[8 + size :]
    path.write_bytes(changed or change_bytes(data, rng))
    signed(path, rng)


def signed(path, rng):
    """A saved state gets the digest that belongs to it, most of the time."""
    if path.name == "state.pt" and rng.random() < 0.9:
        path.write_bytes(path.read_bytes() + hashlib.sha256(path.read_bytes()).digest())


def change_folder(folder, rng):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(rng.choice([1, 1, 1, 2])):
        change_file(rng.choice(files), rng)


# --------------------------------------------------------------------------------------------------------------------
# Kinds: good(folder) writes what is right, read(folder, rng) reads it as the program does
# --------------------------------------------------------------------------------------------------------------------

SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=40)


def small_tokenizer(kind):
    if kind == "wordpiece":
        return toys.letters()
    lines = [story.text for story in sample.stories("valid", 60, "fuzz")]
    return tokenizers.train_tokenizer(kind, lines, 120)


def small_model(cls, tokenizer, **options):
    torch.manual_seed(0)
    return cls(BertConfig(len(tokenizer), **SIZES, **options))


def use(model, tokenizer):
    """What any use of a loaded model does."""
    for text in TEXTS:
        encoding = tokenizer.encode(text)
        tokenizer.encode_ids(text)
        assert len(encoding.ids) == len(encoding.offsets)
    ids = torch.tensor([[tokenizer.cls_id, *tokenizer.encode_ids(TEXTS[0])[:20], tokenizer.sep_id]])
    ids = ids[:, : model.bert.config.max_position_embeddings]
    with torch.no_grad():
        model.eval()(ids[None] if isinstance(model, RaceTask) else ids, torch.zeros_like(ids[None] if isinstance(
            model, RaceTask) else ids))  # fmt: skip
    tokenizer.decode(ids[0])
    tokenizer.word_starts, tokenizer.fingerprint
    null_threshold(model)


def run_checkpoint(*arguments):
    sys.argv = ["checkpoint.py", *map(str, arguments)]
    checkpoint.main()


def read_any_model(path, folder, rng, vocab=None):
    action = rng.randrange(4)
    if action == 0:
        use(*checkpoint.load_model(rng.choice(HEADS), path, vocab=vocab))
    elif action == 1:
        use(*checkpoint.load_body(rng.choice(HEADS), path, vocab=vocab))
    else:
        rest = ["--save-vocab", vocab] if vocab else []
        run_checkpoint(*(["show", path] if action == 2 else ["export", path, folder / "exported"]), *rest)


def good_model(folder):
    for name, cls, kind, notes, options in (
        ("mlm.pt", MLMTask, "wordpiece", {}, {}), ("ns.pt", NextSentenceTask, "basic_english", {}, {"norm_first": True}),
        ("qa.pt", QuestionAnswerTask, "sentencepiece", {"null_threshold": 0.5}, {}),
        ("race.pt", RaceTask, "wordpiece", {}, {"share_layers": True, "embedding_size": 8}),
    ):  # fmt: skip
        tokenizer = small_tokenizer(kind)
        checkpoint.save_model(folder / name, small_model(cls, tokenizer, **options), tokenizer, notes)


def change_one(folder, rng):
    """One of the files is changed; ``read`` takes the one named in ``chosen``."""
    path = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    change_file(path, rng)
    (folder / "chosen").write_text(path.name)


def read_model(folder, rng):
    path = folder / (folder / "chosen").read_text()
    if rng.random() < 0.5:  # by the head that it holds
        cls = {"mlm": MLMTask, "ns": NextSentenceTask, "qa": QuestionAnswerTask, "race": RaceTask}[path.stem]
        return use(*checkpoint.load_model(cls, path))
    read_any_model(path, folder, rng)


def trainer():
    model = small_model(MLMTask, toys.letters())
    return sharding.Engine(model, model, model, optimizer.make_optimizer(model, "adamw", 0.01),
                           torch.cuda.amp.GradScaler(enabled=False))  # fmt: skip


def restored(run, saved):
    """The state of a run that goes on from ``saved``, with the weights and optimizer of then."""
    return Saving.restored(types.SimpleNamespace(engine=run), saved)


def step(run):
    ids = torch.zeros((1, 4), dtype=torch.int64)
    run.parallel(ids, positions=ids == 0).sum().backward()
    run.optimizer.step()


def good_state(folder):
    run = trainer()
    step(run)
    states = States(folder, print)
    states.save({"task": "mlm", "arguments": {"lr": 0.1, "seed": 0}, "examples": 5, "sizes": {"hidden_size": 16},
                 "state": State(step=3, history=[(1, "train", {"loss": 2.0})], recent=[(1.0, 2, 3)]).__dict__,
                 "model": run.parallel.state_dict(), "optimizer": run.optimizer.state_dict(),
                 "scaler": run.scaler.state_dict()}, wait=True)  # fmt: skip


def read_state(folder, rng):
    states, run = States(folder, print), trainer()
    if rng.random() < 0.2:
        return states.set_aside()
    saved = states.load()
    check_layout(saved)
    check_same_run(saved, "mlm", {"hidden_size": 16}, argparse.Namespace(lr=0.1, seed=0), 5)
    state = restored(run, saved)
    step(run)
    json.dumps(state.__dict__)


def good_cache(folder):
    text = "\n\n".join(story.text for story in sample.stories("valid", 40, "fuzz"))
    (folder / "text.txt").write_text(text)
    places = Places(folder, folder / "cache")
    for split in ("train",):
        built = load_corpus(str(folder / "text.txt"), split, toys.letters(), places)
        shutil.move(built.folder, folder / "corpus")
    built = QuestionWindows(toys.squad(), toys.letters(), places, 64, 16).texts
    shutil.move(built.folder, folder / "texts")
    shutil.rmtree(folder / "cache")
    (folder / "text.txt").unlink()


def read_cache(folder, rng):
    tokens, letters = cache.TokenCache(folder / "corpus"), toys.letters()
    for data in (MaskedBlocks(tokens, letters, 32, 0), SentencePairs(tokens, letters, 32, 0)):
        for index in range(min(len(data), 40)):
            batch = data.collate([index], 0)
            assert int(batch["input_ids"].max()) < len(letters)
    texts = cache.TokenCache(folder / "texts")
    for index in range(len(texts.texts)):
        assert len(texts.text(index)) == len(texts.text_spans(index))


def good_folder(folder):
    for kind, tokens, options in (("bert", "wordpiece", {}), ("albert", "sentencepiece", {"share_layers": True})):
        tokenizer = small_tokenizer(tokens)
        model = small_model(NextSentenceTask, tokenizer, **options)
        checkpoint.save_model(folder / "model.pt", model, tokenizer)
        huggingface.write_folder(checkpoint.read_model(folder / "model.pt"), folder / kind)
        (folder / "model.pt").unlink()
    weights = huggingface.read_safetensors(folder / "bert" / "model.safetensors")
    for name in ("bin", "parts"):
        shutil.copytree(folder / "bert", folder / name)
        (folder / name / "model.safetensors").unlink()
    torch.save(weights, folder / "bin" / "pytorch_model.bin")
    vocabulary = {token: i for i, token in enumerate(toys.letters().tokens)}
    write_json(folder / "bin" / "tokenizer.json", {"model": {"type": "WordPiece", "vocab": vocabulary},
                                                   "normalizer": {"lowercase": True, "strip_accents": None}})  # fmt: skip
    (folder / "bin" / "vocab.txt").unlink()
    import safetensors.torch

    names = sorted(weights)
    for number in range(2):
        safetensors.torch.save_file({n: weights[n] for n in names[number::2]}, folder / "parts" / f"{number}.safetensors")
    write_json(folder / "parts" / "model.safetensors.index.json",
               {"weight_map": {name: f"{number % 2}.safetensors" for number, name in enumerate(names)}})  # fmt: skip


def change_subfolder(folder, rng):
    chosen = rng.choice(["albert", "bert", "bin", "parts"])
    for path in list(folder.iterdir()):
        if path.name != chosen:
            shutil.rmtree(path)
    change_folder(folder, rng)


def read_folder(folder, rng):
    read_any_model(next(folder.iterdir()), folder, rng)


def good_torchtext(folder):
    from test_torchtext_files import WORDS, state_dict

    module, real = types.ModuleType("torchtext.vocab"), sys.modules.get("torchtext.vocab")

    class Vocab:
        pass

    Vocab.__module__, Vocab.__qualname__, module.Vocab = "torchtext.vocab", "Vocab", Vocab
    sys.modules["torchtext.vocab"] = module
    vocabulary = Vocab()
    vocabulary.itos, vocabulary.freqs = list(WORDS), {}
    torch.save(vocabulary, folder / "bert_vocab_old.pt")
    (folder / "bare.pt").write_bytes(pickle.dumps(vocabulary))
    torch.save(vocabulary, folder / "older.pt", _use_new_zipfile_serialization=False)
    if real is None:
        del sys.modules["torchtext.vocab"]
    else:
        sys.modules["torchtext.vocab"] = real
    torch.save(state_dict(head="mlm"), folder / "mlm_bert.pt")


def read_torchtext(folder, rng):
    vocab = folder / rng.choice(["bert_vocab_old.pt", "bare.pt", "older.pt"])
    if rng.random() < 0.5:
        read_vocab(vocab)
    read_any_model(folder / "mlm_bert.pt", folder, rng, vocab)


def run_metrics(*arguments):
    metrics.main([str(argument) for argument in arguments])


def good_squad(folder):
    for version in (1, 2):
        found = toys.squad(contexts=3, impossible=version == 2)
        write_json(folder / f"v{version}.json", toys.as_json(found))
        write_json(folder / f"answers{version}.json", {question.id: "the cat" for question in found.questions})
        write_json(folder / f"odds{version}.json", {question.id: 0.25 for question in found.questions})


def read_squad(folder, rng):
    version = rng.randrange(1, 3)
    if rng.random() < 0.5:
        odds = ["--null-odds", folder / "odds2.json", "--no-answer-threshold", 0.5] if version == 2 else []
        return run_metrics("squad", folder / f"v{version}.json", folder / f"answers{version}.json", *odds)
    found = load_squad(folder / f"v{version}.json", answers_needed=rng.random() < 0.7)
    data = QuestionWindows(found, toys.letters(), Places(folder, folder / "cache"), 64, 16)
    data.collate(list(range(min(len(data), 4))), 0)


def good_race(folder):
    for article in toys.articles(count=2):
        level = "high" if article.id.startswith("high") else "middle"
        path = folder / "test" / level / article.id
        path.parent.mkdir(parents=True)
        write_json(path, {"id": article.id, "article": article.text, "questions": article.questions,
                          "options": article.options, "answers": ["ABCD"[n] for n in article.answers]})  # fmt: skip
    write_json(folder / "answers.json", {article.id: ["A", "B"] for article in toys.articles(count=2)})


def read_race(folder, rng):
    if rng.random() < 0.5:
        return run_metrics("race", folder / "test", folder / "answers.json")
    found = load_race(folder / "test", answers_needed=rng.random() < 0.7)
    data = OptionRows(found, toys.letters(), Places(folder, folder / "cache"), 64, 0, "window")
    data.collate(list(range(min(len(data), 4))), 0)


def good_vocab(folder):
    (folder / "vocab.txt").write_text("\n".join(toys.letters().tokens))
    (folder / "spiece.model").write_bytes(small_tokenizer("sentencepiece").model)
    tokenizers.save_vocab(small_tokenizer("basic_english"), folder / "words.pt")
    tokenizers.save_vocab(small_tokenizer("sentencepiece"), folder / "pieces.pt")


def read_vocabulary(folder, rng):
    tokenizer = tokenizers.load_vocab(folder / (folder / "chosen").read_text())
    use(small_model(MLMTask, tokenizer), tokenizer)
    tokenizers.save_vocab(tokenizer, folder / "again.pt")
    assert tokenizers.load_vocab(folder / "again.pt").fingerprint == tokenizer.fingerprint


def no_files(folder):
    """What is read is made anew for each input."""


NAMES = ["a.txt", "a", "b/c.txt", "b", "../outside", "/outside", "b/../../outside", "C:\\outside", "..\\outside", "x" * 300,
         "b/./c.txt", "", ".", "a\nb", "\ud800", "deep/" * 50 + "x", "nul\0name", "link", "link/x"]  # fmt: skip


def hostile_archive(folder, rng):
    """An archive of files, folders, links, devices, sparse files and claims that are not true; sometimes cut or damaged."""
    kind = rng.choice(["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.gz"])
    path, content = folder / kind, rng.randbytes(rng.choice([0, 10, 3000]))
    with contextlib.suppress(ValueError, UnicodeError, OSError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "a.gz":
            with gzip.open(path, "wb") as stream:
                stream.write(content)
                for _ in range(rng.choice([0, 0, 0, 200])):  # 200 MB of zeros
                    stream.write(bytes(1 << 20))
        elif kind == "a.zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
                for _ in range(rng.randint(1, 4)):
                    info = zipfile.ZipInfo(rng.choice(NAMES))
                    info.external_attr = rng.choice([0, 0o100644, 0o120777, 0o020666, 0o040755]) << 16
                    package.writestr(info, bytes(200 << 20) if rng.random() < 0.02 else content, zipfile.ZIP_DEFLATED)
        else:
            with tarfile.open(path, "w:gz" if "gz" in kind else "w", format=rng.choice([0, 1, 2])) as package:
                for _ in range(rng.randint(1, 5)):
                    info = tarfile.TarInfo(rng.choice(NAMES))
                    info.type = rng.choice([b"0", b"0", b"0", *(bytes([kind]) for kind in b"1234567SLxg")])
                    info.linkname, info.size = rng.choice([*NAMES, "/etc/passwd"]), len(content)
                    info.mode = rng.choice([0o644, 0o7777, 0])
                    if rng.random() < 0.1:
                        info.pax_headers = {rng.choice(["size", "path", "GNU.sparse.size", "GNU.sparse.map", "mtime"]):
                                            rng.choice(["9" * 18, "0,9999999999", "../outside", "nan"])}  # fmt: skip
                    if rng.random() < 0.05:
                        info.size = rng.choice([1 << 33, 1 << 60, 10**6])
                        package.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
                    else:
                        package.addfile(info, io.BytesIO(content))
    if not path.exists():
        path.touch()
    if rng.random() < 0.4:
        data = path.read_bytes()[: 1 << 16]
        if kind in ("a.tgz", "a.tar.gz") and rng.random() < 0.7:  # damage behind the compression
            with contextlib.suppress(OSError, EOFError):
                data = gzip.compress(change_bytes(gzip.decompress(data), rng))
            return path.write_bytes(data)
        path.write_bytes(change_bytes(data, rng))


def read_archive(folder, rng):
    archive = next(folder.glob("a.*"))
    if rng.random() < 0.3:
        (folder / "out").mkdir()
    extract(archive, folder / "out")
    assert {path.name for path in folder.iterdir()} == {archive.name, "out"}, "something beside the folder"
    for path in folder.rglob("*"):
        assert not path.is_symlink() and (path.is_dir() or path.is_file()), path
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 150 << 20, "a bomb was unpacked"


PARTS = [b"word ", b"The cat sat. ", b"\n", b"\n\n", b"\r\n", b"\0", b"\xff", b"\xed\xa0\x80", "é".encode(), "字".encode(),
         b"\xef\xbb\xbf", "\u0301".encode(), "\u2028".encode(), b"<page>", b"<text>", b"</text>", b"</page>", b"[[", b"]]",
         b"{{", b"}}", b"{|", b"|}", b"<ref>", b"<ref", b"</ref>", b"<!--", b"-->", b"&amp;", b"&#99999999999;", b"[http://",
         b"= t =", b"====", b"''", b"*#:", b"|", b"<br", b'"', b"<b", b"Mr. A. ", b". ", b"! ", b"x" * 5000,
         "\u202e".encode(), "\U0010ffff".encode(), b"_" * 40, b"<math>", b"&lt;", b" = ", b"\t"]  # fmt: skip


def hostile_text(folder, rng):
    chosen = rng.sample(PARTS, rng.choice([1, 2, 3, 8, len(PARTS)]))
    data = b"".join(rng.choices(chosen, k=rng.choice([1, 10, 100, 1000])))
    if rng.random() < 0.1:
        data = (data * (1 + (1 << 20) // max(1, len(data))))[: 1 << 20]
    if rng.random() < 0.7:
        data = data.decode("utf-8", "replace").encode()
    (folder / "text.txt").write_bytes(data)


def read_text(folder, rng):
    from text.corpus import STYLES, paragraphs, pieces, share
    from text.sentences import sentences
    from text.tokens import corpus_lines

    path, places = folder / "text.txt", Places(folder, folder / "cache")
    kind, style = rng.randrange(3), rng.choice(list(STYLES))
    if kind == 0:
        for split in ("train", "valid", "test"):
            for _, piece in pieces(share([path], split, style), style):
                for _, paragraph in paragraphs(piece, style):
                    sentences(paragraph)
        return
    if kind == 1:
        lines = corpus_lines(str(path), places)
        name = rng.choice(["sentencepiece", "basic_english"])
        tokenizer = tokenizers.train_tokenizer(name, lines, rng.choice([6, 60, 1000]))
    else:
        tokenizer = toys.letters()
    load_corpus(str(path), "train", tokenizer, places)


KINDS = {
    "model": (good_model, change_one, read_model),
    "state": (good_state, change_folder, read_state),
    "cache": (good_cache, change_folder, read_cache),
    "folder": (good_folder, change_subfolder, read_folder),
    "torchtext": (good_torchtext, change_folder, read_torchtext),
    "squad": (good_squad, change_folder, read_squad),
    "race": (good_race, change_folder, read_race),
    "vocab": (good_vocab, change_one, read_vocabulary),
    "archive": (no_files, hostile_archive, read_archive),
    "text": (no_files, hostile_text, read_text),
}

# --------------------------------------------------------------------------------------------------------------------
# Running
# --------------------------------------------------------------------------------------------------------------------

TOUCH = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
         "shutil.rmtree", "shutil.move", "shutil.copyfile"}  # fmt: skip
RUN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn", "socket.connect",
       "webbrowser.open", "ctypes.call_function")  # fmt: skip
watched = None  # the list to which the hook adds, and the folder in which all may be touched


def watch(event, arguments):
    if watched is None:
        return
    found, folder = watched
    if event in RUN:
        found.append(f"ran {event} {arguments}"[:200])
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in TOUCH) and isinstance(arguments[0], str | bytes | Path):
        path = os.fsdecode(arguments[0])
        if not os.path.isabs(path) and event != "open":  # relative to a folder that is open, as shutil.rmtree does it
            return
        path = os.path.abspath(path)
        ours = (f"{folder}/", f"{folder.parent}/stdout", tempfile.gettempdir() + "/tmp", "/dev/null")
        if path != str(folder) and not path.startswith(ours):
            found.append(f"touched {path} ({event})")


def attempt(kind, seed, good, work):
    """Make input ``seed`` of a kind and read it: None, or what is wrong. ``work`` is an empty folder's path."""
    global watched
    rng = random.Random(f"{kind} {seed}")
    _, change, read = KINDS[kind]
    shutil.copytree(good, work)
    change(work, rng)  # where this raises, the fuzzer is wrong
    found, problem, before = [], None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watched = found, work
    try:
        with (open(work.parent / "stdout", "w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream),
              contextlib.redirect_stderr(io.StringIO())):  # fmt: skip
            read(work, rng)
    except UserError as error:
        if not str(error).isprintable():
            problem = f"not one line: {str(error)!r}"[:300]
        if "allocate memory" in str(error) or "MemoryError" in str(error):
            problem = f"asks for too much memory: {error}"[:300]
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:150]} at {' < '.join(places[:0:-1][:4])}"
    finally:
        watched = None
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if not problem and grown > MEMORY // 2:
        problem = f"took {grown >> 20} MB"
    shutil.rmtree(work)
    return found[0] if found else problem


def work_through(kind, seeds, good, work, pipe):
    """In a process of its own: tell the parent each seed before it is tried, then what is wrong."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if "FUZZ_LOUD" not in os.environ:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C++ talks too
    sys.addaudithook(watch)
    warnings.simplefilter("ignore")
    for seed in seeds:
        pipe.send((seed, ""))
        problem = attempt(kind, seed, good, work)
        if problem:
            pipe.send((seed, problem))
    pipe.send((None, ""))


def fuzz(kind, seeds, folder):
    """{seed: what is wrong} of the inputs ``seeds`` of a kind."""
    folder, findings, seeds = Path(folder), {}, list(seeds)
    good, work = folder / "good", folder / "work"
    good.mkdir()
    KINDS[kind][0](good)
    context = multiprocessing.get_context("fork")
    while seeds:
        shutil.rmtree(work, ignore_errors=True)
        receiver, sender = context.Pipe(False)
        process = context.Process(target=work_through, args=(kind, seeds, good, work, sender))
        process.start()
        sender.close()
        seed, end = seeds[0], "the process died"
        with contextlib.suppress(EOFError):
            while True:
                if not receiver.poll(SECONDS):
                    end = f"silent for {SECONDS} seconds"
                    os.kill(process.pid, signal.SIGKILL)
                    break
                seed, problem = receiver.recv()
                if seed is None:
                    break
                if problem:
                    findings[seed] = problem
        process.join()
        if seed is not None:
            findings[seed] = f"{end} (exit code {process.exitcode})"
        seeds = [] if seed is None else seeds[seeds.index(seed) + 1 :]
    return findings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200, help="inputs of each kind (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--kind", choices=KINDS, help="only this kind (default: all)")
    args = parser.parse_args()
    total = 0
    for kind in [args.kind] if args.kind else KINDS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            findings = fuzz(kind, range(args.seed, args.seed + args.inputs), folder)
        alike = {}
        for seed, problem in findings.items():
            alike.setdefault(problem.split(" at ")[-1] if " at " in problem else problem[:60], []).append((seed, problem))
        for group in alike.values():
            print(f"  {kind} {group[0][0]}: {group[0][1]}" + (f" ({len(group)} like it)" if group[1:] else ""))
        print(f"{kind:10} {args.inputs} inputs, {len(findings)} findings of {len(alike)} sorts, "
              f"{time.monotonic() - started:.0f} seconds", flush=True)  # fmt: skip
        total += len(findings)
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
