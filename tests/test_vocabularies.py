"""Vocabularies: trained on any text, saved and loaded as they were; a file that is none is refused in one line."""

import os
import pickle
import random
import struct
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, needs_proc, within
from toys import KINDS, LINES, VOCAB_SIZE

from files.mistakes import UserError
from text import subwords, vocabularies
from text.piece_models import fields_of
from text.tokenizer import BERT_SPECIALS, SPECIALS
from text.vocabularies import load_vocab, save_vocab, train_tokenizer

# -- Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_gives_the_same_tokenizer(tokenizers, kind, tmp_path):
    saved = tokenizers[kind]
    save_vocab(saved, tmp_path / "bert_vocab.pt")
    torch.load(tmp_path / "bert_vocab.pt", weights_only=True)
    for loaded in (load_vocab(tmp_path / "bert_vocab.pt"), pickle.loads(pickle.dumps(saved))):
        assert loaded.fingerprint == saved.fingerprint
        assert loaded.tokens == saved.tokens
        assert loaded.encode("A Café!") == saved.encode("A Café!")


def test_without_a_library_for_sentencepiece_a_vocabulary_still_loads_and_decodes(tokenizers, tmp_path):
    """A run from a cache of ids must not care."""
    save_vocab(tokenizers["sentencepiece"], tmp_path / "vocab.pt")
    ids = tokenizers["sentencepiece"].encode_ids("the cat slept")
    code = f"""
import sys
sys.modules["torchtext"] = sys.modules["sentencepiece"] = None
from files.mistakes import UserError
from text.vocabularies import load_vocab
tokenizer = load_vocab("vocab.pt")
assert tokenizer.decode({ids}) == "the cat slept" and len(tokenizer) == {len(tokenizers["sentencepiece"])}
assert tokenizer.fingerprint == "{tokenizers["sentencepiece"].fingerprint}" and tokenizer.word_starts.any()
try:
    tokenizer.encode("the cat")
except UserError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "pip install sentencepiece==0.2.1" in process.stdout
    assert process.stdout.count("\n") == 1


def test_a_sentencepiece_model_file_is_a_vocabulary(tokenizers, tmp_path):
    (tmp_path / "spiece.model").write_bytes(tokenizers["sentencepiece"].model)
    assert load_vocab(tmp_path / "spiece.model").fingerprint == tokenizers["sentencepiece"].fingerprint
    (tmp_path / "spiece.model").write_bytes(tokenizers["sentencepiece"].model[:5000])
    with pytest.raises(UserError, match=r"spiece\.model: not a whole SentencePiece model"):
        load_vocab(tmp_path / "spiece.model")


def tables_that_lead_out_of_themselves(model):
    """Models whose table of characters is damaged where the libraries would follow it, or give letters cut in two."""
    normaliser = next(value for number, value, _ in fields_of(model) if number == 3)
    table = next(value for number, value, _ in fields_of(normaliser) if number == 2)
    at, size = model.index(table) + 4, int.from_bytes(table[:4], "little")
    units = list(struct.unpack(f"<{size // 4}I", table[4 : 4 + size]))
    inner = next(number for number, unit in enumerate(units) if unit >> 31 == 0 and unit >> 8 & 1)
    value = inner ^ (units[inner] >> 10) << ((units[inner] & 512) >> 6)
    for number, unit in ((0, 1 << 30), (inner, 1 << 30 | 256), (value, 1 << 31 | 10**8)):
        yield model[: at + 4 * number] + struct.pack("<I", unit) + model[at + 4 * number + 4 :]
    yield model[: at - 4] + struct.pack("<I", size - 1024) + model[at:]
    end = at + len(table) - 4
    yield model[: end - 1] + b"x" + model[end:]
    yield model[: end - 2] + b"\xff" + model[end - 1 :]


def test_a_damaged_table_of_characters_is_told_and_never_followed(tokenizers):
    model = tokenizers["sentencepiece"].model
    assert subwords.encoder(model)("ﬁ Å") == subwords.encoder(model)("fi Å")
    damaged = list(tables_that_lead_out_of_themselves(model))
    for broken in damaged:
        with pytest.raises(UserError, match="SentencePiece model is damaged"):
            subwords.encoder(broken)
    assert len(set(damaged)) == 6


# -- Training ----------------------------------------------------------------------------------------------------------


def test_basic_english_keeps_the_most_frequent_words_and_breaks_ties_by_name():
    tokenizer = train_tokenizer("basic_english", ["b a c", "c <unk> <unk> <mask>", "d"], 8)
    assert tokenizer.tokens == [*SPECIALS, "c", "a", "b"]
    assert tokenizer.encode_ids("A d <unk> <pad>") == [6, 1, 1, 1]


def test_the_same_lines_train_the_same_model(tokenizers):
    again = train_tokenizer("sentencepiece", iter(LINES), VOCAB_SIZE)
    assert again.model == tokenizers["sentencepiece"].model
    assert len(again) == VOCAB_SIZE and again.tokens[:5] == list(SPECIALS)


def test_a_tiny_text_gets_the_vocabulary_it_can_fill(capfd):
    tokenizer = train_tokenizer("sentencepiece", ["hello world"], 30_000)
    assert tokenizer.decode(tokenizer.encode_ids("hello world")) == "hello world"
    assert len(tokenizer) < 100
    assert capfd.readouterr() == ("", "")  # the trainer itself writes pages


@needs_proc
def test_what_this_process_has_open_is_neither_open_nor_free_in_the_one_that_trains(tmp_path):
    """A lock would be held there, and who closes a file of his would close the vocabulary's."""
    with open(tmp_path / "mine.txt", "w") as mine:
        def work():
            assert os.readlink(f"/proc/self/fd/{mine.fileno()}") == os.devnull

        assert vocabularies._in_a_process(work) == ""


