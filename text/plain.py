"""Text that is compressed, or stands in the rows of tables, as plain text.

    plain_texts([Path("a.txt"), Path("b.parquet")], places)      # {a.txt: a.txt, b.parquet: cache/b.parquet-text-.../...}

It is written out under the cache folder, once, a file at a time to each core, and read from there as any .txt is: its parts
are ranges of bytes, which neither Parquet nor gzip has. That costs about a twentieth of what tokenising does. A row is a
document, and FILE_END stands between them.
"""

import codecs
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from files.archives import Limit
from files.mistakes import UserError
from files.reading import CONVERT
from files.tables import TABLES, chunks, columns_of, ending, rows
from files.writing import atomic_write
from text import cache
from text.places import Places

FILE_END = "\x1c"  # ASCII's file separator: a blank to Python, and in hardly any text


def plain_texts(files: Iterable[Path], places: Places) -> dict[Path, Path]:
    """Where the plain text of each file lies: a .txt is its own."""
    found, waiting = {}, []
    for path in files:
        found[path] = path
        if ending(path) not in ("", ".txt"):
            key = cache.digest("plain", cache.describe_file(path), places.column)
            name = cache.short(path.name)
            found[path] = places.cache / f"{name}-text-{key}" / f"{name}.txt"
            if not cache.is_built(found[path].parent):
                waiting.append((path.stat().st_size, (path, found[path])))
    begin = len(waiting) * int(os.environ.get("SLURM_PROCID", 0)) // int(os.environ.get("SLURM_NTASKS", 1))
    with cache.progress(sum(size for size, _ in waiting), "writing out text") as bar:
        for size, _ in cache.work_through(waiting[begin:] + waiting[:begin], make_writer, (places.column or "text",)):
            bar.update(size)
    return found


def make_writer(column):
    """In a worker process: from (a file, where its text goes) to the text."""

    def write(task):
        path, target = task
        with cache.build_once(target.parent) as temporary:
            if temporary is not None:
                limit, made = Limit(path), temporary / target.name
                with atomic_write(made) as stream:
                    for part in row_texts(path, column) if ending(path) in TABLES else checked(path):
                        limit.add(len(part))
                        stream.write(part)
                time = path.stat().st_mtime_ns  # so that the tokens are the same text's when this is written again
                os.utime(made, ns=(time, time))

    return write


def row_texts(path: Path, column: str) -> Iterator[bytes]:
    """The text of each row, but for those that have none: null, or blanks."""
    for row in rows(path, [column]):
        entries = row.entries()
        if column not in entries:
            raise UserError(f"{row.where}: no column {column!r}; --text-column takes {' or '.join(columns_of(path))}")
        text = entries[column]
        if not isinstance(text, str | None):
            raise UserError(f"{row.where}: {column!r} is not a text; mend the row, or name another --text-column")
        if text and not text.isspace():
            yield f"{text.replace(FILE_END, ' ')}\n{FILE_END}\n".encode("utf-8", "replace")


def checked(path):
    """The pieces of a compressed text, which is UTF-8."""
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for chunk in chunks(path):
            decoder.decode(chunk)
            done += len(chunk)
            yield chunk
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        place = done - len(decoder.getstate()[0]) + error.start
        raise UserError(f"{path}: not UTF-8 at byte {place} of what it unpacks to; {CONVERT}") from None
