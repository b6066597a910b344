"""The commands of data.py: what prepare makes and inspect tells, and bad data in one line."""

import argparse

import pytest
from toys import caches, small_squad, write_all

import data
from files.mistakes import TOLD
from text import places as places_module
from text import tokens
from text.places import Source
from text.questions import load_race_splits, load_squad_splits
from text.tokenizer import SPECIALS, Tokenizer
from text.vocabularies import save_vocab

ARTICLE = {"article": "The cat sat.", "questions": ["Who _ ?"], "options": [["a", "b", "c", "sat"]], "answers": ["D"]}
RACE = {f"RACE/{part}/high/{number}.txt": ARTICLE for part in ("train", "dev", "test") for number in (1, 2)}
VOCAB = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "who", "?", "."])


@pytest.fixture
def script(places, run_script):
    def run(command, name, *flags, **options):
        folders = ["--data_dir", places.data, "--cache-dir", places.cache]  # either spelling
        return run_script("data.py", command, "--dataset", name, *folders, *flags, **options)

    return run


def test_prepare_makes_vocabulary_and_caches_and_prints_a_line_a_split(script, places):
    (places.data / "one.txt").write_text("The cat sat. The dog ran.\n\n" * 100)
    flags = ("--tokenizer", "basic_english", "--vocab_size", "50")
    lines = script("prepare", "Text", *flags).stdout.splitlines()
    assert lines[1].startswith("Text: basic_english vocabulary of 11; tokens go to")
    assert [line.split(" seconds")[0].rsplit(",", 1)[0] for line in lines[2:]] == [
        "train 1 documents, 170 sentences, 681 tokens, 2,295 bytes",
        "valid 1 documents, 10 sentences, 41 tokens, 135 bytes",
        "test  1 documents, 20 sentences, 81 tokens, 270 bytes",
    ]
    before = caches(places)
    assert len(before) == 4 and script("prepare", "Text", *flags).stdout.splitlines()[0] == lines[1]
    assert caches(places) == before


def test_what_prepare_makes_is_what_the_tasks_look_for(script, places, tmp_path, monkeypatch):
    from text.option_rows import OptionRows
    from text.question_windows import QuestionWindows

    asked = {**ARTICLE, "questions": ["Who _ ?", "Who sat?"], "options": ARTICLE["options"] * 2, "answers": ["D", "A"]}
    race = dict.fromkeys(RACE, asked)  # with a blank, and without one, which layouts treat differently
    write_all(places.data, {"squad/train-v1.1.json": small_squad(3), "squad/dev-v1.1.json": small_squad(2), **race})
    (tmp_path / "vocab.txt").write_text(VOCAB)
    lines = script("prepare", "SQuAD1", "--vocab", tmp_path / "vocab.txt").stdout.splitlines()
    assert lines[1].startswith("train 2 documents, 2 questions, 16 tokens, 44 bytes, 0.")
    lines = script("prepare", "RACE", "--vocab", tmp_path / "vocab.txt").stdout.splitlines()
    assert lines[3].startswith("test  2 documents, 4 questions, ")
    monkeypatch.setattr(tokens, "make_text_worker", None)
    tokenizer = tokens.load_vocab(tmp_path / "vocab.txt")
    for split, found in load_squad_splits("SQuAD1", places).items():
        QuestionWindows(found, tokenizer, places, 64, 32, f"SQuAD1-{split}")
    for split, articles in load_race_splits("RACE", places).items():
        OptionRows(articles, tokenizer, places, 64, 0, "truncate", f"RACE-{split}", layout="joint")  # the default head's


def test_inspect_says_what_a_set_holds_and_needs_no_torch(script, places):
    (places.data / "books").mkdir()
    for number in range(20):
        (places.data / "books" / f"{number}.txt").write_text("The cat sat. The dog ran.\n\nThe end.\n")
    write_all(places.data, {"squad/train-v1.1.json": small_squad(3), "squad/dev-v1.1.json": small_squad(2), **RACE})
    (places.data / "torch.py").write_text("raise ImportError('torch is not to be imported')")
    without = {"PYTHONPATH": str(places.data), "fresh": True}
    text = script("inspect", "BookCorpus", **without).stdout
    assert "train 17 files, 612 bytes, 17 documents, 34 paragraphs, 51 sentences, 136 words" in text
    assert "words a sentence: half have at most 3, 95 % at most 3, the longest 3" in text
    questions = script("inspect", "SQuAD1", **without).stdout
    assert "train 1 articles, 2 passages, 2 questions, 0 unanswerable" in questions
    assert "example:\n  The cat sat 0.\n  Who sat?\n  * cat\n" in questions
    choices = script("inspect", "RACE", **without).stdout
    assert "train 2 articles, 2 questions, 2 of level high; right: 2 times D" in choices
    assert "example: high1.txt\n  The cat sat.\n  Who _ ?\n    A  a\n    B  b\n    C  c\n  * D  sat\n" in choices


