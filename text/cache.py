"""The token cache: text is tokenised once, by all cores, into plain arrays that later runs map into memory.

A cache is a folder of arrays and a ``meta.json``, named after a digest of all that decides its content: the files'
names, sizes, times and some of their content, the tokenizer, and the version of the rules. Design choices:

- Work goes out in pieces of about a megabyte and comes back as arrays that are appended to the files at once, so memory
  does not grow with the corpus.
- It is built under a temporary name and renamed when complete: a build that dies leaves nothing that looks finished.
- A lock file makes a second run wait for the first instead of repeating its work; the system drops the lock of a
  process that dies. Where locks do not work, both build and the first rename wins.
- No pickle in the files, and no torch or torchtext here: a prepared cache is read with numpy alone.
"""

import collections
import contextlib
import glob
import hashlib
import itertools
import json
import math
import multiprocessing
import multiprocessing.context
import os
import pickle
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from files.locks import attempt, hold
from files.mistakes import UserError
from files.reading import CACHE_TAG, CHUNK, read_json
from files.writing import write_json

VERSION = 4  # raise it when the same files would give other arrays: cutting, cleaning, layout
STRETCH = 1 << 20  # rows of an array that are written at a time
LONG = 1 << 30  # bytes of text: of so much a line tells that work begins, where no bar can be seen
CHECKED = 1 << 28  # bytes of an array; more would make the start wait, and the folder is the user's own
WORKERS = 64  # at most; each takes about 100 MB
SAMPLE = 1 << 12  # bytes, three times, by which files of the same name, size and time are told apart
SILENT = 3600  # seconds without a write, after which another machine's unfinished build counts as dead

# What each array holds, and the array whose length is added to its values as pieces are joined.
#   tokens     (T,)    ids; in a corpus each document begins with a sep
#   sentences  (K, 2)  where each sentence begins and ends in tokens
#   documents  (M,)    which sentence each document begins with
#   texts      (K, 2)  where each text (a question, an article) begins and ends in tokens
#   spans      (T, 2)  where each token begins and ends in its text, in characters
POINTS_INTO = {"tokens": None, "sentences": "tokens", "documents": "sentences", "texts": "tokens", "spans": None}
# From a piece to its arrays; "notes" among them is a dict for meta.json: numbers add up, of words the first one stays.
Worker = Callable[[Any], dict[str, Any]]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_file(path: str | Path) -> list[str | int]:
    """What tells one version of a file from another without reading all of it.

    Its time alone does not: files from archives often have none, or all the same.
    """
    status = os.stat(path)
    return [Path(path).name, status.st_size, status.st_mtime_ns, sample_of(path, status.st_size)]


def sample_of(path: str | Path, size: int) -> str:
    """A digest of the beginning, the middle and the end of a file; of a small one that is all."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for place in (0, (size - SAMPLE) // 2, size - SAMPLE):
                if place > stream.tell():
                    stream.seek(place)
                digest.update(stream.read(SAMPLE))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
    return digest.hexdigest()


def digest(*parts: Any) -> str:
    """A name for what is made of these plain values, by this version of the cache."""
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------------------------------
# One builder at a time
# --------------------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold a lock on ``path`` against other processes of this machine, and of others where the file system allows.

    Yields whether it is held; False where the file system knows no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "w")  # noqa: SIM115
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    with stream:
        yield bool(hold(stream, math.inf))


def mark(folder):
    """Say by a file, as is usual, that a new folder is a cache: no text of anybody's, should it lie within a data set."""
    if all(path.suffix == ".lock" for path in folder.iterdir()):  # else it may be one in which its owner keeps other things
        (folder / CACHE_TAG).write_text("Signature: 8a477f597d28d172789f06886806bc55\n")


def _unwritable(folder, error):
    reason = error.strerror or error
    return UserError(f"{folder}: the cache cannot be written ({reason}); choose another with --cache-dir")


def is_built(folder: Path) -> bool:
    """Is it there? Those who tidy up old files leave folders without any."""
    return folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))


def short(name: str) -> str:
    """The beginning of a long name, for a folder of the cache, of which a digest says the rest: file systems take 255
    bytes, and a letter may have four."""
    return name.encode("utf-8", "surrogateescape")[:80].decode("utf-8", "ignore")


