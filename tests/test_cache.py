"""The token cache: equal to direct tokenisation, built once, whole or not at all, in bounded memory."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fuzz_data
import numpy as np
import pytest
from toys import caches, refused

from files.mistakes import UserError
from text import cache, corpus, tokens
from text.cache import TokenCache, build, build_once
from text.places import Places
from text.tokenizer import SPECIALS, Tokenizer

ROOT = Path(__file__).resolve().parent.parent
WORDS = "the cat sat on a mat and saw red dogs run far away from it".split()


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer("basic_english", [*SPECIALS, *WORDS, "."])


def write_books(folder, count, paragraphs=30):
    """Books of random sentences; gives all of their sentences, {name: [[sentence]] by paragraph}."""
    rng, books = random.Random(5), {}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        books[f"{number}.txt"] = [
            [" ".join(["The", *rng.choices(WORDS, k=rng.randint(2, 9))]) + "." for _ in range(rng.randint(1, 4))]
            for _ in range(paragraphs)
        ]
        text = "\n\n".join(" ".join(paragraph) for paragraph in books[f"{number}.txt"])
        (folder / f"{number}.txt").write_text(text + "\n")
    return books


def run_python(code, *arguments, **options):
    """Start a Python process that sees this project's modules."""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True, **options)


# -- What is in it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 3])
def test_a_cache_holds_what_tokenising_sentence_by_sentence_gives(places, tokenizer, monkeypatch, processes):
    monkeypatch.setattr(cache, "cores", lambda: processes)
    monkeypatch.setattr(corpus, "PIECE", 1000)  # several pieces a book
    books = write_books(places.data, 25)
    ids, sentences, documents = [], [], []
    for path, _, _ in corpus.corpus_parts("Text", "train", places)[0]:
        documents.append(len(sentences))
        ids.append(tokenizer.sep_id)
        for sentence in (sentence for paragraph in books[path.name] for sentence in paragraph):
            more = tokenizer.encode(sentence).ids
            sentences.append([len(ids), len(ids) + len(more)])
            ids += more
    for _ in range(2):  # built, then read again
        built = tokens.load_corpus("Text", "train", tokenizer, places)
        assert built.tokens.tolist() == ids
        assert built.sentences.tolist() == sentences
        assert built.documents.tolist() == documents
        assert built.meta["bytes"] == sum(end - start for _, start, end in corpus.corpus_parts("Text", "train", places)[0])
        monkeypatch.setattr(tokens, "make_corpus_worker", None)


@pytest.mark.parametrize("processes", [1, 3])
def test_texts_come_back_in_their_order_with_character_spans(places, tokenizer, monkeypatch, processes):
    monkeypatch.setattr(cache, "cores", lambda: processes)
    texts = [f"The cat sat {'far away ' * (number % 7)}." for number in range(1200)] + ["", "?"]
    built = tokens.encode_texts(texts, tokenizer, places, "texts")
    for number in (0, 5, 499, 500, 501, 1199, 1200, 1201):
        encoding = tokenizer.encode(texts[number])
        assert built.text(number).tolist() == encoding.ids
        assert built.text_spans(number).tolist() == [list(span) for span in encoding.offsets]
    assert len(built.texts) == len(texts)


def test_several_processes_write_the_same_bytes_as_one(places, tokenizer, monkeypatch, tmp_path):
    monkeypatch.setattr(corpus, "PIECE", 1000)
    write_books(places.data, 3)
    folders = []
    for processes in (1, 2, 5):
        monkeypatch.setattr(cache, "cores", lambda processes=processes: processes)
        here = Places(places.data, tmp_path / str(processes))
        folders.append(tokens.load_corpus("Text", "train", tokenizer, here).folder)
    for name in ("tokens.bin", "sentences.bin", "documents.bin", "meta.json"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_the_files_are_plain_arrays_that_are_read_without_torch(places, tokenizer):
    write_books(places.data, 3)
    built = tokens.load_corpus("Text", "train", tokenizer, places)
    assert sorted(os.listdir(built.folder)) == ["documents.bin", "meta.json", "sentences.bin", "tokens.bin"]
    for name, (dtype, shape) in built.meta["arrays"].items():
        assert dtype in ("<u2", "<i8")
        assert os.path.getsize(built.folder / f"{name}.bin") == np.dtype(dtype).itemsize * np.prod(shape)
    code = "import sys; sys.modules['torch'] = sys.modules['torchtext'] = None\n"
    code += "from text import cache; print(cache.TokenCache(sys.argv[1]).tokens.sum())"
    output, _ = run_python(code, built.folder, stdout=subprocess.PIPE).communicate(timeout=180)
    assert int(output) == built.tokens.sum()


def small_worker(dtype=np.int32):
    return lambda piece: {"tokens": np.array(piece, dtype), "texts": np.array([[0, len(piece)]])}


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.int32)])
def test_ids_take_two_bytes_where_they_fit(tmp_path, vocab_size, dtype):
    ids = [0, 1, vocab_size - 1]
    built = build(tmp_path / "c", [(3, ids), (3, ids)], small_worker, (), vocab_size)
    assert built.tokens.dtype == dtype and built.tokens.tolist() == ids + ids
    assert built.texts.tolist() == [[0, 3], [3, 6]]