def test_questions_without_a_training_file_are_prepared_and_inspected_as_far_as_they_go(
    places, site, tmp_path, monkeypatch, capsys
):
    write_all(places.data, {"squad/dev-v2.0.json": small_squad(2)})
    monkeypatch.setitem(places_module.SOURCES, "train-v2.0.json", Source("", f"{site[1]}/gone.json"))
    (tmp_path / "vocab.txt").write_text(VOCAB)
    args = argparse.Namespace(dataset="SQuAD2", bert_model=None, vocab=tmp_path / "vocab.txt", lowercase="auto")
    for command in (data.prepare, data.inspect):
        TOLD.clear()  # each is a process of its own
        command(args, places)
        output = capsys.readouterr()
        assert "2 questions" in output.out and "\ntest  " in output.out and "\ntrain" not in output.out
        assert output.err.startswith("warning: only the test split; ") and "train-v2.0.json: not found" in output.err


def test_prepare_takes_the_vocabulary_of_a_model(script, places, tmp_path):
    from checkpoint import save_model
    from model import BertConfig, MLMTask

    tokenizer = Tokenizer("basic_english", [*SPECIALS, "the", "cat", "sat", "."])
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    save_model(tmp_path / "mlm_bert.pt", MLMTask(BertConfig(vocab_size=len(tokenizer), **sizes)), tokenizer)
    (places.data / "one.txt").write_text("The cat sat.\n\n" * 50)
    output = script("prepare", "Text", "--bert-model", tmp_path / "mlm_bert.pt").stdout
    assert output.startswith("Text: basic_english vocabulary of 9;")
    assert len(caches(places)) == 3
    save_vocab(tokenizer, tmp_path / "vocab.pt")
    script("prepare", "Text", "--vocab", tmp_path / "vocab.pt")
    assert len(caches(places)) == 3


def with_change(change):
    return {**RACE, "RACE/dev/high/2.txt": change if isinstance(change, bytes) else {**ARTICLE, **change}}


def with_training(content):
    return {"squad/train-v1.1.json": content, "squad/dev-v1.1.json": small_squad(1)}


BAD = {
    "unknown name": ({}, "Bookcorpsu", "neither a data set"),
    "missing split": ({name: ARTICLE for name in RACE if "/dev/" not in name}, "RACE", "RACE/dev: no such folder"),
    "broken JSON": (with_training(b"{"), "SQuAD1", "train-v1.1.json: broken JSON at line 1, column 2"),
    "missing key": (with_training({"version": "1.1"}), "SQuAD1", "train-v1.1.json: no 'data'"),
    "empty file": (with_change(b""), "RACE", "high/2.txt: empty file"),
    "answer F": (with_change({"answers": ["F"]}), "RACE", "high/2.txt: question 1: answer 'F'"),
    "one option": (with_change({"options": [["a"]]}), "RACE", "high/2.txt: question 1: 1 option"),
    "not UTF-8": ({"a.txt": b"Good text. " * 9 + b"\xff" + b" more text." * 9}, "Text", "a.txt: not UTF-8 at byte 99"),
    "no text": ({"a.txt": b" \n"}, "Text", "a.txt: no text for the train split"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_ends_a_command_with_one_line_and_code_2_and_nothing_half_written(script, places, tmp_path, case):
    members, name, message = BAD[case]
    write_all(places.data, members)
    (tmp_path / "vocab.txt").write_text(VOCAB)
    process = script("prepare", name, "--vocab", tmp_path / "vocab.txt", code=2)
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert message in process.stderr and "; " in process.stderr
    assert not [name for name in caches(places) if ".tmp" in name or name.startswith("Text")]


def test_a_missing_command_is_one_line(run_script):
    process = run_script("data.py", code=2)
    assert process.stderr == "error: the following arguments are required: command; see --help\n"


def test_a_vocabulary_of_no_size_is_refused(script):
    error = script("prepare", "Sample", "--vocab-size", "0", code=2).stderr
    assert error == "error: argument --vocab-size/--vocab_size: 0 is not above 0; see --help\n"