@contextlib.contextmanager
def build_once(folder: str | Path) -> Iterator[Path | None]:
    """Yield a temporary folder to fill, renamed to ``folder`` at the end; yield None where ``folder`` exists already."""
    folder = Path(folder)
    if is_built(folder):
        yield None
        return
    with lock(folder.with_name(f"{folder.name}.lock")) as held:
        if is_built(folder):  # another run built it while this one waited
            yield None
            return
        temporary = folder.with_name(f"{folder.name}.tmp-{socket.gethostname()}-{os.getpid()}")
        try:
            remove_stale(folder, held)
            mark(folder.parent)
            temporary.mkdir()
            if not (folder.parent / CACHE_TAG).exists():  # its owner keeps other things there
                mark(temporary)
            yield temporary
            try:
                if not is_built(folder):  # of folders without files
                    shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
            except OSError:
                if not is_built(folder):  # else a machine that does not see our lock was first
                    raise
        except OSError as error:
            raise _unwritable(folder.parent, error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(folder, held):
    """Remove what killed builds of ``folder`` left: of this machine's, none is alive while the lock is held."""
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.tmp-*"):
        of_this_machine = left.name.startswith(f"{folder.name}.tmp-{socket.gethostname()}-")
        with contextlib.suppress(FileNotFoundError):  # its builder has just finished
            last_write = max(os.path.getmtime(path) for path in (left, *left.iterdir()))
            if (held and of_this_machine) or time.time() - last_write > SILENT:
                shutil.rmtree(left, ignore_errors=True)


# --------------------------------------------------------------------------------------------------------------------
# Reading and writing
# --------------------------------------------------------------------------------------------------------------------

class TokenCache:
    """The arrays of a finished cache as attributes, mapped into memory; ``meta`` is what was noted beside them."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.meta = read_json(self.folder / "meta.json")
            for name, (dtype, shape) in self.meta["arrays"].items():
                if name not in POINTS_INTO or dtype not in ("<u2", "<i4", "<i8"):
                    raise ValueError(f"{name}, of type {dtype}, is not known")
                path = self.folder / f"{name}.bin"
                if path.stat().st_size != np.prod(shape) * np.dtype(dtype).itemsize:
                    raise ValueError(f"{path.name} has another size than noted")
                array = np.memmap(path, dtype, "r", shape=tuple(shape)) if np.prod(shape) else np.zeros(shape, dtype)
                setattr(self, name, array.view(np.ndarray))  # of which a part is had several times as fast
            self.check()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, UserError) as error:
            raise UserError(f"{self.folder}: damaged cache ({error}); remove this folder, it will be built anew") from None

    def __getattr__(self, name):
        if name in POINTS_INTO:
            raise UserError(f"{self.folder}: damaged cache (no {name}); remove this folder, it will be built anew")
        raise AttributeError(name)

    def check(self) -> None:
        """Raises ValueError where a value points out of the array that it points into, or is no token.

        So it does for notes of another type. Reads what is no larger than CHECKED, and not by way of the map, whose pages
        would count as this process' memory.
        """
        for name, (dtype, _) in self.meta["arrays"].items():
            array, into = getattr(self, name), POINTS_INTO[name]
            if array.shape[1:] != (() if name in ("tokens", "documents") else (2,)):
                raise ValueError(f"{name} has the shape {array.shape}")
            last = len(getattr(self, into)) if into else (1 << 31) - 1
            if name == "tokens":
                last = self.meta.get("vocab_size", last) - 1
            if array.nbytes > CHECKED:
                continue
            with open(self.folder / f"{name}.bin", "rb") as stream:
                while len(part := np.fromfile(stream, dtype, CHUNK // 4)):
                    pairs = part.reshape(-1, 2) if array.ndim == 2 else part[:1].repeat(2)[None]
                    if part.min() < 0 or part.max() > last or (pairs[:, 0] > pairs[:, 1]).any():
                        raise ValueError(f"{name} holds a number out of range")
        notes = self.meta.get("notes", {})  # older caches have none
        if not isinstance(notes.get("unknown", 0), int) or not isinstance(notes.get("example", ""), str):
            raise ValueError("notes of another type")
        if "documents" in self.meta["arrays"] and 0 < self.documents.nbytes <= CHECKED and (
                self.documents[0] or self.documents[-1] >= len(self.sentences) or (np.diff(self.documents) < 0).any()):
            raise ValueError("documents are not in order")

    def text(self, index: int) -> np.ndarray:
        """The ids of text ``index``."""
        start, end = self.texts[index]
        return self.tokens[start:end]

    def text_spans(self, index: int) -> np.ndarray:
        """The character spans (length, 2) of the tokens of text ``index``."""
        start, end = self.texts[index]
        return self.spans[start:end]


def build(
    folder: str | Path, pieces: Iterable[tuple[int, Any]], make_worker: Callable[..., Worker], arguments: tuple,
    vocab_size: int, meta: dict[str, Any] | None = None, total: int | None = None, description: str = "tokenising",
    empty: str = "",
) -> TokenCache:  # fmt: skip
    """Build the cache in ``folder`` unless it is there, and open it.

    ``make_worker(*arguments)`` is called once in each process and gives the function from a piece to its arrays, named
    as in POINTS_INTO. ``pieces`` yields (size, piece); ``total`` is the sum of the sizes, for the progress bar. With
    ``empty``, a cache of which an array would be empty is not written, but this a UserError.
    """
    with build_once(folder) as temporary:
        if temporary is not None:
            work = work_through(pieces, make_worker, arguments)
            _write(temporary, work, vocab_size, meta, total, description, empty)
    return TokenCache(folder)


def build_together(
    folder: str | Path, shares: Sequence[Callable[[], Iterable[tuple[int, Any]]]], first: int,
    make_worker: Callable[..., Worker], arguments: tuple, vocab_size: int, meta: dict[str, Any] | None = None,
    total: int | None = None, description: str = "tokenising", empty: str = "",
) -> TokenCache:  # fmt: skip
    """As `build`, by several processes that call it at once, on one machine or several; gives the very same cache.

    ``shares`` are functions, of which each gives a share of the pieces in their order. Each process begins with share
    ``first`` and takes those that nobody works at; at the end it waits for the others', or does the work of those that
    died. One process joins the shares.
    """
    folder = Path(folder)
    places = [folder.with_name(f"{folder.name}.share-{number}-of-{len(shares)}") for number in range(len(shares))]
    order = [*range(first, len(shares)), *range(first)]
    for waiting, number in itertools.product([False, True], order):
        if is_built(folder) or (not waiting and busy(places[number])):
            continue
        with build_once(places[number]) as temporary:
            if temporary is not None:
                work = work_through(shares[number](), make_worker, arguments)
                _write(temporary, work, vocab_size, meta, total, description)
    try:
        joined = join(folder, (TokenCache(place) for place in places), vocab_size, meta, total, empty)
    except UserError:
        if not is_built(folder):
            raise
        joined = TokenCache(folder)  # without locks another may join at once, be first, and remove the shares
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
    return joined


def join(
    folder: Path, parts: Iterable[TokenCache], vocab_size: int, meta: dict[str, Any] | None = None,
    total: int | None = None, empty: str = "",
) -> TokenCache:  # fmt: skip
    """One cache of several, one after the other, unless it is there; ``parts`` are asked for only then."""
    with build_once(folder) as temporary:
        if temporary is not None:
            work = ((0, {name: getattr(part, name) for name in part.meta["arrays"]} | {"notes": part.meta.get("notes", {})})
                    for part in parts)  # fmt: skip
            _write(temporary, work, vocab_size, meta, total, "joining", empty)
    return TokenCache(folder)


def progress(total: int | None, description: str) -> tqdm:
    """A bar of bytes; where no terminal shows it, a line before a long work."""
    if total and total > LONG and not sys.stderr.isatty():
        print(f"{description}: {total / 1e6:,.0f} MB, {cores()} cores ...", flush=True)
    return tqdm(total=total, unit="B", unit_scale=True, desc=description, disable=None, leave=False)


def busy(folder):
    """Is another process building ``folder`` now? False where the file system knows no locks."""
    with contextlib.suppress(FileNotFoundError), open(folder.with_name(f"{folder.name}.lock")) as stream:
        return attempt(stream, shared=True) is False
    return False


def _write(folder, work, vocab_size, meta, total, description, empty=""):
    """Append the arrays of all pieces, from (size, arrays) in ``work``, to files, and say in meta.json what they are."""
    token_type = np.uint16 if vocab_size <= 1 << 16 else np.int32
    lengths, shapes, streams, notes, begun = {}, {}, {}, {}, np.array([], np.int64)
    bar = progress(total, description)
    with bar, contextlib.ExitStack() as stack, contextlib.closing(work):
        for size, arrays in work:
            for name, value in arrays.pop("notes", {}).items():
                notes[name] = (notes.get(name) or value) if isinstance(value, str) else notes.get(name, 0) + value
            bases = {name: lengths.get(name, 0) for name in arrays}
            for name, array in arrays.items():
                points_into = POINTS_INTO[name]
                kind = token_type if name == "tokens" else np.int64 if points_into else np.int32
                base = bases[points_into] if points_into else 0
                if name == "documents":
                    array = array.astype(kind, copy=False) + base
                    base = 0
                    count = bases["sentences"] + len(arrays["sentences"])
                    array, begun = with_sentences(np.concatenate([begun, array]), count)
                if name not in streams:
                    streams[name] = stack.enter_context(open(folder / f"{name}.bin", "wb"))
                for at in range(0, len(array), STRETCH):  # a map of what is to be joined stays on the disk
                    part = array[at : at + STRETCH].astype(kind, copy=False)
                    (part + base if base else part).tofile(streams[name])
                lengths[name] = bases[name] + len(array)
                shapes[name] = (np.dtype(kind).str, [lengths[name], *array.shape[1:]])
            bar.update(size)
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
    if empty and not (shapes and all(shape[0] for _, shape in shapes.values())):
        raise UserError(empty)
    write_json(folder / "meta.json", {**(meta or {}), "vocab_size": vocab_size, "notes": notes, "arrays": shapes})


def with_sentences(documents, count):
    """The documents that have one of the ``count`` sentences so far, and the last one where it has none as yet.

    A text of which no token is left, such as a zero-width space alone, is no document.
    """
    documents = np.unique(documents)
    return documents[documents < count], documents[documents == count]


# --------------------------------------------------------------------------------------------------------------------
# Sharing the work
# --------------------------------------------------------------------------------------------------------------------

_work = None  # in a worker process: the function that turns a piece into arrays


def _start_worker(function, arguments):
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _work = function(*pickle.loads(arguments))


def _leave_with_parent():
    """Workers outlive a parent that is killed, and with them its lock, which they inherit; so these wait for its end.

    Not by os.getppid(): from Python 3.14 on a third process starts them.
    """
    multiprocessing.parent_process().join()
    os._exit(1)


def _run_worker(piece):
    return _work(piece)


def processes() -> multiprocessing.context.BaseContext:
    """How processes begin here: forked under Linux, as Python did by itself up to 3.13, for others import the script, and
    torch with it, each; but those of a rank, which was spawned, are spawned as well."""
    told = multiprocessing.get_start_method(allow_none=True)
    return multiprocessing.get_context("fork" if told != "spawn" and sys.platform == "linux" else None)


def work_through(
    pieces: Iterable[tuple[int, Any]], make_worker: Callable[..., Callable], arguments: tuple
) -> Iterator[tuple[int, Any]]:
    """Yield (size, result) for each piece, in order, never holding more than a few pieces."""
    pieces = iter(pieces)
    first = list(itertools.islice(pieces, 2))
    pieces, count = itertools.chain(first, pieces), min(cores(), WORKERS)
    if len(first) < 2 or count == 1:  # too little to share
        worker = make_worker(*arguments)
        for size, piece in pieces:
            yield size, worker(piece)
        return
    # Not multiprocessing.Pool: when a worker is killed, it waits for ever.
    # The arguments as bytes: where processes are spawned, as by a rank, torch would hand over tensors as shared memory
    # by means of file descriptors, which fails now and then.
    initial = (make_worker, pickle.dumps(arguments))
    pool = ProcessPoolExecutor(count, processes(), initializer=_start_worker, initargs=initial)
    waiting: collections.deque = collections.deque()
    try:
        for size, piece in pieces:
            waiting.append((size, pool.submit(_run_worker, piece)))
            if len(waiting) > 2 * count:
                size, result = waiting.popleft()
                yield size, result.result()
        for size, result in waiting:
            yield size, result.result()
    except BrokenProcessPool:
        raise UserError(
            "a process that tokenised was killed, most likely because memory ran out; give the run more memory or "
            "fewer cores (taskset)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