def test_special_tokens_in_the_training_text_stay_ordinary():
    tokenizer = train_tokenizer("sentencepiece", ["<s> <mask> <unk> <pad> </s>"] * 50, 60)
    ids = tokenizer.encode_ids("<mask> <pad> <s>")
    assert min(ids) >= len(SPECIALS)
    assert tokenizer.decode(ids) == "<mask> <pad> <s>"


def test_very_long_lines_are_not_lost_in_training():
    tokenizer = train_tokenizer("sentencepiece", [" ".join(LINES * 20), "é" * 5_000], VOCAB_SIZE)
    assert tokenizer.unk_id not in tokenizer.encode_ids("asleep é")


def test_the_sample_bounds_what_is_read():
    lines = iter(["some words of text"] * 1000)
    vocabularies.train_sentencepiece(lines, 30, sample_bytes=1000)
    assert 900 < len(list(lines)) < 1000


@pytest.mark.parametrize("string", ["é", "no-blank-at-all-here,", "one blank and-then-none-for-a-long-time"])
def test_one_string_over_and_over_trains_a_vocabulary_soon(string):
    lines = [string * (1_000_000 // len(string)), "the cat sat"]
    with within(300, elsewhere=True):
        assert 12 < len(train_tokenizer("sentencepiece", lines, 40)) <= 40


def test_a_text_that_stands_twice_trains_a_vocabulary_soon():
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrst", k=rng.randint(2, 9))) for _ in range(3000)]
    book = [" ".join(rng.choices(words, k=80)) for _ in range(2000)]  # a megabyte; the trainer took minutes for two
    with within(300, elsewhere=True):
        once, twice = (train_tokenizer("sentencepiece", text, 500) for text in (book, book + book))
    assert len(once) == len(twice) == 500


def test_one_line_over_and_over_trains_a_vocabulary_soon():
    lines = ["the cat sat on the mat and the dog lay"] * 100_000  # hours, for a trainer that was given all
    with within(300, elsewhere=True):
        assert 12 < len(train_tokenizer("sentencepiece", [*lines, "a bird flew"], 30)) <= 30


# -- Mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"the\n[UNK]\n[PAD]\n", r"lacks \[CLS\] \[SEP\] \[MASK\]"),
        ("\n".join([*BERT_SPECIALS, "the", "a", "the"]).encode(), "line 8 repeats line 6 \\('the'\\)"),
        (b"[PAD]\n\xff\n", "not UTF-8 at byte 6"),
        (b"PK\x03\x04 and then nothing", "not a vocabulary that --save-vocab wrote"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"vocab\.txt: {message}") as caught:
        load_vocab(tmp_path / "vocab.txt")
    assert "\n" not in str(caught.value)


def test_pickled_objects_in_a_vocabulary_file_are_not_made(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"kind": Trap()}, tmp_path / "vocab.pt")
    with pytest.raises(UserError, match="not a vocabulary that --save-vocab wrote"):
        load_vocab(tmp_path / "vocab.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.txt: cannot be read"):
        load_vocab(tmp_path / "no.txt")


@pytest.mark.parametrize("kind", ["sentencepiece", "basic_english"])
def test_a_text_without_words_or_a_vocabulary_without_room_is_refused(kind):
    with pytest.raises(UserError, match="no word in the text"):
        train_tokenizer(kind, ["", " \n", "\u200b" if kind == "sentencepiece" else ""], 100)
    with pytest.raises(UserError, match="--vocab-size 5: 5 tokens are special"):
        train_tokenizer(kind, LINES, 5)


def test_too_few_tokens_for_the_characters_is_told_with_the_number():
    with pytest.raises(UserError, match="characters alone need 13"):
        train_tokenizer("sentencepiece", ["hello world"], 10)
    assert len(train_tokenizer("sentencepiece", ["hello world"], 13)) == 13


def test_wordpiece_is_not_trained_here():
    with pytest.raises(UserError, match="add --vocab FILE"):
        train_tokenizer("wordpiece", LINES, 100)
