"""Data sets by name: where their files are found or fetched, their vocabulary, and the commands of data.py."""

import argparse
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile

import pytest

import data
from files.mistakes import UserError
from text import places as places_module
from text import tokens
from text.corpus import corpus_parts
from text.places import SPLITS, Places, Source, kinds_of
from text.questions import load_race_splits, load_squad_splits
from text.tokenizer import SPECIALS, Tokenizer
from text.tokens import load_tokenizer
from text.vocabularies import save_vocab

WIKI = {f"wikitext-2/wiki.{split}.tokens": f" = Title = \n \n The {split} text . \n".encode() for split in SPLITS}


@pytest.fixture
def places(tmp_path):
    (tmp_path / "data").mkdir()
    return Places(tmp_path / "data", tmp_path / "cache")


def complaint(pattern):
    return pytest.raises(UserError, match=pattern)


def caches(places):
    """What lies in the cache folder but locks."""
    return sorted(path.name for path in places.cache.iterdir() if path.suffix != ".lock") if places.cache.exists() else []


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as package:
        for name, content in members.items():
            package.writestr(name, content)
    return stream.getvalue()


def tarred(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as package:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            package.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def write_all(folder, members):
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def texts(name, places):
    return [corpus_parts(name, split, places)[0][0][0].read_text() for split in SPLITS]


# -- Where the files come from -----------------------------------------------------------------------------------------


def test_files_in_the_data_folder_come_first_and_nothing_is_written(places):
    write_all(places.data, WIKI)
    (places.data / "wikitext-2-v1.zip").write_bytes(b"not looked at")
    assert texts("WikiText2", places) == [content.decode() for content in WIKI.values()]
    assert not places.cache.exists()


def test_an_archive_is_unpacked_once_into_the_cache(places, monkeypatch):
    (places.data / "wikitext-2-v1.zip").write_bytes(zipped(WIKI))
    assert texts("WikiText2", places) == [content.decode() for content in WIKI.values()]
    monkeypatch.setattr(places_module, "extract", None)
    texts("WikiText2", places)
    assert os.listdir(places.data) == ["wikitext-2-v1.zip"]


def test_books_may_lie_in_an_archive_with_any_folder(places):
    (places.data / "books.tar.gz").write_bytes(tarred({f"epubtxt/{n}.txt": b"A book." for n in range(20)}))
    assert [len(corpus_parts("BookCorpus", split, places)[0]) for split in SPLITS] == [17, 1, 2]


def test_an_archive_without_the_data_set_is_a_user_error(places):
    (places.data / "wikitext-2-v1.zip").write_bytes(zipped({"readme.txt": b"nothing"}))
    with complaint(r"v1\.zip: holds no wikitext-2/wiki\.train\.tokens; fetch .* or unpack"):
        corpus_parts("WikiText2", "train", places)


def test_a_set_that_nobody_may_pass_on_says_what_to_put_where(places):
    with complaint(r"data/books: not found; BookCorpus is not public: put books as .* into .*books\.tar"):
        corpus_parts("BookCorpus", "train", places)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An HTTP server on loopback: gives its folder and its address."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr("files.downloads.PAUSE", 0.01)
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_what_is_missing_is_fetched_unpacked_and_kept(places, site, monkeypatch):
    folder, address = site
    archive = zipped(WIKI)
    (folder / "wiki.zip").write_bytes(archive)
    checksum = "md5:" + hashlib.md5(archive).hexdigest()
    monkeypatch.setitem(places_module.SOURCES, "WikiText2", Source("w.zip", f"{address}/wiki.zip", checksum))
    assert texts("WikiText2", places) == [content.decode() for content in WIKI.values()]
    (folder / "wiki.zip").unlink()
    assert texts("WikiText2", places) == [content.decode() for content in WIKI.values()]
    assert os.listdir(places.data) == ["w.zip"]


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(places, site, monkeypatch):
    folder, address = site
    (folder / "wiki.zip").write_bytes(zipped(WIKI))
    monkeypatch.setitem(places_module.SOURCES, "WikiText2", Source("w.zip", f"{address}/wiki.zip", "md5:" + "0" * 32))
    with complaint(r"wiki\.train\.tokens: not found, and .*its md5 is \w+, expected 0+\).* put it at"):
        corpus_parts("WikiText2", "train", places)
    assert os.listdir(places.data) == [] and caches(places) == []


def test_squad_is_fetched_file_by_file(places, site, monkeypatch):
    folder, address = site
    write_all(folder, {"train-v1.1.json": squad(2), "dev-v1.1.json": squad(1)})
    for part in ("train-v1.1.json", "dev-v1.1.json"):
        monkeypatch.setitem(places_module.SOURCES, part, Source("", f"{address}/{part}"))
    assert {split: len(found.questions) for split, found in load_squad_splits("SQuAD1", places).items()} == {
        "train": 1, "valid": 1, "test": 1,
    }  # fmt: skip
    assert sorted(os.listdir(places.data / "squad")) == ["dev-v1.1.json", "train-v1.1.json"]


def test_what_cannot_be_fetched_names_file_address_and_remedy(places, site, monkeypatch):
    monkeypatch.setitem(places_module.SOURCES, "train-v2.0.json", Source("", f"{site[1]}/gone.json"))
    with complaint(r"train-v2\.0\.json: not found, and http.*404.*; fetch it by hand and put it at"):
        places.find("squad/train-v2.0.json", "train-v2.0.json")


# -- Names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("Wikitext-2", "did you mean WikiText2"), ("squad", "did you mean SQuAD[12]"), ("zzz", "check the spelling")],
)
def test_an_unknown_name_is_told_with_the_known_ones_and_the_nearest(places, name, remedy):
    with complaint(rf"--dataset {name}: neither a data set \(Sample, .*\) nor a file or folder; {remedy}"):
        kinds_of(name, places)


