"""From a data set's text to tokens: the vocabulary, trained once and on the training split only."""

import argparse

from toys import caches, complaint

from text import tokens
from text.tokens import load_tokenizer


def arguments(**given):
    given = {"vocab": None, "lowercase": "auto", "tokenizer": "basic_english", "vocab_size": 50, **given}
    return argparse.Namespace(**given)


def test_a_vocabulary_is_trained_once_on_the_training_split(places, monkeypatch):
    (places.data / "one.txt").write_text("The cat sat.\n\n" * 50)
    first = load_tokenizer(arguments(), "Text", places)
    assert {"the", "cat", "sat"} < set(first.tokens)
    monkeypatch.setattr(tokens, "train_tokenizer", None)
    assert load_tokenizer(arguments(), "Text", places).fingerprint == first.fingerprint


def test_the_vocabulary_never_sees_validation_and_test_text(places):
    (places.data / "one.txt").write_text("".join(f"Common word{n * 100 // 2000}.\n\n" for n in range(2000)))
    tokens = load_tokenizer(arguments(vocab_size=500), "Text", places).tokens
    assert "word84" in tokens and not {f"word{n}" for n in range(86, 100)} & set(tokens)


def test_a_vocabulary_that_cannot_be_made_says_what_to_add(places):
    with complaint("--tokenizer wordpiece: needs --vocab FILE"):
        load_tokenizer(arguments(tokenizer="wordpiece"), "Text", places)
    (places.data / "empty.txt").write_text("\n")
    with complaint(r"empty\.txt: no text for the train split; add more"):
        load_tokenizer(arguments(), "Text", places)
    assert caches(places) == []
