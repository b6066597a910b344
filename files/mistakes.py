"""Mistakes: what tells a user's mistake from a bug.

A mistake that the user can mend is a ``UserError``: one line that names the thing, the place and the remedy. The
scripts print it and leave with code 2; anything else is a bug and keeps its traceback.
"""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class UserError(Exception):
    """A mistake that the user can mend, in one line: what is wrong, where, and what to do.

    What a file or its name brings into the line stays in it: control characters are shown as \\n and the like.
    """

    def __str__(self):
        text = super().__str__()
        return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


TOLD: set[str] = set()


def speaks() -> bool:
    """Is this the first of several ranks or tasks, which says what all would say?"""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def warn(message: str, once: str | None = None, word: str = "warning") -> None:
    """A line on stderr, once; of lines with the same ``once`` the first alone. Of several ranks or tasks the first says
    it, for the others would say the same. ``word`` begins it: a "note" is of what is as it should be."""
    key = once or message
    if speaks() and key not in TOLD:
        TOLD.add(key)
        print(f"{word}: {UserError(message)}", file=sys.stderr, flush=True)


def run_main(function: Callable[[], Any]) -> NoReturn:
    """Run a script's ``main``: a ``UserError``, a full disk, or a path that one may not look into, becomes one line on
    stderr and exit code 2, Ctrl-C no line and 130."""
    take_any_text()
    try:
        code = function()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130  # as shells have it
    except BrokenPipeError:  # `python data.py inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if not (line := refused(error) or out_of_memory(error)):
            raise
        print(f"error: {line}", file=sys.stderr)
        code = 2
    sys.exit(code or 0)


def take_any_text() -> None:
    """Let standard output write as an escape what its encoding has no letter for: an answer is not worth a failure."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def refused(error: Exception) -> str | None:
    """What to tell where a disk is full or a path may not be looked into; of other errors None."""
    if not isinstance(error, OSError):
        return None
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not full and not (error.filename and error.errno in (errno.EACCES, errno.ENAMETOOLONG)):
        return None
    remedy = "free space, or write elsewhere" if full else "check the path, and who may read it"
    return f"{UserError(error.filename or 'what was being written')}: {error.strerror}; {remedy}"


def out_of_memory(error: Exception) -> str | None:
    """What to tell where torch found no memory, on a GPU or a CPU; of other errors None."""
    if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
        found = str(error).splitlines()[0][:150]
        return f"no memory is left ({found}); free some, or of a task raise --accumulate, or lower --bptt or --batch_size"
    return None
