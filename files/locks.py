"""Locks: what one process holds at a time, until it lets go or dies."""

import time
from typing import IO


def hold(stream: IO, wait: float = 0.0) -> bool | None:
    """Lock an open file until it is closed: is it held?

    False where another process holds it, and still does after ``wait`` seconds; None where the file system, or the
    system, knows no locks.
    """
    until = time.monotonic() + wait
    while (held := attempt(stream)) is False and time.monotonic() < until:
        time.sleep(0.1)
    return held


def attempt(stream: IO, shared: bool = False) -> bool | None:
    """As ``hold``, at once; ``shared``: beside others who share it."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
