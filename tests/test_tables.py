"""Text to pretrain on as people have it: compressed, a row of .jsonl or Parquet a document; the same tokens as of .txt."""

import gzip
import io
import json
import os
import sys
import tarfile
from argparse import Namespace

import numpy as np
import pytest
import toys
from toys import caches, refused

from files import tables
from files.tables import chunks, rows
from text import plain
from text.corpus import corpus_parts, pieces
from text.places import SPLITS, kinds_of
from text.tokens import load_corpus, load_tokenizer

# A row is a document, of paragraphs with blank lines between them, as a file is.
DOCUMENTS = ["The cat sat. The dog sat.\n\nWhere is the river?", "Red, blue.\r\n\r\nThe house\nis red. É 字.", " \n",
             "The garden.", "", "The \x1c mat. \ud83d\n \t\nOn the mat."]  # fmt: skip
READ = [text.encode("utf-8", "replace").decode().replace("\x1c", " ") for text in DOCUMENTS if text.strip()]
HOW = ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]


def packed(data, name):
    """Bytes as a file of this name has them."""
    if name.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    if name.endswith(".zst"):
        return pytest.importorskip("zstandard", reason="needs zstandard: pip install zstandard").compress(data)
    return data


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    """To start processes takes longer than all else here."""
    monkeypatch.setattr("text.cache.cores", lambda: 1)


def table(found, name):
    """Rows, a list of dictionaries, as a file of this name has them."""
    if not name.endswith(".parquet"):
        return packed("".join(json.dumps(row) + "\n" for row in found).encode(), name)
    pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "pyarrow<25"')
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), stream, row_group_size=3)
    return stream.getvalue()


def texts(documents, name, column="text"):
    if name.endswith(".parquet"):  # which holds no half of a character
        documents = [text.encode("utf-8", "replace").decode() for text in documents]
    return table([{"number": number, column: text} for number, text in enumerate(documents)], name)


def arrays(name, places, **options):
    """split -> what is trained on."""
    found = {split: load_corpus(name, split, toys.letters(), places, **options) for split in SPLITS}
    return {split: [np.array(part) for part in (one.tokens, one.sentences, one.documents)] for split, one in found.items()}


def same(one, other):
    return all(np.array_equal(a, b) for split in SPLITS for a, b in zip(one[split], other[split], strict=True))


def read(name, places, split="train"):
    return "".join(piece[2].decode() for _, piece in pieces(*corpus_parts(name, split, places)))


# -- The same tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_a_row_is_what_a_file_of_its_own_would_be(write, places, how):
    files = {f"{split}/{number}.txt": text for split in SPLITS for number, text in enumerate(READ)}
    one = arrays(write(files, "texts"), places)
    assert len(one["train"][2]) == 4
    assert same(one, arrays(write({f"{split}.{how}": texts(DOCUMENTS, f"a.{how}") for split in SPLITS}, how), places))


@pytest.mark.parametrize("style", ["book", "sentences", "lines", "wiki"])
def test_how_the_text_of_a_row_is_laid_out_is_told_as_of_a_file(write, places, style):
    rows = ["= A =\none cat\nsat\n\non the mat", "red\n\n= B =\nblue."]
    one = write({f"{split}/{number}.txt": text for split in SPLITS for number, text in enumerate(rows)}, "one")
    other = write({f"{split}.jsonl": texts(rows, "jsonl") for split in SPLITS}, "other")
    assert same(arrays(one, places, style=style), arrays(other, places, style=style))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_compressed_text_is_a_text(write, places, packing):
    files = {f"{split}.txt": ("\ufeff" + READ[0]).encode() for split in SPLITS}
    one = write(files, "a")
    other = write({name + packing: packed(content, packing) for name, content in files.items()}, "b")
    assert same(arrays(one, places), arrays(other, places))


@pytest.mark.parametrize("size", [7, 30, 64])
def test_pieces_end_with_documents_and_lose_nothing(write, places, monkeypatch, size):
    name = write({f"{split}.jsonl": texts(DOCUMENTS * 3, "jsonl") for split in SPLITS})
    whole = arrays(name, places)
    monkeypatch.setattr("text.corpus.PIECE", size)
    found = load_corpus(name, "train", toys.letters(), type(places)(places.data, places.cache / "other"))
    assert len(found.documents) == len(whole["train"][2]) and np.array_equal(found.tokens, whole["train"][0])


def test_a_file_alone_is_divided_between_its_rows(write, places):
    rows = [f"The cat {number} sat.\n\nThe dog sat {number}." for number in range(300)]
    name = f"{write({'all.jsonl.gz': texts(rows, 'jsonl.gz')})}/all.jsonl.gz"
    assert kinds_of(name, places) == ["text"]
    parts = {split: read(name, places, split).split("\x1c") for split in SPLITS}
    assert sum(len(part) - 1 for part in parts.values()) == 300 and all(len(part) > 9 for part in parts.values())
    assert [row.strip() for split in SPLITS for row in parts[split] if row.strip()] == rows


