"""Whether a given vocabulary knows capitals: one rule for --vocab and for Hugging Face folders, and a flag above it."""

import sys

import pytest
from toys import complaint

import data
import mlm_task
import ns_task
import qa_task
import race_task
from files.mistakes import UserError
from text.tokenizer import BERT_SPECIALS, Tokenizer
from text.vocabularies import load_vocab, save_vocab

LATIN = list("abcdefghijklmnopqrstuvwxyz")
CASED = [*BERT_SPECIALS, "the", "The", "cat"]
UNCASED = [*BERT_SPECIALS, "the", "cat", "<S>", "[unused1]"]


def vocab(tmp_path, tokens):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return tmp_path / "vocab.txt"


@pytest.mark.parametrize("tokens, lowercase", [
    (CASED, False), (UNCASED, True), ([*BERT_SPECIALS, "кот", "Кот"], False), ([*BERT_SPECIALS, "кот"], True),
    ([*BERT_SPECIALS, *"的是不我一有大在人了", *LATIN, *(x.upper() for x in LATIN)], False),  # a Chinese one
    ([*BERT_SPECIALS, *(a + b for a in LATIN for b in LATIN), "strAy"], True),  # one by accident
])  # fmt: skip
def test_a_vocabulary_tells_whether_it_knows_capitals(tmp_path, tokens, lowercase):
    assert load_vocab(vocab(tmp_path, tokens)).lowercase is lowercase


def test_a_cased_vocabulary_knows_the_words_of_its_text(tmp_path):
    tokenizer = load_vocab(vocab(tmp_path, CASED))
    assert [tokenizer.tokens[i] for i in tokenizer.encode_ids("The cat")] == ["The", "cat"]


@pytest.mark.parametrize("tokens, flag, told", [
    (CASED, "auto", "cased"), (CASED, "yes", "uncased"), (UNCASED, "auto", "uncased"), (UNCASED, "no", "cased"),
])  # fmt: skip
def test_the_flag_overrides_what_the_vocabulary_tells(tmp_path, monkeypatch, capsys, tokens, flag, told):
    (tmp_path / "text.txt").write_text("The cat.\n\n" * 30)
    words = ["data.py", "prepare", "--dataset", tmp_path / "text.txt", "--vocab", vocab(tmp_path, tokens),
             "--lowercase", flag, "--cache-dir", tmp_path / "cache"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    data.main()
    assert f": {told} wordpiece vocabulary of {len(tokens)};" in capsys.readouterr().out


def test_a_vocabulary_that_says_itself_what_becomes_of_capitals_takes_no_flag(tmp_path):
    save_vocab(Tokenizer("wordpiece", CASED, BERT_SPECIALS, lowercase=False), tmp_path / "saved.pt")
    assert not load_vocab(tmp_path / "saved.pt").lowercase
    with pytest.raises(UserError, match=r"--lowercase yes: is for a vocab.txt, and .*saved.pt says itself"):
        load_vocab(tmp_path / "saved.pt", True)


def test_without_a_given_vocabulary_the_flag_says_what_to_add(run_script):
    process = run_script("mlm_task.py", "--lowercase", "no", code=2)
    assert process.stderr == "error: --lowercase no: is for a given vocabulary; add --vocab FILE, a vocab.txt\n"


@pytest.mark.parametrize("words", [
    "data.py prepare --bert-model m.pt", "mlm_task.py --bert-model m.pt", "mlm_task.py --checkpoint m.pt",
    "ns_task.py --bert-model m.pt", "qa_task.py --evaluate --bert-model m.pt n.pt", "race_task.py --bert-model m.pt",
])  # fmt: skip
def test_beside_a_model_which_brings_its_vocabulary_the_flag_is_refused(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", [*words.split(), "--vocab", "vocab.txt", "--lowercase", "no"])
    script = {"data.py": data, "mlm_task.py": mlm_task, "ns_task.py": ns_task, "qa_task.py": qa_task,
              "race_task.py": race_task}[words.split()[0]]  # fmt: skip
    with complaint(r"^--lowercase no: is for a vocab.txt, and m.pt says itself what becomes of capitals; leave the"):
        script.main() if script is data else script.arguments()


def test_a_new_model_beside_a_given_vocabulary_takes_the_flag(monkeypatch):
    monkeypatch.setattr(sys, "argv", "ns_task.py --bert-model none --vocab vocab.txt --lowercase no".split())
    assert ns_task.arguments().lowercase == "no"
