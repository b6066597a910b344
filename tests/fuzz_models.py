"""What tests/fuzz.py damages of models: files, states of runs, Hugging Face folders, torchtext's files, vocabularies.

Of each kind, good(folder) writes what is right, and read(folder, rng) reads it as the program does.
"""

import argparse
import importlib.util
import json
import pickle
import shutil
import sys
import types

import torch
import toys
from fuzz_changes import change_folder, change_one

import checkpoint
from files.writing import write_json
from formats import huggingface
from formats.torchtext_files import read_vocab
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from qa_task import null_threshold
from text import sample, vocabularies
from training import optimizer, sharding
from training.saving import Saving
from training.states import State, States, check_layout, check_same_run

HEADS = (MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask)
TEXTS = ["the cat sat on the mat.", "Él dijo: “Ünïcode” İ \u0301\u0301 字 \ud800 \x00 x1,2,", "a" * 300]
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=40)


def small_tokenizer(kind):
    if kind == "wordpiece":
        return toys.letters()
    lines = [story.text for story in sample.stories("valid", 60, "fuzz")]
    return vocabularies.train_tokenizer(kind, lines, 120)


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


# Model files


def good_model(folder):
    for name, cls, kind, notes, options in (
        ("mlm.pt", MLMTask, "wordpiece", {"bptt": 64}, {}),
        ("ns.pt", NextSentenceTask, "basic_english", {}, {"norm_first": True}),
        ("qa.pt", QuestionAnswerTask, "sentencepiece", {"null_threshold": 0.5}, {}),
        ("race.pt", RaceTask, "wordpiece", {}, {"share_layers": True, "embedding_size": 8}),
    ):  # fmt: skip
        tokenizer = small_tokenizer(kind)
        checkpoint.save_model(folder / name, small_model(cls, tokenizer, **options), tokenizer, notes)


def read_model(folder, rng):
    path = folder / (folder / "chosen").read_text()
    if rng.random() < 0.5:  # by the head that it holds
        cls = {"mlm": MLMTask, "ns": NextSentenceTask, "qa": QuestionAnswerTask, "race": RaceTask}[path.stem]
        return use(*checkpoint.load_model(cls, path))
    read_any_model(path, folder, rng)


# States of runs


def trainer():
    model = small_model(MLMTask, toys.letters())
    return sharding.Engine(model, model, model, optimizer.make_optimizer(model, "adamw", 0.01),
                           torch.amp.GradScaler("cuda", enabled=False))  # fmt: skip


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
    check_same_run(saved, "mlm", {"hidden_size": 16}, argparse.Namespace(lr=0.1, seed=0), 5, "words")
    state = restored(run, saved)
    step(run)
    json.dumps(state.__dict__)


# Hugging Face folders


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


# The files of torchtext's BERT example


def good_torchtext(folder):
    from test_torchtext_files import WORDS, state_dict

    names = ["torchtext.vocab", *["torchtext"] * (importlib.util.find_spec("torchtext") is None)]
    module, real = types.ModuleType("torchtext.vocab"), {name: sys.modules.get(name) for name in names}

    class Vocab:
        pass

    Vocab.__module__, Vocab.__qualname__, module.Vocab = "torchtext.vocab", "Vocab", Vocab
    sys.modules.update(dict.fromkeys(names, module))
    vocabulary = Vocab()
    vocabulary.itos, vocabulary.freqs = list(WORDS), {}
    torch.save(vocabulary, folder / "bert_vocab_old.pt")
    (folder / "bare.pt").write_bytes(pickle.dumps(vocabulary))
    torch.save(vocabulary, folder / "older.pt", _use_new_zipfile_serialization=False)
    for name, was in real.items():
        if was is None:
            del sys.modules[name]
        else:
            sys.modules[name] = was
    torch.save(state_dict(head="mlm"), folder / "mlm_bert.pt")


def read_torchtext(folder, rng):
    vocab = folder / rng.choice(["bert_vocab_old.pt", "bare.pt", "older.pt"])
    if rng.random() < 0.5:
        read_vocab(vocab)
    read_any_model(folder / "mlm_bert.pt", folder, rng, vocab)


# Vocabularies


def good_vocab(folder):
    (folder / "vocab.txt").write_text("\n".join(toys.letters().tokens))
    (folder / "cased.txt").write_text("\n".join([*toys.letters().tokens, *map(str.title, toys.WORDS)]))
    (folder / "spiece.model").write_bytes(small_tokenizer("sentencepiece").model)
    vocabularies.save_vocab(small_tokenizer("basic_english"), folder / "words.pt")
    vocabularies.save_vocab(small_tokenizer("sentencepiece"), folder / "pieces.pt")


ODD_TOKENS = ["İ", "ß", "ǅ", "Σ", "ς", "ﬁ", "##É", "##", "[X]", "<s>", "", " ", "a b", "[CLS]", "[mask]", "\u0301",
              "\u2028", "字"]  # fmt: skip


def change_vocab(folder, rng):
    """One is damaged, or, where it is a list of words, gets some whose case is in doubt."""
    path = folder / rng.choice(["vocab.txt", "cased.txt"])
    if rng.random() < 0.6:
        return change_one(folder, rng)
    tokens = path.read_text().split("\n")
    for _ in range(rng.choice([1, 3, 30])):
        tokens.insert(rng.randrange(len(tokens) + 1), rng.choice([*ODD_TOKENS, rng.choice(tokens).swapcase()]))
    path.write_text("\n".join(dict.fromkeys(tokens) if rng.random() < 0.8 else tokens), encoding="utf-8")
    (folder / "chosen").write_text(path.name)


def read_vocabulary(folder, rng):
    path = folder / (folder / "chosen").read_text()
    tokenizer = vocabularies.load_vocab(path, rng.choice([None, True, False]) if path.suffix == ".txt" else None)
    use(small_model(MLMTask, tokenizer), tokenizer)
    vocabularies.save_vocab(tokenizer, folder / "again.pt")
    assert vocabularies.load_vocab(folder / "again.pt").fingerprint == tokenizer.fingerprint


KINDS = {
    "model": (good_model, change_one, read_model),
    "state": (good_state, change_folder, read_state),
    "folder": (good_folder, change_subfolder, read_folder),
    "torchtext": (good_torchtext, change_folder, read_torchtext),
    "vocab": (good_vocab, change_vocab, read_vocabulary),
}