# -- Files and columns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "train-00000-of-00002.jsonl", "train/a.jsonl", "TRAIN.JSONL", "train_2.jsonl.gz", "train/b/c.txt.gz", "train.txt",
])  # fmt: skip
def test_a_file_is_of_the_split_that_it_is_called(write, places, name):
    content = packed(b"The cat.", name) if ".txt" in name else texts(["The cat."], name.lower())
    other = {f"{part}-00000-of-00001.jsonl": texts([f"The {part}."], "jsonl") for part in ("validation", "test")}
    mine = write({name: content, **other})
    for split, word in zip(SPLITS, ("cat", "validation", "test"), strict=True):
        assert word in read(mine, places, split)


@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
def test_a_book_is_not_the_split_that_its_title_begins_with(write, places, ending):
    names = [f"{title}{ending}" for title in ("Test Pilot", "Train Dreams", "Emma", "Ulysses")]
    mine = write({name: packed(f"The {name[:2]} {'sea ' * 50}.".encode(), name) for name in names})
    parts = [read(mine, places, split) for split in SPLITS]
    assert all("sea" in part for part in parts) and sum(f"The {name[:2]}" in "".join(parts) for name in names) == 4


def test_an_archive_of_tables_is_a_set(tmp_path, places):
    with tarfile.open(tmp_path / "mine.tgz", "w:gz") as archive:
        for split in SPLITS:
            content = texts(["The cat."], "jsonl.gz")
            info = tarfile.TarInfo(f"mine/{split}.jsonl.gz")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert read(str(tmp_path / "mine.tgz"), places, "test") == "The cat.\n\x1c\n"


@pytest.mark.parametrize("how", ["jsonl", "parquet"])
def test_another_column_is_named(write, places, how):
    name = write({f"{split}.{how}": texts(["The cat."], f"a.{how}", "body") for split in SPLITS})
    refused(lambda: read(name, places), f"train.{how}: ", " 1: no column 'text'; --text-column takes number or body")
    places.column = "body"
    assert read(name, places) == "The cat.\n\x1c\n"


def test_rows_without_text_are_no_documents(write, places):
    name = write({f"{split}.jsonl": '{"text": null}\n\n{"text": ""}\n{"text": "The cat."}' for split in SPLITS})
    assert read(name, places) == "The cat.\n\x1c\n"


def test_the_text_is_written_out_once_and_when_that_is_lost_the_tokens_stay(write, places, monkeypatch):
    name = write({f"{split}.jsonl": texts(DOCUMENTS, "jsonl") for split in SPLITS})
    first = load_corpus(name, "train", toys.letters(), places)
    written = next(path for path in places.cache.glob("train.jsonl-text-*") if path.is_dir())
    with monkeypatch.context() as patch:
        patch.setattr(plain, "rows", None)
        assert load_corpus(name, "train", toys.letters(), places).folder == first.folder
    for path in written.iterdir():
        path.unlink()  # as those do who tidy up: folders stay
    assert load_corpus(name, "train", toys.letters(), places).folder == first.folder and any(written.iterdir())
    for path in first.folder.iterdir():
        path.unlink()
    assert len(load_corpus(name, "train", toys.letters(), places).tokens)


