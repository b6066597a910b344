"""What tests/fuzz.py damages of data: token caches, questions and answers, tables, archives, plain text, folders of splits.

Of each kind, good(folder) writes what is right, and read(folder, rng) reads it as the program does; archives, text and
folders of splits are made anew for each input.
"""

import contextlib
import gzip
import io
import json
import shutil
import sys
import tarfile
import warnings
import zipfile

import toys
from fuzz_changes import change_bytes, change_folder, change_one

import data as program
import metrics
from files.archives import extract
from files.writing import write_json
from text import cache, sample, vocabularies
from text.corpus import STYLES, paragraphs, pieces, share
from text.masked_blocks import MaskedBlocks
from text.option_rows import OptionRows
from text.places import Places, kinds_of
from text.question_windows import QuestionWindows
from text.questions import load_race, load_squad
from text.sentence_pairs import SentencePairs
from text.sentences import sentences
from text.tokens import corpus_lines, load_corpus

# Token caches


def good_cache(folder):
    text = "\n\n".join(story.text for story in sample.stories("valid", 40, "fuzz"))
    (folder / "text.txt").write_text(text)
    places = Places(folder, folder / "cache")
    for split in ("train",):
        built = load_corpus(str(folder / "text.txt"), split, toys.letters(), places)
        shutil.move(built.folder, folder / "corpus")
    built = QuestionWindows(toys.squad(), toys.letters(), places, 64, 16).texts
    shutil.move(built.folder, folder / "texts")
    shutil.rmtree(folder / "cache")
    (folder / "text.txt").unlink()


def read_cache(folder, rng):
    tokens, letters = cache.TokenCache(folder / "corpus"), toys.letters()
    for data in (MaskedBlocks(tokens, letters, 32, 0), SentencePairs(tokens, letters, 32, 0)):
        for index in range(min(len(data), 40)):
            batch = data.collate([index], 0)
            assert int(batch["input_ids"].max()) < len(letters)
    texts = cache.TokenCache(folder / "texts")
    for index in range(len(texts.texts)):
        assert len(texts.text(index)) == len(texts.text_spans(index))


# Questions and answers


def run_metrics(*arguments):
    metrics.main([str(argument) for argument in arguments])


def good_squad(folder):
    for version in (1, 2):
        found = toys.squad(contexts=3, impossible=version == 2)
        write_json(folder / f"v{version}.json", toys.as_json(found))
        write_json(folder / f"answers{version}.json", {question.id: "the cat" for question in found.questions})
        write_json(folder / f"odds{version}.json", {question.id: 0.25 for question in found.questions})


def read_squad(folder, rng):
    version = rng.randrange(1, 3)
    if rng.random() < 0.5:
        odds = ["--null-odds", folder / "odds2.json", "--no-answer-threshold", 0.5] if version == 2 else []
        return run_metrics("squad", folder / f"v{version}.json", folder / f"answers{version}.json", *odds)
    found = load_squad(folder / f"v{version}.json", answers_needed=rng.random() < 0.7)
    data = QuestionWindows(found, toys.letters(), Places(folder, folder / "cache"), 64, 16)
    data.collate(list(range(min(len(data), 4))), 0)


def good_race(folder):
    for article in toys.articles(count=2):
        level = "high" if article.id.startswith("high") else "middle"
        path = folder / "test" / level / article.id
        path.parent.mkdir(parents=True)
        write_json(path, {"id": article.id, "article": article.text, "questions": article.questions,
                          "options": article.options, "answers": ["ABCD"[n] for n in article.answers]})  # fmt: skip
    write_json(folder / "answers.json", {article.id: ["A", "B"] for article in toys.articles(count=2)})


def read_race(folder, rng):
    if rng.random() < 0.5:
        return run_metrics("race", folder / "test", folder / "answers.json")
    found = load_race(folder / "test", answers_needed=rng.random() < 0.7)
    data = OptionRows(found, toys.letters(), Places(folder, folder / "cache"), 64, 0, "window")
    data.collate(list(range(min(len(data), 4))), 0)


# Tables

COMPRESSED = {"": bytes, ".gz": lambda data: gzip.compress(data, mtime=0)}


