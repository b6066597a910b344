"""What CONTRIBUTING.md promises: a corpus is one line."""

import pytest

from files.mistakes import UserError
from text.corpus import corpus_parts
from text.places import CORPORA, SPLITS, Corpus, Places


def test_a_corpus_takes_one_line_and_its_files_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(CORPORA, "MyWiki", Corpus("wiki", {split: f"mywiki/{split}.txt" for split in SPLITS}))
    places = Places(tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match=r"mywiki/train\.txt: not found; put it there"):
        corpus_parts("MyWiki", "train", places)
    (tmp_path / "mywiki").mkdir()
    (tmp_path / "mywiki" / "train.txt").write_text("one line\n")
    assert corpus_parts("MyWiki", "train", places) == ([(tmp_path / "mywiki" / "train.txt", 0, 9)], "wiki")
