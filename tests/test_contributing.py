"""What CONTRIBUTING.md promises: a corpus is one line, an objective a class of a dozen."""

import re

import numpy as np
import pytest
import toys
from conftest import ROOT

from files.mistakes import UserError
from text.corpus import corpus_parts
from text.masked_blocks import MaskedBlocks
from text.places import CORPORA, SPLITS, Corpus, Places


def test_a_corpus_takes_one_line_and_its_files_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(CORPORA, "MyWiki", Corpus("wiki", {split: f"mywiki/{split}.txt" for split in SPLITS}))
    places = Places(tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match=r"mywiki/train\.txt: not found; put it there"):
        corpus_parts("MyWiki", "train", places)
    (tmp_path / "mywiki").mkdir()
    (tmp_path / "mywiki" / "train.txt").write_text("one line\n")
    assert corpus_parts("MyWiki", "train", places) == ([(tmp_path / "mywiki" / "train.txt", 0, 9)], "wiki")


def test_the_objective_that_it_writes_out_hides_stretches():
    found = {"np": np, "MaskedBlocks": MaskedBlocks}
    exec(re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[1], found)
    data = found["MaskedSpans"](toys.corpus(*toys.LONG), toys.numbered(7000), 32, 1, 0.3)
    batch = data.collate([0, 5, 9], 1)
    positions = batch["positions"][:, 1:].numpy()
    original = np.stack([data.block(index, 1) for index in (0, 5, 9)])
    assert batch["labels"].tolist() == original[positions].tolist()
    assert 0 < positions.mean() < 0.35 and not data.special[original[positions]].any()
    runs = [len(run) for row in positions for run in "".join("x" if one else " " for one in row).split()]
    assert max(runs) >= 3  # specials, edges and overlaps make others
