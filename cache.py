"""The token cache: text is tokenised once, by all cores, into plain arrays that later runs map into memory.

A cache is a folder of arrays and a ``meta.json``, named after a digest of all that decides its content: the files'
names, sizes and times, the tokenizer, and the version of this module. Design choices:

- Work goes out in pieces of about a megabyte and comes back as arrays that are appended to the files at once, so memory
  does not grow with the corpus.
- It is built under a temporary name and renamed when complete: a build that dies leaves nothing that looks finished.
- A lock file makes a second run wait for the first instead of repeating its work; the system drops the lock of a
  process that dies. Where locks do not work, both build and the first rename wins.
- No pickle in the files, and no torch or torchtext here: a prepared cache is read with numpy alone.
"""

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from files import UserError, write_json

VERSION = 1

# What each array holds, and the array whose length is added to its values as pieces are joined.
#   tokens     (T,)    ids; in a corpus each document begins with a sep
#   sentences  (K, 2)  where each sentence begins and ends in tokens
#   documents  (M,)    which sentence each document begins with
#   texts      (K, 2)  where each text (a question, an article) begins and ends in tokens
#   spans      (T, 2)  where each token begins and ends in its text, in characters
POINTS_INTO = {"tokens": None, "sentences": "tokens", "documents": "sentences", "texts": "tokens", "spans": None}


def default_cache_dir():
    return os.environ.get("BERT_CACHE") or "cache"


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_file(path):
    """What tells one version of a file from another without reading it."""
    status = os.stat(path)
    return [Path(path).name, status.st_size, status.st_mtime_ns]


def digest(*parts):
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:16]


@contextlib.contextmanager
def lock(path):
    """Hold a lock on ``path`` against other processes of this machine, and of others where the file system allows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as stream:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def build_once(folder):
    """Yield a temporary folder to fill, renamed to ``folder`` at the end; yield None where ``folder`` exists already."""
    folder = Path(folder)
    if folder.is_dir():
        yield None
        return
    try:
        with lock(folder.with_suffix(".lock")):
            if folder.is_dir():  # another run built it while this one waited
                yield None
                return
            for stale in folder.parent.glob(f"{folder.name}.tmp*"):  # of a run that was killed: the lock is ours
                shutil.rmtree(stale, ignore_errors=True)
            temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
            temporary.mkdir()
            try:
                yield temporary
                with contextlib.suppress(FileExistsError, OSError):
                    temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: the cache cannot be written ({error.strerror}); choose another with --cache-dir"
        ) from None


class TokenCache:
    """The arrays of a finished cache as attributes, mapped into memory; ``meta`` is what was noted beside them."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.meta = json.loads((self.folder / "meta.json").read_text())
        for name, (dtype, shape) in self.meta["arrays"].items():
            path = self.folder / f"{name}.bin"
            array = np.memmap(path, dtype, "r", shape=tuple(shape)) if np.prod(shape) else np.zeros(shape, dtype)
            setattr(self, name, array)

    def text(self, index):
        """The ids of text ``index``."""
        start, end = self.texts[index]
        return self.tokens[start:end]

    def text_spans(self, index):
        """The character spans (length, 2) of the tokens of text ``index``."""
        start, end = self.texts[index]
        return self.spans[start:end]


_work = None  # in a worker process: the function that turns a piece into arrays


def _start_worker(function, arguments):
    global _work
    _work = function(*arguments)
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()


def _leave_with_parent(parent):
    """A pool's workers outlive a parent that is killed, and with them its lock; these look once a second."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _run_worker(piece):
    return _work(piece)


def build(folder, pieces, make_worker, arguments, vocab_size, meta=None, total=None, description="tokenising"):
    """Build the cache in ``folder`` unless it is there, and open it.

    ``make_worker(*arguments)`` is called once in each process and gives the function from a piece to its arrays, named
    as in POINTS_INTO. ``pieces`` yields (size, piece); ``total`` is the sum of the sizes, for the progress bar.
    """
    with build_once(folder) as temporary:
        if temporary is not None:
            token_type = np.uint16 if vocab_size <= 1 << 16 else np.int32
            _write(temporary, pieces, make_worker, arguments, token_type, meta or {}, total, description)
    return TokenCache(folder)


def _write(folder, pieces, make_worker, arguments, token_type, meta, total, description):
    lengths, shapes, streams = {}, {}, {}
    bar = tqdm(total=total, unit="B", unit_scale=True, desc=description, disable=None, leave=False)
    with contextlib.ExitStack() as stack:
        for size, arrays in _work_through(pieces, make_worker, arguments):
            bases = {name: lengths.get(name, 0) for name in arrays}
            for name, array in arrays.items():
                points_into = POINTS_INTO[name]
                if points_into:
                    array = array.astype(np.int64) + bases[points_into]
                array = array.astype(token_type if name == "tokens" else np.int64 if points_into else np.int32)
                if name not in streams:
                    streams[name] = stack.enter_context(open(folder / f"{name}.bin", "wb"))
                array.tofile(streams[name])
                lengths[name] = bases[name] + len(array)
                shapes[name] = (array.dtype.str, [lengths[name], *array.shape[1:]])
            bar.update(size)
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
    bar.close()
    write_json(folder / "meta.json", {**meta, "arrays": shapes})


def _work_through(pieces, make_worker, arguments):
    """Yield (size, result) for each piece, in order, never holding more than a few pieces."""
    pieces = iter(pieces)
    first = list(itertools.islice(pieces, 2))
    pieces = itertools.chain(first, pieces)
    if len(first) < 2 or cores() == 1:  # too little to share
        worker = make_worker(*arguments)
        for size, piece in pieces:
            yield size, worker(piece)
        return
    with multiprocessing.Pool(cores(), _start_worker, (make_worker, arguments)) as pool:
        waiting = []
        for size, piece in pieces:
            waiting.append((size, pool.apply_async(_run_worker, (piece,))))
            if len(waiting) > 2 * cores():
                size, result = waiting.pop(0)
                yield size, result.get()
        for size, result in waiting:
            yield size, result.get()
