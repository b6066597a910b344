"""Files and mistakes: what every other module uses to read, write and fetch a file.

A mistake that the user can mend is a ``UserError``: one line that names the thing, the place and the remedy. The
scripts print it and leave with code 2; anything else is a bug and keeps its traceback.
"""

import contextlib
import email.utils
import gzip
import hashlib
import http.client
import json
import os
import posixpath
import shutil
import stat
import struct
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

TRIES = 4  # of one download
PAUSE = 0.5  # seconds before the second try; each further pause is twice as long
TIMEOUT = 30.0  # seconds without a byte before a connection counts as broken
CHUNK = 1 << 20  # bytes
# What a damaged or hostile archive raises; RuntimeError: encrypted, or links in a circle. ValueError: NUL in a name.
BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error)
BROKEN += (EOFError, LookupError, RuntimeError, ValueError, OverflowError, struct.error)
# Bytes that an archive may unpack to: so many times its own, and 64 MB more. RACE has 4 times, EnWik9 3 times.
SWELLING, ALLOWANCE, ENTRY = 100, 64 << 20, 4096  # and what an empty file takes on a disk


class UserError(Exception):
    """A mistake that the user can mend, in one line: what is wrong, where, and what to do.

    What a file or its name brings into the line stays in it: control characters are shown as \\n and the like.
    """

    def __str__(self):
        text = super().__str__()
        return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def spellings(flag):
    """The ways to write a flag of several words: as given, with - and with _."""
    return dict.fromkeys([f"--{flag}", f"--{flag.replace('_', '-')}", f"--{flag.replace('-', '_')}"])


def run_main(function):
    """Run a script's ``main``: a ``UserError`` becomes one line on stderr and exit code 2."""
    try:
        code = function()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # `python data.py inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code or 0)


@contextlib.contextmanager
def atomic_write(path, mode="wb"):
    """Open a temporary file beside ``path``; on success sync it and rename it to ``path``, else remove it.

    A reader therefore sees the old file or the new one, never a part. Raises UserError where the folder cannot be
    written, or ``path`` is one.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file")
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """A temporary folder beside ``path``; on success its files are synced and it becomes ``path``, else it is removed.

    Raises UserError where ``path`` exists and is not an empty folder, or cannot be written.
    """
    path = Path(path).absolute()
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: exists already; remove it, or name a new folder")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
        if path.exists():
            path.rmdir()
        os.rename(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(path, error):
    return UserError(f"{path}: cannot be written ({error.strerror or error}); choose another folder or free space")


def write_json(path, value):
    with atomic_write(path, "w") as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def read_text(path):
    """The text of a UTF-8 file. Raises UserError where it is absent, unreadable or not UTF-8 (with the byte)."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; convert it, e.g. with iconv -t utf-8") from None


def read_context(path):
    """The text of --context: of a UTF-8 file, or with - of standard input. Raises UserError where there is none."""
    text = sys.stdin.buffer.read().decode("utf-8", "replace") if path == "-" else read_text(path)
    if not text.strip():
        raise UserError(f"--context {path}: no text; give one that may hold the answer")
    return text


def read_json(path):
    """The value in a JSON file. Raises UserError with line and column where it is broken."""
    return parse_json(read_text(path), path)


def parse_json(text, where):
    if not text.strip():
        raise UserError(f"{where}: empty file; JSON was expected")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: broken JSON at {place} ({error.msg}); fetch the file again or mend it") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply; fetch the file again") from None
    except ValueError:
        raise UserError(f"{where}: JSON with a number of thousands of digits; fetch the file again") from None


def digest_of(path, algorithm="sha256"):
    """The digest of a file's bytes, hexadecimal, by any algorithm of hashlib."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(url, path, checksum=None):
    """Fetch ``url`` to ``path``, which appears only once it is whole and right. Returns ``path``.

    ``checksum`` is like "sha256:0f3a..." or "md5:..."; it guards against broken files, not against attackers.

    The bytes gather in ``path`` + ".part". What a broken connection or an earlier run left there is continued, unless
    the server cannot or has a newer file; then the download starts over. Raises UserError where the server refuses,
    stays out of reach for several tries, or sends other bytes than the checksum promises (they are removed).
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    remedy = f"fetch it by hand and put it at {path}"
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            resumed = _fetch(url, part)
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            if error.code == 416:  # the .part is no beginning of this file: it is as long, or longer
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):  # asking again would not help
                break
        except ValueError as error:  # not a URL
            problem = error
            break
        except (OSError, http.client.HTTPException) as error:
            problem = getattr(error, "reason", None) or error
        else:
            algorithm, _, expected = (checksum or "").partition(":")
            digest = digest_of(part, algorithm) if checksum else None
            if not checksum or digest == expected.lower():
                os.replace(part, path)
                return path
            part.unlink()
            problem = f"its {algorithm} is {digest}, expected {expected}"
            if not resumed:  # else the old beginning may be to blame: once more from the start
                break
    raise UserError(f"{url}: cannot be fetched ({problem}); {remedy}")


def _fetch(url, part):
    """Add to the file ``part`` what it lacks of ``url``. True where it continued one. Raises OSError if that breaks."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "Mozilla/5.0"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != 206:  # the server sends the whole file
            have = 0
        elif not _continues(response, part, have):
            part.unlink()
            return _fetch(url, part)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        _append(response, part, have, total)
    if total not in (None, part.stat().st_size):  # to read(), a connection that breaks looks like the file's end
        raise ConnectionError(f"the connection broke after {part.stat().st_size} of {total} bytes")
    return have > 0


def _continues(response, part, have):
    """Does this answer to a Range request continue ``part``: from the right byte of a file that is not newer?"""
    if not have:
        return True
    changed = email.utils.parsedate_tz(response.headers.get("Last-Modified", ""))
    newer = changed is not None and email.utils.mktime_tz(changed) > part.stat().st_mtime
    return not newer and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _append(source, part, have, total):
    from tqdm import tqdm  # not above: metrics.py does with the standard library

    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise _unwritable(part, error) from None
    bar = tqdm(desc=part.stem, initial=have, total=total, unit="B", unit_scale=True, disable=None)  # None: not in logs
    with bar, open(part, "ab" if have else "wb") as stream:
        while chunk := source.read(CHUNK):
            try:  # a full disk is the user's to mend, while an OSError of read() is worth another try
                stream.write(chunk)
                stream.flush()
            except OSError as error:
                raise _unwritable(part, error) from None
            bar.update(len(chunk))
        os.fsync(stream.fileno())


def extract(archive, folder):
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
            written.add(ENTRY)
            target = temporary / _inside(name, archive)
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
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


class Limit:
    """Counts bytes; raises UserError where they are more than an archive can honestly hold."""

    def __init__(self, archive):
        self.archive, self.left = archive, SWELLING * archive.stat().st_size + ALLOWANCE

    def add(self, count):
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
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise UserError(f"{archive}: {info.filename} is a link; unpack it by hand")
                yield info.filename, None if info.is_dir() else package.open(info)
    elif name.endswith((".tar", ".tar.gz", ".tgz")):
        with open(archive, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with (gzip.open if compressed else open)(archive, "rb") as stream, \
                tarfile.open(fileobj=Limited(stream, archive), mode="r:") as package:  # fmt: skip
            for member in package:
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
