"""Reading: texts, their lines and JSON, and what is wrong with them in one line."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from files.mistakes import UserError

CHUNK = 1 << 20  # bytes
CACHE_TAG = "CACHEDIR.TAG"  # marks a folder as a cache for all who search or save what is around it, bford.info/cachedir
CONVERT = "convert it, with iconv -f cp1252 -t utf-8, or of what Windows calls Unicode -f utf-16"


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file. Raises UserError where it is absent, unreadable or not UTF-8 (with the byte)."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; {CONVERT}") from None


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file, which \\n, \\r\\n or \\r end. Raises UserError as `read_text` does.

    Not splitlines(), which also cuts at form feeds, U+2028 and the like, as they stand within lines of pasted text.
    """
    return re.split(r"\r\n?|\n", read_text(path))


def texts_in(folder: str | Path) -> list[Path]:
    """The .txt files of a folder, as `files_in` has them."""
    return files_in(folder, (".txt",))


def files_in(folder: str | Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of a folder whose names end so, at any depth, in the order of their paths.

    But for hidden ones and those in hidden folders, as macOS and Jupyter make them, and what lies in a cache. A folder to
    which several links lead counts once. Raises UserError where one cannot be looked into.
    """
    found, seen = [], {os.path.realpath(folder)}

    def closed(error):
        if isinstance(error, PermissionError):
            raise UserError(f"{error.filename}: cannot be looked into ({error.strerror}); see to the right, or name others")

    for path, folders, names in os.walk(folder, followlinks=True, onerror=closed):
        inner = sorted(name for name in folders if shown(name) and not os.path.exists(os.path.join(path, name, CACHE_TAG)))
        real = {os.path.realpath(os.path.join(path, name)): name for name in reversed(inner)}  # of each the first name
        unseen = {name for place, name in real.items() if place not in seen}
        folders[:] = [name for name in inner if name in unseen]
        seen |= set(real)
        found += [Path(path, name) for name in names if shown(name) and name.lower().endswith(endings)]
    return sorted(path for path in found if path.is_file())


def shown(name: str) -> bool:
    """Is this the name of a file or folder of the owner's, not of one that a system puts beside it?"""
    return not name.startswith(".") and name != "__MACOSX"


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises UserError with line and column where it is broken."""
    return parse_json(read_text(path), path)


def parse_json(text: str, where: str | Path, line: int | None = None) -> Any:
    """The value of a JSON text, or of one line of a file of such."""
    if not text.strip():
        raise UserError(f"{where}: empty file; JSON was expected")
    at = f": line {line}" if line else ""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        lines = error.msg == "Extra data" and not line
        remedy = "where each line is an object, call it .jsonl" if lines else "fetch the file again or mend it"
        raise UserError(f"{where}: broken JSON at {place} ({error.msg}); {remedy}") from None
    except RecursionError:
        raise UserError(f"{where}{at}: JSON nested too deeply; fetch the file again") from None
    except ValueError:
        raise UserError(f"{where}{at}: JSON with a number of thousands of digits; fetch the file again") from None


def digest_of(path: str | Path, algorithm: str = "sha256") -> str:
    """The digest of a file's bytes, hexadecimal, by any algorithm of hashlib."""
    digest = hashlib.new(algorithm, usedforsecurity=False)  # else systems under FIPS have no MD5
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
