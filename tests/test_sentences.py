"""Where sentences end."""

import pytest

from qa_task import sentence_around
from text.sentences import sentences


@pytest.mark.parametrize(
    "text",
    [
        "One sentence.",
        "Mr. Smith met Dr. No.|He ran.",
        "J. R. R. Tolkien wrote it.|It was I.|Good!",
        '"Stop!" he cried.|"Why?"|"No."|She left.',
        "He said “Go.”|“Now.”|(Later.)|‘Yes.’",
        'She said "He said \'No.\'"|Then silence…|The end.',
        "It costs 3.5 dollars, see p. 23, etc. and more.",
        "no capital. no end",
        "Он пришёл.|Она ушла.",
        "He died . |She lived .",
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text):
    assert sentences(text.replace("|", " ").replace("  ", " ")) == [part.strip() for part in text.split("|")]


TEXT = "A heading\n\nMr. Fox saw a red\ncat. It slept!  Who \"knew\"? Nobody did.\n\nThe end."


@pytest.mark.parametrize("part, sentence", [
    ("red\ncat", "Mr. Fox saw a red cat."), ("Mr", "Mr. Fox saw a red cat."), ("slept", "It slept!"),
    ("slept!  Who", 'It slept! Who "knew"?'), ("did.", "Nobody did."), ("heading", "A heading"), ("end", "The end."),
])  # fmt: skip
def test_an_answer_is_shown_in_its_sentence(part, sentence):
    start = TEXT.index(part)
    assert sentence_around(TEXT, start, start + len(part)) == sentence