# -- When it is built anew ---------------------------------------------------------------------------------------------


def test_a_changed_file_of_the_same_size_is_tokenised_anew(places, tokenizer):
    write_books(places.data, 1)
    path = places.data / "0.txt"
    before = tokens.load_corpus("Text", "train", tokenizer, places)
    text = path.read_text()
    path.write_text(text.replace("cat", "mat").replace("sat", "saw"))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    after = tokens.load_corpus("Text", "train", tokenizer, places)
    assert path.stat().st_size == len(text) and len(after.tokens) == len(before.tokens)
    assert WORDS.index("cat") + len(SPECIALS) in before.tokens and WORDS.index("cat") + len(SPECIALS) not in after.tokens


def test_another_vocabulary_has_another_cache(places, tokenizer):
    write_books(places.data, 1)
    other = Tokenizer("basic_english", [*SPECIALS, *WORDS[1:], "the", "."])
    folders = {tokens.load_corpus("Text", "train", either, places).folder for either in (tokenizer, other)}
    assert len(folders) == 2


def test_a_damaged_cache_is_a_user_error_that_names_the_folder(tmp_path):
    built = build(tmp_path / "c", [(3, [1, 2, 3])], small_worker, (), 10)
    (built.folder / "tokens.bin").write_bytes(b"1")
    with pytest.raises(UserError, match=r"/c: damaged cache .*; remove this folder"):
        TokenCache(built.folder)


@pytest.mark.parametrize("name, place, number", [("tokens", 3, 60_000), ("sentences", 2, 1 << 40), ("sentences", 2, -1),
                                                 ("documents", 0, 10**6)])  # fmt: skip
def test_a_cache_that_points_out_of_itself_is_refused(name, place, number, tmp_path):
    fuzz_data.good_cache(tmp_path)
    folder = tmp_path / "corpus"
    array = np.array(getattr(TokenCache(folder), name))
    array.reshape(-1)[place] = number
    array.tofile(folder / f"{name}.bin")
    refused(lambda: TokenCache(folder), "corpus", "damaged cache", "out of range")


@pytest.mark.parametrize("meta", ["[]", '{"arrays": 1}', '{"arrays": {"tokens": ["O", [1]]}}', "[" * 100_000,
                                  '{"arrays": {"tokens": ["<u2", ["x"]]}}',
                                  '{"arrays": {"../x": ["<u2", [1]]}}'])  # fmt: skip
def test_a_cache_with_a_broken_meta_is_refused(meta, tmp_path):
    (tmp_path / "meta.json").write_text(meta)
    refused(lambda: TokenCache(tmp_path).tokens, "damaged cache")


# -- Builds that fail --------------------------------------------------------------------------------------------------


def test_a_build_that_fails_leaves_nothing(places, tokenizer, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 1000)
    write_books(places.data, 2)
    with open(places.data / "1.txt", "ab") as stream:
        stream.write(b"caf\xe9")
    with pytest.raises(UserError, match=r"1\.txt: not UTF-8 at byte"):
        tokens.load_corpus("Text", "test", tokenizer, places)
    assert caches(places) == []


def test_an_empty_split_is_a_user_error_and_leaves_nothing(places, tokenizer):
    for content in ("", "\n \n"):
        (places.data / "empty.txt").write_text(content)
        with pytest.raises(UserError, match=r"empty\.txt: no text for the train split; add more"):
            tokens.load_corpus("Text", "train", tokenizer, places)
    assert caches(places) == []


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the cache cannot be written .*; choose another with --cache-dir"):
        build(tmp_path / "file" / "c", [(3, [1, 2, 3])], small_worker, (), 10)


