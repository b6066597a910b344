"""Downloads: broken connections go on where they broke, and a checksum tells whether all is there."""

import email.utils
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from files.mistakes import UserError
from files.reading import CHUNK, digest_of
from files.writing import unwritable

TRIES = 4  # of one download
PAUSE = 0.5  # seconds before the second try; each further pause is twice as long
TIMEOUT = 30.0  # seconds without a byte before a connection counts as broken


def download(url: str, path: str | Path, checksum: str | None = None) -> Path:
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
            if error.code == 416:  # the .part is as long as this file, or longer
                if checksum and not mismatch(part, checksum):  # all was there, but a run was stopped before it could tell
                    os.replace(part, path)
                    return path
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):  # asking again would not help
                break
        except ValueError as error:  # not a URL
            problem = str(error)
            break
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", None) or error)
        else:
            problem = mismatch(part, checksum) if checksum else ""
            if not problem:
                os.replace(part, path)
                return path
            part.unlink()
            if not resumed:  # else the old beginning may be to blame: once more from the start
                break
    raise UserError(f"{url}: cannot be fetched ({problem}); {remedy}")


def mismatch(path: Path, checksum: str) -> str:
    """What is wrong with a file's bytes, "" where they are those of the checksum."""
    algorithm, _, expected = checksum.partition(":")
    digest = digest_of(path, algorithm)
    return "" if digest == expected.lower() else f"its {algorithm} is {digest}, expected {expected}"


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
    from tqdm import tqdm  # here for start-up time: metrics.py does with the standard library

    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise unwritable(part, error) from None
    bar = tqdm(desc=part.stem, initial=have, total=total, unit="B", unit_scale=True, disable=None)  # None: not in logs
    with bar, open(part, "ab" if have else "wb") as stream:
        while chunk := source.read(CHUNK):
            try:  # a full disk is the user's to mend, while an OSError of read() is worth another try
                stream.write(chunk)
                stream.flush()
            except OSError as error:
                raise unwritable(part, error) from None
            bar.update(len(chunk))
        os.fsync(stream.fileno())