def good_tables(folder):
    """Each layout as .jsonl, and as Parquet where the library is there."""
    answers = {"text": ["cat"], "answer_start": [4]}
    layouts = {
        "questions": {"id": "{}", "context": "The cat sat.", "question": "Who?", "answers": answers},
        "choices": {"example_id": "{}", "article": "The cat.", "question": "Who?", "options": ["a", "b"], "answer": "B"},
        "sense": {"question": "Who {}?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
        "texts": {"text": "The cat {}.\n\nThe dog."},
    }
    for name, layout in layouts.items():
        rows = [{column: value.format(number) if isinstance(value, str) else value for column, value in layout.items()}
                for number in range(9)]  # fmt: skip
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        for ending, compress in COMPRESSED.items():
            (folder / f"{name}.jsonl{ending}").write_bytes(compress(lines))
        with contextlib.suppress(ImportError):
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet")
        with contextlib.suppress(ImportError):
            import zstandard

            (folder / f"{name}.jsonl.zst").write_bytes(zstandard.compress(lines))


def read_tables(folder, rng):
    path = folder / (folder / "chosen").read_text()
    places = Places(folder, folder / "cache", rng.choice([None, "text", "question"]))
    (kind,), needed = kinds_of(str(path), places), rng.random() < 0.7
    if kind == "text":
        return load_corpus(str(path), "train", toys.letters(), places)
    if kind == "questions":
        data = QuestionWindows(load_squad(path, needed), toys.letters(), places, 64, 16)
    else:
        data = OptionRows(load_race(path, "all", needed), toys.letters(), places, 64, 0, rng.choice(["window", "select"]))
    data.collate(list(range(min(len(data), 4))), 0)


# Archives


def no_files(folder):
    """What is read is made anew for each input."""


NAMES = ["a.txt", "a", "b/c.txt", "b", "../outside", "/outside", "b/../../outside", "C:\\outside", "..\\outside", "x" * 300,
         "b/./c.txt", "", ".", "a\nb", "\ud800", "deep/" * 50 + "x", "nul\0name", "link", "link/x"]  # fmt: skip


def hostile_archive(folder, rng):
    """An archive of files, folders, links, devices, sparse files and claims that are not true; sometimes cut or damaged."""
    kind = rng.choice(["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.gz"])
    path, content = folder / kind, rng.randbytes(rng.choice([0, 10, 3000]))
    with contextlib.suppress(ValueError, UnicodeError, OSError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "a.gz":
            with gzip.open(path, "wb") as stream:
                stream.write(content)
                for _ in range(rng.choice([0, 0, 0, 200])):  # 200 MB of zeros
                    stream.write(bytes(1 << 20))
        elif kind == "a.zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
                for _ in range(rng.randint(1, 4)):
                    info = zipfile.ZipInfo(rng.choice(NAMES))
                    info.external_attr = rng.choice([0, 0o100644, 0o120777, 0o020666, 0o040755]) << 16
                    package.writestr(info, bytes(200 << 20) if rng.random() < 0.02 else content, zipfile.ZIP_DEFLATED)
        else:
            with tarfile.open(path, "w:gz" if "gz" in kind else "w", format=rng.choice([0, 1, 2])) as package:
                for _ in range(rng.randint(1, 5)):
                    info = tarfile.TarInfo(rng.choice(NAMES))
                    info.type = rng.choice([b"0", b"0", b"0", *(bytes([kind]) for kind in b"1234567SLxg")])
                    info.linkname, info.size = rng.choice([*NAMES, "/etc/passwd"]), len(content)
                    info.mode = rng.choice([0o644, 0o7777, 0])
                    if rng.random() < 0.1:
                        info.pax_headers = {rng.choice(["size", "path", "GNU.sparse.size", "GNU.sparse.map", "mtime"]):
                                            rng.choice(["9" * 18, "0,9999999999", "../outside", "nan"])}  # fmt: skip
                    if rng.random() < 0.05:
                        info.size = rng.choice([1 << 33, 1 << 60, 10**6])
                        package.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
                    else:
                        package.addfile(info, io.BytesIO(content))
    if not path.exists():
        path.touch()
    if rng.random() < 0.4:
        data = path.read_bytes()[: 1 << 16]
        if kind in ("a.tgz", "a.tar.gz") and rng.random() < 0.7:  # damage behind the compression
            with contextlib.suppress(OSError, EOFError):
                data = gzip.compress(change_bytes(gzip.decompress(data), rng))
            return path.write_bytes(data)
        path.write_bytes(change_bytes(data, rng))


def read_archive(folder, rng):
    archive = next(folder.glob("a.*"))
    if rng.random() < 0.3:
        (folder / "out").mkdir()
    extract(archive, folder / "out")
    assert {path.name for path in folder.iterdir()} == {archive.name, "out"}, "something beside the folder"
    for path in folder.rglob("*"):
        assert not path.is_symlink() and (path.is_dir() or path.is_file()), path
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 150 << 20, "a bomb was unpacked"


# Plain text

PARTS = [b"word ", b"The cat sat. ", b"\n", b"\n\n", b"\r\n", b"\0", b"\xff", b"\xed\xa0\x80", "é".encode(), "字".encode(),
         b"\xef\xbb\xbf", "\u0301".encode(), "\u2028".encode(), b"<page>", b"<text>", b"</text>", b"</page>", b"[[", b"]]",
         b"{{", b"}}", b"{|", b"|}", b"<ref>", b"<ref", b"</ref>", b"<!--", b"-->", b"&amp;", b"&#99999999999;", b"[http://",
         b"= t =", b"====", b"''", b"*#:", b"|", b"<br", b'"', b"<b", b"Mr. A. ", b". ", b"! ", b"x" * 5000,
         "\u202e".encode(), "\U0010ffff".encode(), b"_" * 40, b"<math>", b"&lt;", b" = ", b"\t"]  # fmt: skip


def hostile_text(folder, rng):
    chosen = rng.sample(PARTS, rng.choice([1, 2, 3, 8, len(PARTS)]))
    data = b"".join(rng.choices(chosen, k=rng.choice([1, 10, 100, 1000])))
    if rng.random() < 0.1:
        data = (data * (1 + (1 << 20) // max(1, len(data))))[: 1 << 20]
    if rng.random() < 0.7:
        data = data.decode("utf-8", "replace").encode()
    (folder / "text.txt").write_bytes(data)


def read_text(folder, rng):
    path, places = folder / "text.txt", Places(folder, folder / "cache")
    kind, style = rng.randrange(3), rng.choice(list(STYLES))
    if kind == 0:
        for split in ("train", "valid", "test"):
            for _, piece in pieces(share({path: path}, split, style), style):
                for _, paragraph in paragraphs(piece, style):
                    sentences(paragraph)
        return
    if kind == 1:
        lines = corpus_lines(str(path), places, style=style)
        name = rng.choice(["sentencepiece", "basic_english"])
        tokenizer = vocabularies.train_tokenizer(name, lines, rng.choice([6, 60, 1000]))
    else:
        tokenizer = toys.letters()
    load_corpus(str(path), "train", tokenizer, places, style)


# Folders whose files are called like splits

NAMES_OF_SPLITS = ["train", "train", "Train", "valid", "validation", "dev", "test", "test", "TEST", "other", ".train",
                   "train.d"]  # fmt: skip
DEEPER = ["", "", "", "-v1", "/a", "/high/1", "/high/2", "/middle/1", "/x/y"]
TEXTS = ["", "\n", "The cat sat. The dog sat.\n", "The cat sat.\n\n" * 40, "the dog\n" * 300, "\ufeffred\r\n\r\n" * 30]
ROWS = ['{"text": "The cat sat."}\n', '{"question": "Who?", "options": ["a", "b"], "answer": "A", "passage": "The cat."}\n',
        '{"id": 1, "context": "The cat.", "question": "Who?", "answers": {"text": [], "answer_start": []}}\n']  # fmt: skip


def article(rng):
    return {"id": rng.choice("abc"), "article": "The cat sat.", "questions": ["Who _ ?"] * rng.randrange(3),
            "options": [["a", "b", "c", "d"]] * rng.randrange(3), "answers": ["A"] * rng.randrange(3)}  # fmt: skip


def hostile_splits(folder, rng):
    """Files, folders and links called like splits or nearly so: texts, questions, articles, nothing, and all mixed."""
    made = [lambda: rng.choice(TEXTS), lambda: json.dumps(toys.small_squad(rng.randrange(4))),
            lambda: json.dumps(article(rng)), lambda: rng.choice(ROWS) * rng.randrange(9)]  # fmt: skip
    ours = rng.choice([*made, None])  # most are of one kind
    for _ in range(rng.randint(1, 9)):
        ending = rng.choice([".txt", ".txt", ".json", ".TXT", "", ".md", ".jsonl", ".jsonl"])
        path = folder / "mine" / f"{rng.choice(NAMES_OF_SPLITS)}{rng.choice(DEEPER)}{ending}"
        with contextlib.suppress(OSError):  # a file where a folder is wanted
            path.parent.mkdir(parents=True, exist_ok=True)
            if rng.random() < 0.1:
                path.symlink_to(rng.choice(["nowhere", ".", path.name, ".."]))
            elif rng.random() < 0.05:
                path.mkdir()
            else:
                data = (ours if ours and rng.random() < 0.9 else rng.choice(made))().encode()
                path.write_bytes(change_bytes(data, rng) if rng.random() < 0.1 else data)
    (folder / "vocab.txt").write_text("\n".join(toys.letters().tokens))


def read_splits(folder, rng):
    words = ["--dataset", folder / "mine", "--data-dir", folder, "--cache-dir", folder / "cache"]
    words += ["--text-format", rng.choice(list(STYLES))] if rng.random() < 0.7 else []
    words += ["--level", rng.choice(["middle", "high", "all"])]
    command = rng.choice([["prepare", "--vocab", folder / "vocab.txt"], ["prepare", "--tokenizer", "basic_english"],
                          ["inspect"]])  # fmt: skip
    sys.argv = ["data.py", *map(str, [*command, *words])]
    program.main()


KINDS = {
    "cache": (good_cache, change_folder, read_cache),
    "squad": (good_squad, change_folder, read_squad),
    "race": (good_race, change_folder, read_race),
    "tables": (good_tables, change_one, read_tables),
    "archive": (no_files, hostile_archive, read_archive),
    "text": (no_files, hostile_text, read_text),
    "splits": (no_files, hostile_splits, read_splits),
}
