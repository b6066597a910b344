"""What a token cache holds of texts without a token, and by what it knows that a text is another one."""

import os

import numpy as np
import pytest

from files.mistakes import UserError
from text import cache, corpus, tokens
from text.sentence_pairs import SentencePairs
from text.tokenizer import BERT_SPECIALS, Tokenizer

EMPTY = "\u200b"  # of which wordpiece makes nothing


@pytest.fixture
def tokenizer():
    return Tokenizer("wordpiece", [*BERT_SPECIALS, "one", "two", "cat", "dog", "."], BERT_SPECIALS)


def tokenised(parts, tokenizer, folder, style="lines"):
    work = corpus.pieces(parts, style)
    return cache.build(folder, work, tokens.make_corpus_worker, (tokenizer, style, "rules"), len(tokenizer))


@pytest.mark.parametrize("piece", [8, 1 << 20])
def test_a_document_without_a_token_is_none_wherever_it_stands(tmp_path, tokenizer, monkeypatch, piece):
    monkeypatch.setattr(corpus, "PIECE", piece)
    lines = [EMPTY, "One. Two.", EMPTY, EMPTY, "Two. Two. One.", EMPTY]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    built = tokenised([corpus.whole(tmp_path / "text.txt")], tokenizer, tmp_path / "cache")
    assert len(built.sentences) == 5 and built.documents.tolist() == [0, 2]
    assert SentencePairs(built, tokenizer, 16, 0).inner_count == 3


def test_a_document_whose_first_token_stands_in_a_later_piece_is_kept(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 30)
    for name, text in {"1.txt": "One.\n\n", "2.txt": f"{EMPTY}\n\n" * 20 + "Two.\n\nOne.\n\n", "3.txt": EMPTY}.items():
        (tmp_path / name).write_text(text)
    files = [corpus.whole(tmp_path / f"{number}.txt") for number in (1, 2, 3)]
    assert tokenised(files, tokenizer, tmp_path / "cache", "book").documents.tolist() == [0, 1]
    assert tokenised(files[1:], tokenizer, tmp_path / "other", "book").documents.tolist() == [0]


def test_texts_without_any_token_are_no_text(places, tokenizer):
    (places.data / "text.txt").write_text(f"{EMPTY}\n\n" * 100)
    with pytest.raises(UserError, match="no text for the train split; add more"):
        tokens.load_corpus("Text", "train", tokenizer, places)


@pytest.mark.parametrize("place", [0, 500_000, 999_990])
def test_another_text_of_the_same_size_and_time_is_tokenised_anew(places, tokenizer, place):
    path = places.data / "text.txt"
    text = "One cat." + " " * 1_000_000
    path.write_text(text)
    os.utime(path, (0, 0))
    before = tokens.load_corpus("Text", "train", tokenizer, places)
    path.write_text(text[:place] + "Two dog." + text[place + 8 :])
    os.utime(path, (0, 0))
    after = tokens.load_corpus("Text", "train", tokenizer, places)
    assert after.folder != before.folder and (place or not np.array_equal(before.tokens, after.tokens))


def test_a_file_is_described_by_little_of_its_content(tmp_path):
    for size in (0, 1, cache.SAMPLE, 2 * cache.SAMPLE, 5 * cache.SAMPLE):
        (tmp_path / "a").write_bytes(os.urandom(size))
        name, length, _, sample = cache.describe_file(tmp_path / "a")
        assert (name, length, len(sample)) == ("a", size, 64)


def test_a_file_that_cannot_be_described_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .*; check the file"):
        cache.sample_of(tmp_path, 0)