def deadly_worker():
    return lambda piece: os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_ends_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cores", lambda: 2)
    with pytest.raises(UserError, match=r"was killed, most likely because memory ran out; give"):
        build(tmp_path / "c", [(1, [1])] * 9, deadly_worker, (), 10)
    assert not (tmp_path / "c").exists() and not list(tmp_path.glob("*.tmp*"))


SLOW_BUILD = """
import multiprocessing, sys, time
multiprocessing.set_start_method("fork")  # other ways could not find what is given with -c
from text import cache, corpus, tokens
from text.places import Places
from text.tokenizer import SPECIALS, Tokenizer
corpus.PIECE, cache.cores = 200, lambda: 2
straight = tokens.make_corpus_worker
def slow(*arguments):
    work = straight(*arguments)
    def slowly(piece):
        time.sleep(float(sys.argv[3]))
        open(sys.argv[4], "a").write("piece\\n")
        return work(piece)
    return slowly
tokens.make_corpus_worker = slow
tokenizer = Tokenizer("basic_english", [*SPECIALS, *sys.argv[5:]])
print(tokens.load_corpus("Text", "train", tokenizer, Places(sys.argv[1], sys.argv[2])).tokens.tolist())
"""


def start_build(places, log, pause):
    return run_python(SLOW_BUILD, places.data, places.cache, pause, log, *WORDS, ".", stdout=subprocess.PIPE)


def test_a_build_that_was_killed_half_way_is_done_again_and_leaves_nothing(places, tokenizer, tmp_path):
    write_books(places.data, 2)
    process = start_build(places, tmp_path / "log", 0.5)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in places.cache.glob("Text-train-*.tmp*/tokens.bin")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=180)  # until its workers have gone too
    assert any(".tmp" in name for name in caches(places))
    output, _ = start_build(places, tmp_path / "log2", 0).communicate(timeout=180)  # not held up by a lock
    direct = tokens.load_corpus("Text", "train", tokenizer, Places(places.data, tmp_path / "other"))
    assert json.loads(output) == direct.tokens.tolist()
    assert caches(places) == caches(Places(places.data, tmp_path / "other"))


def test_two_builds_at_once_do_the_work_once(places, tokenizer, tmp_path):
    write_books(places.data, 2)
    processes = [start_build(places, tmp_path / "log", 0.01) for _ in range(2)]
    first, second = (process.communicate(timeout=180)[0] for process in processes)
    assert json.loads(first) == json.loads(second)
    count = len(list(corpus_pieces(places)))
    assert (tmp_path / "log").read_text().count("piece") == count > 10


def corpus_pieces(places):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "PIECE", 200)
        yield from corpus.pieces(*corpus.corpus_parts("Text", "train", places))


def test_where_locks_do_not_work_the_first_to_finish_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "lock", lambda path: contextlib.nullcontext(False))
    with build_once(tmp_path / "c") as mine:
        (mine / "who").write_text("mine")
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "who").write_text("theirs")
    assert sorted(os.listdir(tmp_path)) == ["CACHEDIR.TAG", "c"]
    assert (tmp_path / "c" / "who").read_text() == "theirs"


