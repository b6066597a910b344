"""Archives of strangers, unpacked: all of one or nothing, and nothing outside of its folder."""

import gzip
import os
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

from files.mistakes import UserError
from files.reading import CHUNK
from files.writing import unwritable

# What a damaged or hostile archive raises; RuntimeError: encrypted, or links in a circle. ValueError: NUL in a name.
BROKEN: tuple[type[Exception], ...] = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error)
BROKEN += (EOFError, LookupError, RuntimeError, ValueError, OverflowError, struct.error)
# Bytes that an archive may unpack to: so many times its own, and 64 MB more. RACE has 4 times, EnWik9 3 times.
SWELLING, ALLOWANCE, ENTRY = 100, 64 << 20, 4096  # and what an empty file takes on a disk
DEEPEST = 50  # folders in folders
LINKS = 100  # for each is searched for from the beginning

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".gz")


def extract(archive: str | Path, folder: str | Path) -> Path:
    """Unpack a .zip, .tar, .tar.gz, .tgz or, one file, .gz into ``folder``: all of it or nothing. Returns ``folder``.

    Everything goes to a temporary folder beside, which is renamed at the end; into a folder that exists, the entries
    at the top are moved one by one. No links are made: a link becomes a copy of the file in the archive to which it
    points, so nothing on the disk leads outside. Raises UserError, and leaves nothing, where a member or a link leads
    outside ``folder``, is a device, or exists there already, and where the archive is broken or unpacks to far more
    than its size.
    """
    archive, folder = Path(archive), Path(folder).absolute()
    if not archive.is_file() or not archive.stat().st_size:
        raise UserError(f"{archive}: no such archive, or an empty one; check the path or fetch it again")
    temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        written = Limit(archive)
        for name, source in _members(archive):
            path = _inside(name, archive)
            written.add(ENTRY * (1 + path.count("/")))
            target = temporary / path
            (target.parent if source else target).mkdir(parents=True, exist_ok=True)
            if source:
                with source, open(target, "wb") as stream:
                    while chunk := source.read(CHUNK):
                        written.add(len(chunk))
                        stream.write(chunk)
        if hasattr(os, "sync"):
            os.sync()  # once for all: a sync for each of RACE's 28,000 files would take minutes
        _move_into(temporary, folder)
    except BROKEN as error:
        raise UserError(f"{archive}: broken archive ({error}); remove it and fetch it again") from None
    except OSError as error:
        raise unwritable(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


class Limit:
    """Counts bytes; raises UserError where they are more than an archive can honestly hold."""

    def __init__(self, archive: Path):
        self.archive, self.left = archive, SWELLING * archive.stat().st_size + ALLOWANCE

    def add(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UserError(f"{self.archive}: unpacks to more than {SWELLING} times its size; unpack it by hand")


class Limited:
    """A stream of which no more is read, in all, than `Limit` allows: tarfile trusts the sizes in headers."""

    def __init__(self, stream, archive):
        self.stream, self.limit, self.seek, self.tell = stream, Limit(archive), stream.seek, stream.tell

    def read(self, size):
        parts = []
        while size > 0 and (chunk := self.stream.read(min(size, CHUNK))):
            self.limit.add(len(chunk))
            parts.append(chunk)
            size -= len(chunk)
        return b"".join(parts)


def _members(archive):
    """The archive's members in turn: name and readable stream, None for a folder."""
    name = archive.name.lower()
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive) as package:
            for info in package.infolist():
                if not info.filename:
                    raise zipfile.BadZipFile("an entry without a name")
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise UserError(f"{archive}: {info.filename} is a link; unpack it by hand")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # read by zipfile without bounds
                    raise UserError(f"{archive}: {info.filename} is packed otherwise than zip does; unpack it by hand")
                yield info.filename, None if info.is_dir() else package.open(info)
    elif name.endswith((".tar", ".tar.gz", ".tgz")):
        with open(archive, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with (gzip.open if compressed else open)(archive, "rb") as stream, \
                tarfile.open(fileobj=Limited(stream, archive), mode="r:") as package:  # fmt: skip
            links = 0
            for member in package:
                links += member.issym() or member.islnk()
                if links > LINKS:
                    raise UserError(f"{archive}: more than {LINKS} links; unpack it by hand")
                if member.issym():
                    _inside(posixpath.join(posixpath.dirname(member.name), member.linkname), archive)
                elif member.islnk():
                    _inside(member.linkname, archive)
                source = package.extractfile(member)  # for a link, the member to which it points
                if source is None and not member.isdir():
                    raise UserError(f"{archive}: {member.name} is a device or a link to a folder; unpack it by hand")
                yield member.name, source
    elif name.endswith(".gz"):
        with gzip.open(archive) as stream:
            yield archive.stem, stream
    else:
        raise UserError(f"{archive}: unknown kind of archive; give a .zip, .tar, .tar.gz, .tgz or .gz")


def _inside(name, archive):
    """A member's name as a relative path, or a UserError where it leads out of the folder."""
    path = posixpath.normpath(name.replace("\\", "/"))
    if path.startswith("/") or path.split("/")[0] == ".." or PureWindowsPath(path).drive:
        raise UserError(f"{archive}: {name} leads out of the folder; fetch the archive from a source you trust")
    if path.count("/") > DEEPEST:
        raise UserError(f"{archive}: {name[:50]}... lies more than {DEEPEST} folders deep; unpack it by hand")
    return path


def _move_into(temporary, folder):
    if not folder.exists():
        os.rename(temporary, folder)
        return
    entries = list(temporary.iterdir())
    for entry in entries:
        if (folder / entry.name).exists():
            raise UserError(f"{folder / entry.name}: exists already; move it away to unpack the archive here")
    for entry in entries:
        os.rename(entry, folder / entry.name)
