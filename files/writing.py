"""Writing: whole or not at all, under a temporary name that is synced and renamed."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from files.mistakes import UserError


def check_writable(path: str | Path, read: str | None = None, instead: str = "another --output") -> None:
    """Raises UserError where ``atomic_write`` would not find a place for ``path``, or ``path`` is the file that is read,
    with what to name ``instead``.

    It leaves nothing behind.
    """
    path = followed(path)
    if read and os.path.exists(read) and path.exists() and path.samefile(read):
        raise UserError(f"{path}: is what is read, and would be overwritten; name {instead}")
    with not_a_folder(path):
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))  # those below will be made
        temporary = folder / f"{path.name}.tmp{os.getpid()}"
        temporary.touch()
        temporary.unlink()


def followed(path: str | Path) -> Path:
    """The file that a link at ``path`` stands for, else ``path``: who writes there means that file. Not of a pipe."""
    is_one = os.path.islink(path) and (os.path.isfile(path) or not os.path.exists(path))
    return Path(os.path.realpath(path) if is_one else path)


@contextlib.contextmanager
def not_a_folder(path):
    """Raises UserError where ``path`` is a folder, or something within says that it cannot be written."""
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give the name of a file")
        if path.exists() and not path.is_file():  # /dev/null, which as root would become a file
            raise UserError(f"{path}: is no file, and would be replaced by one; give the name of a file")
        yield
    except OSError as error:
        raise unwritable(path, error) from None


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb", follow: bool = True) -> Iterator[IO]:
    """Open a temporary file beside ``path``; on success sync it and rename it to ``path``, else remove it.

    A reader therefore sees the old file or the new one, never a part; a link stays one, unless it is not to be followed.
    Raises UserError where the folder cannot be written, or ``path`` is one.
    """
    path = followed(path) if follow else Path(path)
    with not_a_folder(path):
        temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    try:
        # Half a character, as broken JSON has them, is written as JSON's escape for it.
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
        with open(temporary, mode, encoding=encoding, errors=errors) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path``; on success its files are synced and it becomes ``path``, else it is removed.
    (Those in folders within it are to be synced by who writes them: of thousands, once for all.)

    Within an empty folder, which may be a link or a mount, or all that one may write to, the files change place instead.
    Raises UserError where ``path`` exists and is not an empty folder, or cannot be written.
    """
    path = Path(os.path.realpath(path))
    there = path.exists()
    temporary = path / f".tmp{os.getpid()}" if there else path.with_name(f"{path.name}.tmp{os.getpid()}")
    if there and (not path.is_dir() or any(file != temporary for file in path.iterdir())):
        raise UserError(f"{path}: exists already; remove it, or name a new folder")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process of this number that was killed
        temporary.mkdir(parents=True)
        yield temporary
        for file in filter(Path.is_file, temporary.iterdir()):
            with open(file, "r+b") as stream:
                os.fsync(stream.fileno())
        for file in list(temporary.iterdir()) if there else ():
            os.rename(file, path / file.name)
        if not there:
            os.rename(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unwritable(path: str | Path, error: OSError) -> UserError:
    """The line on a path that the system will not let be written."""
    return UserError(f"{path}: cannot be written ({error.strerror or error}); choose another folder or free space")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as a JSON file, whole or not at all."""
    with atomic_write(path, "w") as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def write_picture(path: str | Path, figure: Any) -> None:
    """Write a figure of matplotlib's as a .png, whole or not at all."""
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
