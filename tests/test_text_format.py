"""--text-format sentences: a line a sentence, a blank line between documents, as google-research/bert pretrains on."""

import argparse

import pytest

import data
import ns_task
from files.mistakes import UserError
from text import corpus
from text.places import Places
from text.tokenizer import BERT_SPECIALS, Tokenizer
from text.tokens import load_corpus, load_tokenizer
from training import flags
from training.ranks import Ranks

# The second line is no sentence, and the fourth two: nobody's rule would cut them so.
DOCUMENTS = [["One cat sat", "and a", "dog ran."], ["It ran. It sat."], ["One.", "Two.", "Dog"]]
LAID_OUT = "\ufeffOne cat sat\r\nand a\ndog ran.\n \t\n\nIt ran. It sat.\n\n\nOne.\nTwo.\nDog\n"
WORDS = ["one", "two", "cat", "dog", "sat", "ran", "it", "and", "a", "."]


@pytest.fixture
def tokenizer():
    return Tokenizer("wordpiece", [*BERT_SPECIALS, *WORDS], BERT_SPECIALS)


@pytest.fixture
def places(tmp_path):
    """Three files, each of one split, of the same text."""
    for split in ("train", "valid", "test"):
        (tmp_path / "mine" / split).mkdir(parents=True)
        (tmp_path / "mine" / split / "a.txt").write_bytes(LAID_OUT.encode())
    return Places(tmp_path / "mine", tmp_path / "cache")


@pytest.mark.parametrize("piece", [18, 19, 20, 23, 30, 40, 1 << 20])
def test_lines_are_sentences_and_blank_lines_end_documents(places, monkeypatch, piece):
    monkeypatch.setattr(corpus, "PIECE", piece)
    found = []
    for _, part in corpus.pieces(*corpus.corpus_parts("Text", "train", places, "sentences")):
        for begins, paragraph in corpus.paragraphs(part, "sentences"):
            found += [[]] if begins else []
            found[-1] += corpus.sentences_of(paragraph, "sentences")
    assert found == DOCUMENTS


def test_the_cache_of_another_format_is_another(places, tokenizer):
    plain, laid_out = (load_corpus("Text", "train", tokenizer, places, style) for style in (None, "sentences"))
    assert (len(plain.documents), laid_out.documents.tolist()) == (1, [0, 3, 4])
    assert len(laid_out.sentences) == 7


def test_a_vocabulary_is_trained_on_text_of_the_format(places):
    args = argparse.Namespace(vocab=None, lowercase="auto", tokenizer="basic_english", vocab_size=30,
                              text_format="sentences")  # fmt: skip
    assert set(WORDS) < set(load_tokenizer(args, "Text", places).tokens)


def test_inspect_and_the_tasks_take_the_flag(places, capsys, monkeypatch):
    data.inspect(argparse.Namespace(dataset="Text", text_format="sentences", sentences="rules"), places)
    assert "3 documents, 7 paragraphs, 7 sentences" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["ns_task.py", "--text_format", "sentences"])
    assert ns_task.arguments().text_format == "sentences"
    with pytest.raises(SystemExit):
        flags.parser("qa", "About.", epochs=1).parse_args(["--text-format", "sentences"])


def test_a_split_in_which_no_sentence_follows_another_is_named(tmp_path, tokenizer, monkeypatch):
    for split, text in {"train": "One.\nTwo.\n", "valid": "One.\n", "test": "One.\nTwo.\n"}.items():
        (tmp_path / f"{split}.txt").write_text(text)
    args = argparse.Namespace(dataset="Text", data_dir=tmp_path, cache_dir=tmp_path / "cache", text_format="sentences",
                              predict=None, evaluate=False, sentences="rules", log_dir=tmp_path / "run",
                              save=tmp_path / "ns.pt", precision="fp32", parallel="None", bptt=16, seed=0, frac_ns=0.5,
                              objective="nsp", min_sentence_len=1, text_column=None, valid_share=None,
                              test_share=None)  # fmt: skip
    monkeypatch.setattr(flags, "new_or_loaded", lambda *arguments: (None, tokenizer))
    with pytest.raises(UserError, match=r"^valid split: next sentences: no document has two sentences"):
        ns_task.run(args, Ranks())