def test_a_set_for_another_task_is_told_so(places):
    with complaint(r"--dataset SQuAD1: that set is for qa_task\.py; choose Sample, WikiText2,.* or a path"):
        corpus_parts("SQuAD1", "train", places)
    with complaint(r"--dataset RACE: that set is for race_task\.py; choose Sample, SQuAD1, SQuAD2, or"):
        load_squad_splits("RACE", places)
    with complaint(r"--dataset Text: that set is for mlm_task\.py and ns_task\.py; choose Sample, RACE, or"):
        load_race_splits("Text", places)


def test_a_path_is_read_as_what_lies_there(places, tmp_path):
    write_all(tmp_path, {"q/train.json": squad(1), "r/train/1.txt": b"", "r/test/1.txt": b"", "t/1.txt": b"", "1.txt": b""})
    kinds = {name: kinds_of(str(tmp_path / name), places) for name in ("q", "r", "t", "1.txt")}
    assert kinds == {"q": ["questions"], "r": ["choices"], "t": ["text"], "1.txt": ["text"]}
    assert kinds_of("Sample", places) == ["text", "questions", "choices"]


# -- Vocabularies ------------------------------------------------------------------------------------------------------


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
    with complaint("--dataset SQuAD1: no vocabulary comes from questions; add --vocab FILE, or"):
        load_tokenizer(arguments(), "SQuAD1", places)
    (places.data / "empty.txt").write_text("\n")
    with complaint(r"empty\.txt: no text for the train split; add more"):
        load_tokenizer(arguments(), "Text", places)
    assert caches(places) == []


# -- The commands ------------------------------------------------------------------------------------------------------


def squad(paragraphs):
    return {"data": [{"title": "Cats", "paragraphs": [{"context": f"The cat sat {p}.", "qas": [
        {"id": f"{paragraphs}-{p}", "question": "Who sat?", "answers": [{"text": "cat", "answer_start": 4}]}]}
        for p in range(paragraphs)]}]}  # fmt: skip


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

    write_all(places.data, {"squad/train-v1.1.json": squad(3), "squad/dev-v1.1.json": squad(2), **RACE})
    (tmp_path / "vocab.txt").write_text(VOCAB)
    lines = script("prepare", "SQuAD1", "--vocab", tmp_path / "vocab.txt").stdout.splitlines()
    assert lines[1].startswith("train 2 documents, 2 questions, 16 tokens, 44 bytes, 0.")
    lines = script("prepare", "RACE", "--vocab", tmp_path / "vocab.txt").stdout.splitlines()
    assert lines[3].startswith("test  2 documents, 2 questions, ")
    monkeypatch.setattr(tokens, "make_text_worker", None)
    tokenizer = tokens.load_vocab(tmp_path / "vocab.txt")
    for split, found in load_squad_splits("SQuAD1", places).items():
        QuestionWindows(found, tokenizer, places, 64, 32, f"SQuAD1-{split}")
    for split, articles in load_race_splits("RACE", places).items():
        OptionRows(articles, tokenizer, places, 64, 0, "truncate", f"RACE-{split}")


def test_inspect_says_what_a_set_holds_and_needs_no_torch(script, places):
    (places.data / "books").mkdir()
    for number in range(20):
        (places.data / "books" / f"{number}.txt").write_text("The cat sat. The dog ran.\n\nThe end.\n")
    write_all(places.data, {"squad/train-v1.1.json": squad(3), "squad/dev-v1.1.json": squad(2), **RACE})
    (places.data / "torch.py").write_text("raise ImportError('torch is not to be imported')")
    without = {"PYTHONPATH": str(places.data)}
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
    write_all(places.data, {"squad/dev-v2.0.json": squad(2)})
    monkeypatch.setitem(places_module.SOURCES, "train-v2.0.json", Source("", f"{site[1]}/gone.json"))
    (tmp_path / "vocab.txt").write_text(VOCAB)
    args = argparse.Namespace(dataset="SQuAD2", bert_model=None, vocab=tmp_path / "vocab.txt", lowercase="auto")
    for command in (data.prepare, data.inspect):
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
    return {"squad/train-v1.1.json": content, "squad/dev-v1.1.json": squad(1)}


BAD = {
    "unknown name": ({}, "Bookcorpsu", "neither a data set"),
    "missing split": ({name: ARTICLE for name in RACE if "/dev/" not in name}, "RACE", "RACE/dev: no such folder"),
    "broken JSON": (with_training(b"{"), "SQuAD1", "train-v1.1.json: broken JSON at line 1, column 2"),
    "missing key": (with_training({"version": "1.1"}), "SQuAD1", "train-v1.1.json: no 'data'"),
    "empty file": (with_change(b""), "RACE", "high/2.txt: empty file"),
    "answer F": (with_change({"answers": ["F"]}), "RACE", "high/2.txt: question 1: answer 'F'"),
    "five options": (with_change({"options": [list("abcde")]}), "RACE", "high/2.txt: question 1: 5 options"),
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


def test_usage_is_told_for_a_missing_command(run_script):
    process = run_script("data.py", code=2)
    assert process.stderr.startswith("usage") and "required: command" in process.stderr
