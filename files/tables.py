"""Tables of strangers, row by row, and what is compressed, piece by piece: .jsonl and .txt, plain, .gz or .zst; .parquet.

    for row in rows("validation.jsonl.gz", ["text"]):
        row.where, row.entries()                        # "validation.jsonl.gz: line 1", {"text": ...}
    tables_at(Path("folder"))                           # the files of rows in it

No more is held than one row and a few megabytes. A damaged file, and a row that is none, are a UserError that names file
and line or row; what is wrong with one row is raised by its ``entries``, so that a reader can go on with the next.
"""

import contextlib
import gzip
import sys
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from files.mistakes import UserError
from files.reading import CHUNK, CONVERT, files_in, parse_json, read_text

PACKED = ("", ".gz", ".zst")
TEXTS = tuple(f".txt{packed}" for packed in PACKED)
TABLES = (*(f".jsonl{packed}" for packed in PACKED), ".parquet")
OTHER_ROWS = (".csv", ".tsv", ".xls", ".xlsx", ".arrow", ".feather")
ALIKE = (".ndjson", ".ndjson.gz", ".ndjson.zst", ".json.gz", ".json.zst")  # what is mostly .jsonl by another name
NO_TEXT = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub")
OTHER_PACKED = (".xz", ".bz2", ".7z", ".rar", ".tar.zst")
LINE = 1 << 26  # bytes of a row at most: a file without line ends is no .jsonl
BATCH = 64  # rows of Parquet at a time: each may be a book
# Of compressed .zst at a time: what is made of it comes at once, and of zeros that is 30,000 times as much.
SIP = 1 << 12


def ending(path: Path) -> str:
    """Which of TEXTS and TABLES a file's name ends with; "" where it is another."""
    return next((known for known in (*TEXTS, *TABLES) if path.name.lower().endswith(known)), "")


def stem(path: Path) -> str:
    """A file's name without such an ending, else without its last."""
    return path.name[: -len(ending(path))] if ending(path) else path.stem


def tables_at(path: Path) -> list[Path]:
    """The files of rows that a path names: itself, or those in a folder, at any depth."""
    if path.is_dir():
        return files_in(path, TABLES)
    check_kind(path)
    return [path] if ending(path) in TABLES else []


def check_kind(path: Path) -> None:
    """Raises UserError where a file's name says that it holds rows, or text, as nothing here reads them."""
    kind = path.suffix.lower()
    if path.name.lower().endswith(ALIKE):
        packed = kind if kind in PACKED else ""
        raise UserError(f"{path}: where each of its lines is a JSON object, call it .jsonl{packed}")
    if path.name.lower().endswith(OTHER_PACKED):
        raise UserError(f"{path}: is not unpacked here; unpack it by hand, or pack it as .tar.gz or .zip")
    if kind in OTHER_ROWS:
        raise UserError(f"{path}: rows of {kind} are not read; write them as .jsonl, a JSON object a line (pandas: "
                        "to_json(orient='records', lines=True)), or as .parquet")  # fmt: skip
    if kind in NO_TEXT:
        raise UserError(f"{path}: {kind} is no plain text; save it as .txt")


def read_context(path: str) -> str:
    """The text of --context: of a UTF-8 file, or with - of standard input. Raises UserError where there is none."""
    if path != "-":
        check_kind(Path(path))
    text = sys.stdin.buffer.read().decode("utf-8", "replace") if path == "-" else read_text(path)
    if not text.strip():
        raise UserError(f"--context {path}: no text; give one that may hold the answer")
    return text


class Row(NamedTuple):
    """A row of a table: a line of JSON as it stands, or what Parquet has."""

    path: Path
    number: int
    content: bytes | dict

    @property
    def where(self) -> str:
        return f"{self.path}: {'row' if isinstance(self.content, dict) else 'line'} {self.number}"

    def entries(self) -> dict[str, Any]:
        """Column -> value."""
        if isinstance(self.content, dict):
            return self.content
        try:
            value = parse_json(self.content.decode("utf-8"), self.path, self.number)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where}: not UTF-8 at its byte {error.start}; {CONVERT}") from None
        if not isinstance(value, dict):
            raise UserError(f"{self.where}: not a JSON object; each line must be one, {{\"name\": value, ...}}")
        return value


def rows(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """The rows of a file, numbered from 1; of Parquet with no more than these columns."""
    if ending(path) == ".parquet":
        yield from parquet_rows(path, columns)
        return
    for number, line in enumerate(lines(path), 1):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield Row(path, number, line)


def columns_of(path: Path) -> list[str]:
    """The names of a file's columns, of .jsonl those of its first row; [] where there is none."""
    if ending(path) == ".parquet":
        with parquet(path) as file:
            return list(file.schema_arrow.names)
    return next((list(row.entries()) for row in rows(path, ())), [])


# --------------------------------------------------------------------------------------------------------------------
# Lines, and what they are compressed with
# --------------------------------------------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, unpacked, which \\n ends."""
    rest = b""
    for chunk in chunks(path):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > LINE:
            raise UserError(f"{path}: a line of over {LINE >> 20} MB; one JSON object a line was expected")
    if rest:
        yield rest


def chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked, about a megabyte at a time."""
    try:
        with open(path, "rb") as raw:
            if path.name.lower().endswith(".zst"):
                yield from unpacked_zst(raw, path)
                return
            with gzip.GzipFile(fileobj=raw) if path.name.lower().endswith(".gz") else raw as stream:
                while chunk := stream.read(CHUNK):
                    yield chunk
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise damaged(path, error) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None


def unpacked_zst(raw, path):
    """By hand, since the library's own reader takes a file that was cut for one that ends there."""
    try:
        import zstandard
    except ImportError:
        raise UserError(f"{path}: needs zstandard; pip install zstandard") from None
    frame = None
    try:
        while rest := raw.read(SIP):
            while rest:  # one frame may follow another
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                if chunk := frame.decompress(rest):
                    yield chunk
                rest = frame.unused_data
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        if "too much memory" in str(error):
            raise UserError(f"{path}: packed with a window of over 128 MB (zstd --long); pack it again: zstd -dc --long=31 "
                            "FILE | zstd -o NEW") from None  # fmt: skip
        raise damaged(path, error) from None
    if frame:
        raise damaged(path, "it ends too early")


def damaged(path, reason):
    return UserError(f"{path}: damaged ({reason}); fetch the file again")


def first_line(error):
    return str(error).partition("\n")[0][:200]


# --------------------------------------------------------------------------------------------------------------------
# Parquet
# --------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def parquet(path):
    """The open file. What is wrong with it, or with what is read from it in here, is a UserError."""
    try:
        import pyarrow.parquet
    except ImportError as error:  # absent, or made for another numpy
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({first_line(error)})"
        raise UserError(f'{path}: needs pyarrow{reason}; pip install "pyarrow<25"') from None
    try:
        # Else a whole group of rows is held, which is often the whole file.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
            yield file
    except (pyarrow.lib.ArrowException, OSError, ValueError, OverflowError) as error:
        raise damaged(path, first_line(error)) from None


def parquet_rows(path, columns):
    number = 0
    with parquet(path) as file:
        wanted = [name for name in file.schema_arrow.names if name in columns]
        for batch in file.iter_batches(BATCH, columns=wanted, use_threads=False):
            for content in batch.to_pylist():
                number += 1
                yield Row(path, number, content)
