"""A text that the vocabulary does not know: a warning, and where nothing is known one line, before any training."""

import json
import sys

import pytest
import toys

import data
import mlm_task
from files.mistakes import TOLD, UserError
from text.cache import TokenCache
from text.places import Places
from text.tokens import encode_texts, load_corpus

HALF = "the cat кот sat на мате. "


def load(tmp_path, text, split="train", **more):
    (tmp_path / "text.txt").write_text((text + "\n\n") * 60, encoding="utf-8")
    return load_corpus("Text", split, toys.letters(), Places(tmp_path, tmp_path / "cache"), **more)


def test_one_line_warns_of_many_unknown_words_each_run(tmp_path, capsys):
    for _ in range(2):  # the second from the cache
        TOLD.clear()
        built = load(tmp_path, HALF)
        load(tmp_path, HALF, "valid")
        line = "warning: Text, train split: 43 % of the tokens are unknown to the vocabulary, such as 'кот'; is it of this "
        assert capsys.readouterr().err == line + "language, script and case?\n"
    assert built.meta["notes"] == {"unknown": (built.tokens == toys.letters().unk_id).sum(), "example": "кот"}


def test_only_the_first_rank_warns(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    load(tmp_path, HALF)
    assert not capsys.readouterr().err


def test_a_few_unknown_words_need_no_warning(tmp_path, capsys):
    built = load(tmp_path, "the cat sat on the mat and the dog sat on the blue mat, кот.")
    assert built.meta["notes"]["unknown"] and not capsys.readouterr().err


def test_texts_of_questions_are_warned_of_as_well(tmp_path, capsys):
    encode_texts(["кот", "собака"], toys.letters(), Places(tmp_path, tmp_path), "squad-train")
    assert capsys.readouterr().err.startswith("warning: squad-train: 100 % of the tokens are unknown")


def test_a_cache_with_other_notes_is_refused(tmp_path):
    built = load(tmp_path, HALF)
    for notes in ([], {"unknown": "many"}, {"example": 3}):
        (built.folder / "meta.json").write_text(json.dumps({**built.meta, "notes": notes}))
        with pytest.raises(UserError, match="damaged cache"):
            TokenCache(built.folder)


def test_shares_of_several_processes_add_up(tmp_path):
    alone = load(tmp_path, HALF).meta
    together = load_corpus("Text", "train", toys.letters(), Places(tmp_path, tmp_path / "other"), tasks=2).meta
    assert together == alone and alone["notes"]["unknown"] == 3 * 51


def test_nothing_known_is_one_line_and_code_2(tmp_path, run_script, monkeypatch):
    (tmp_path / "text.txt").write_text("кот на мате.\n\n".replace(".", "") * 60, encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in toys.letters().tokens))
    words = ["--dataset", tmp_path / "text.txt", "--vocab", tmp_path / "vocab.txt", "--cache-dir", tmp_path / "cache"]
    process = run_script("mlm_task.py", *words, "--size", "tiny", "--steps", 1, code=2)
    line = ("error: text.txt, train split: the vocabulary knows no word of it, such as 'кот'; take a --vocab or model of "
            "this language and script, or train a vocabulary\n")  # fmt: skip
    assert process.stderr == line and not (tmp_path / "mlm_bert.pt").exists()
    monkeypatch.setattr(sys, "argv", ["data.py", "prepare", *map(str, words)])
    with pytest.raises(UserError, match="knows no word of it"):
        data.main()


def test_blocks_to_score_without_a_known_word_are_one_line():
    with pytest.raises(UserError, match="no word that the vocabulary knows is in the blocks to score"):
        mlm_task.figures(None, [(0, (0.0, 0)), (1, (0.0, 0))])