def test_a_folder_in_which_its_owner_keeps_other_things_is_not_called_a_cache(tmp_path):
    (tmp_path / "mine.txt").write_text("not to be left out of a backup")
    with build_once(tmp_path / "c"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["c", "mine.txt"]


def test_the_unfinished_build_of_another_machine_is_left_alone_for_an_hour(tmp_path):
    other = tmp_path / "c.tmp-elsewhere-123"
    other.mkdir()
    with build_once(tmp_path / "c"):
        pass
    assert other.exists()
    shutil.rmtree(tmp_path / "c")
    os.utime(other, (0, time.time() - 3601))
    with build_once(tmp_path / "c"):
        pass
    assert not other.exists()


def test_the_data_folder_is_only_read(places, tokenizer):
    books = write_books(places.data, 2)
    for path in (*places.data.iterdir(), places.data):
        path.chmod(path.stat().st_mode & ~0o222)
    before = {path: path.stat().st_mtime_ns for path in (places.data, *places.data.iterdir())}
    tokens.load_corpus("Text", "train", tokenizer, places)
    assert {path: path.stat().st_mtime_ns for path in (places.data, *places.data.iterdir())} == before
    assert len(before) == 1 + len(books)


# -- Memory ------------------------------------------------------------------------------------------------------------


def tree(pid):
    """A process and its descendants."""
    with contextlib.suppress(OSError):
        yield pid
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


def high_water(pid):
    """The most bytes that a process has held so far: the kernel keeps it, so that no moment of sampling is missed."""
    with contextlib.suppress(OSError, KeyError):  # it has ended
        return peak_in(Path(f"/proc/{pid}/status").read_text())
    return 0


def peak_in(status):
    """The most that a process held, but for its files' pages, of which the system maps as many as it has at hand."""
    kilobytes = {name: int(line.split()[1]) for line in status.splitlines() for name in ("VmHWM", "RssFile")
                 if line.startswith(f"{name}:")}  # fmt: skip
    return 1024 * (kilobytes["VmHWM"] - kilobytes["RssFile"])


def prepare(folder, text, tmp_path):
    """`python data.py prepare` on one file of ``text`` blocks: the peak of its largest process, and the tokens."""
    if not high_water("self"):
        pytest.skip("no /proc/PID/status to read the memory of processes from")
    folder.mkdir()
    with open(folder / "text.txt", "w") as stream:
        stream.writelines(text)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "catsatfar", "##cat", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    command = [sys.executable, ROOT / "data.py", "prepare", "--dataset", "Text", "--data-dir", folder]
    command += ["--cache-dir", folder / "cache", "--vocab", tmp_path / "vocab.txt"]
    peak, process = 0, subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, *map(high_water, tree(process.pid)))
        time.sleep(0.05)
    assert process.returncode == 0
    train, = (folder / "cache").glob("Text-train-*/")
    return peak, TokenCache(train)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    rng = random.Random(7)
    block = "\n\n".join(" ".join(rng.choices(WORDS, k=200)) + "." for _ in range(1500)) + "\n\n"  # 1.1 MB
    small, _ = prepare(tmp_path / "small", [block] * 14, tmp_path)
    large, built = prepare(tmp_path / "large", [block] * 84, tmp_path)
    assert built.meta["bytes"] > 75e6 and len(built.documents) == 1
    assert large < small + 30e6 < 400e6


@pytest.mark.slow
@pytest.mark.parametrize("blank", [" ", ""])
def test_a_line_of_20_megabytes_is_tokenised_in_bounded_memory(tmp_path, blank):
    block = blank.join(["cat", "sat", "far", "中"] * 1000) + blank
    peak, built = prepare(tmp_path / "line", [block] * (20_000_000 // len(block.encode())), tmp_path)
    assert built.meta["bytes"] > 16e6 and peak < 400e6
    if blank:  # no word is cut in two: three known ones, and the one that is not
        counts = np.bincount(built.tokens)
        assert set(counts[counts > 1]) == {counts.max()}


OPEN = """
import sys
from test_cache import high_water
from text.batches import epoch_batches
from text.cache import TokenCache
before = high_water("self")  # torch alone takes 360 MB
corpus = TokenCache(sys.argv[1])
order = epoch_batches(len(corpus.tokens) // 127, 256, 1, 0)
print(len(corpus.tokens), corpus.tokens[127 * order[5][0]], high_water("self") - before)
"""


def test_a_cache_of_a_hundred_thousand_million_tokens_is_opened_in_little_memory(tmp_path, places, tokenizer):
    if not high_water("self"):
        pytest.skip("no /proc/PID/status to read the memory of processes from")
    write_books(places.data, 2)
    folder = tokens.load_corpus("Text", "train", tokenizer, places).folder
    meta, count = json.loads((folder / "meta.json").read_text()), 10**11
    meta["arrays"]["tokens"][1] = [count]
    (folder / "meta.json").write_text(json.dumps(meta))
    try:
        os.truncate(folder / "tokens.bin", 2 * count)  # a hole, which takes no room
    except OSError:
        pytest.skip("no file of 200 GB can be here, even of holes")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    out, _ = run_python(OPEN, folder, stdout=subprocess.PIPE, env=environment).communicate()
    length, token, memory = map(int, out.split())
    assert (length, token) == (count, 0) and memory < 300e6


def test_workers_are_forked_whatever_a_bar_has_settled_but_for_those_of_a_rank():
    """From Python 3.14 on others would each import the script, and torch with it."""
    code = ("import multiprocessing; multiprocessing.set_start_method('{}'); from text.cache import processes; "
            "print(processes().get_start_method())")  # fmt: skip
    found = [subprocess.run([sys.executable, "-c", code.format(told)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
             for told in ("forkserver", "spawn")]  # fmt: skip
    assert [done.stdout.strip() for done in found] == ["fork" if sys.platform == "linux" else "forkserver", "spawn"]