@pytest.mark.parametrize("name", ["题" * 70 + ".txt.gz", "ж" * 115 + ".jsonl"])
def test_a_long_name_leaves_room_for_the_caches(name, places):
    data = b"The cat.\n\n" * 100 if name.endswith("gz") else texts(["The cat."] * 100, "jsonl")
    (places.data / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    path = str(places.data / name)
    assert len(load_corpus(path, "train", toys.letters(), places).tokens) > 100
    asked = Namespace(vocab=None, tokenizer="basic_english", vocab_size=20, lowercase="auto")
    assert len(load_tokenizer(asked, path, places)) > 5


def test_several_files_are_written_out_by_all_cores(write, places, monkeypatch):
    monkeypatch.setattr("text.cache.cores", lambda: 2)
    name = write({f"train/{number}.jsonl": texts([f"The cat {number}."], "jsonl") for number in range(5)}
                 | {f"{split}.jsonl": texts(["The dog."], "jsonl") for split in ("valid", "test")})  # fmt: skip
    assert [f"cat {number}" in read(name, places) for number in range(5)] == [True] * 5
    write({"train/3.jsonl": "{"}, "mine")
    refused(lambda: read(name, places), "3.jsonl: broken JSON at line 1")


# -- What is not as it should be ---------------------------------------------------------------------------------------

GOOD = json.dumps({"text": "The cat sat on the mat. " * 9}).encode() + b"\n"


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.jsonl", GOOD + b'{"text": "The', ["broken JSON at line 2, column 10 (Unterminated string"]),
    ("a.jsonl", GOOD + b"\0" * 9, ["broken JSON at line 2, column 1 "]),
    ("a.jsonl", GOOD + b'{"text": "a\0b"}', ["broken JSON at line 2, column 12 (Invalid control character"]),
    ("a.jsonl", GOOD + b'{"text": "\xff"}', ["line 2: not UTF-8 at its byte 10; convert it"]),
    ("a.jsonl", GOOD + b'["The cat."]', ["line 2: not a JSON object; each line must be one"]),
    ("a.jsonl", GOOD + b'{"body": "The cat."}', ["line 2: no column 'text'; --text-column takes text"]),
    ("a.jsonl", GOOD + b'{"text": ["The cat."]}', ["line 2: 'text' is not a text; mend the row, or name another"]),
    ("a.jsonl", GOOD + b"[" * 100_000, ["a.jsonl: line 2: JSON nested too deeply"]),
    ("a.jsonl", b'[\n{"text": "The cat."}\n]', ["broken JSON at line 1"]),
    ("a.jsonl.gz", gzip.compress(GOOD * 9, mtime=0)[:-12], ["a.jsonl.gz: damaged (Compressed file ended"]),
    ("a.jsonl.gz", GOOD, ["a.jsonl.gz: damaged (Not a gzipped file"]),
    ("a.txt.gz", gzip.compress(b"The cat.\xff", mtime=0), ["a.txt.gz: not UTF-8 at byte 8 of what it unpacks to"]),
    ("a.txt.gz", gzip.compress("The é.".encode()[:5], mtime=0), ["a.txt.gz: not UTF-8 at byte 4"]),
    ("a.parquet", b"PAR1 and nothing else PAR1", ["a.parquet: damaged (", "fetch the file again"]),
    ("a.parquet", b"", ["a.parquet: damaged ("]),
])  # fmt: skip
def test_a_damaged_file_is_one_line_with_its_name_and_place(write, places, name, content, words):
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    refused(lambda: read(f"{write({name: content})}/{name}", places), *words)
    assert not any("-text-" in name and "tmp" in name for name in caches(places))


def test_what_unpacks_to_far_more_than_its_size_is_refused(write, places, monkeypatch):
    monkeypatch.setattr("files.archives.ALLOWANCE", 1 << 16)
    name = write({"a.txt.gz": gzip.compress(bytes(1 << 22))})
    refused(lambda: read(name, places), "a.txt.gz: unpacks to more than 100 times its size")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_a_file_that_was_cut_is_told_however_it_is_compressed(tmp_path, keep):
    for how in ("jsonl.gz", "jsonl.zst", "parquet"):
        content = texts([os.urandom(99).hex() for _ in range(99)], f"a.{how}")
        (tmp_path / f"a.{how}").write_bytes(content[: int(keep * len(content))])
        refused(lambda how=how: list(rows(tmp_path / f"a.{how}", ["text"])), f"a.{how}: damaged (")


def test_of_zst_one_frame_may_follow_another_and_none_takes_more_memory_than_a_few_bytes_make(tmp_path, monkeypatch):
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "a.zst").write_bytes(zstandard.compress(b"The ") + zstandard.compress(b"cat."))
    assert b"".join(chunks(tmp_path / "a.zst")) == b"The cat."
    monkeypatch.setattr(tables, "SIP", 1 << 9)
    (tmp_path / "b.zst").write_bytes(zstandard.compress(bytes(1 << 26)))
    sizes = [len(chunk) for chunk in chunks(tmp_path / "b.zst")]
    assert sum(sizes) == 1 << 26 and len(sizes) > 1


def test_a_line_that_never_ends_is_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LINE", 1 << 20)
    (tmp_path / "a.jsonl").write_bytes(b"x" * (3 << 20))
    refused(lambda: list(rows(tmp_path / "a.jsonl", ())), "a.jsonl: a line of over 1 MB; one JSON object a line was")


@pytest.mark.parametrize(("library", "name", "command"), [
    ("zstandard", "a.jsonl.zst", "pip install zstandard"), ("pyarrow.parquet", "a.parquet", 'pip install "pyarrow<25"'),
])  # fmt: skip
def test_a_missing_library_is_named_with_its_command(write, places, monkeypatch, library, name, command):
    monkeypatch.setitem(sys.modules, library, None)
    refused(lambda: read(write({name: b"..."}), places), f"{name}: needs {library.partition('.')[0]}; {command}")
