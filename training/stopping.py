"""How a run is stopped: a signal is noted, obeyed where the run's state is whole, and enforced where it never comes there.

A main thread that hangs, in a library or waiting for another rank, runs no handler of Python's. The system notes the
signal all the same, and a thread that waits for such notes ends the process when its time is up.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

STOPPED = 75  # exit code after SIGTERM or SIGUSR1: saved, to be continued (EX_TEMPFAIL of sysexits.h)
INTERRUPTED = 130  # after Ctrl-C, as shells have it; saved as well
CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: STOPPED}
if hasattr(signal, "SIGUSR1"):  # not on Windows
    CODES[signal.SIGUSR1] = STOPPED
DEADLINE = 300  # seconds from a signal to the end: a step, a validation that has begun, and a state on a slow disk
AGAIN = 3  # seconds after which a SIGTERM is a second one: a rank gets the first from its group and from who started it


@contextlib.contextmanager
def stopping(note: Callable[[int, FrameType | None], None], first: bool = True) -> Iterator[None]:
    """Within it, ``note`` handles Ctrl-C, SIGTERM and SIGUSR1; the process ends by itself when the block has not ended
    DEADLINE seconds later, and at a second SIGTERM after AGAIN seconds. The ``first`` rank tells so."""
    handlers = {number: signal.signal(number, note) for number in CODES}
    noted, notes = socket.socketpair()
    notes.setblocking(False)
    before = signal.set_wakeup_fd(notes.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, args=(noted, first), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        notes.close()  # which ends the watcher
        watcher.join()
        noted.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def watch(noted, first):
    """Read the numbers of the signals that came, and leave where they are not obeyed."""
    came: dict[int, float] = {}  # signal -> when it came first
    while True:
        left = min(came.values()) + DEADLINE - time.monotonic() if came else None
        if left is not None and left <= 0:
            leave(came, first, f"no end of the step in {DEADLINE:g} s after {signal.Signals(next(iter(came))).name}")
        if not select.select([noted], [], [], left)[0]:
            continue
        numbers, now = noted.recv(64), time.monotonic()
        if not numbers:
            return
        for number in numbers:
            if number == signal.SIGTERM and now - came.get(number, now) > AGAIN:
                leave(came, first, "a second SIGTERM")
            if number in CODES:
                came.setdefault(number, now)


def leave_with_parent() -> None:
    """Called in a new process: let it be told to stop when the one that started it is killed. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def leave(came, first, why):
    if first:  # not print(): the main thread may hang as it holds what that needs
        os.write(2, f"error: {why}: ended at once; go on from the last saved state with --resume\n".encode())
    os._exit(CODES[next(iter(came))])
