"""Preparing by several processes at once gives the very cache that one process gives, whoever dies on the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, needs_proc

from files.mistakes import UserError
from text import cache

SHARED = 7


def worker():
    sentences, documents = np.array([[0, 20], [20, 50]]), np.array([0])
    return lambda piece: {"tokens": np.arange(piece, piece + 50), "sentences": sentences, "documents": documents}


def share(number):
    """Five pieces of (size, number), but for one share that has none."""
    return iter([] if number == 3 else [(50, 100 * number + piece) for piece in range(5)])


def together(folder, first):
    shares = [lambda number=number: share(number) for number in range(SHARED)]
    return cache.build_together(Path(folder), shares, first, worker, (), 1000, {"bytes": 1}, 1)


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def alone(tmp_path):
    pieces = (piece for number in range(SHARED) for piece in share(number))
    cache.build(tmp_path / "alone", pieces, worker, (), 1000, {"bytes": 1}, 1)
    return content(tmp_path / "alone")


def test_one_process_after_another(alone, tmp_path):
    for first in (0, 4):
        made = together(tmp_path / "made", first)
        assert content(tmp_path / "made") == alone and len(made.documents) == 30
    assert not list(tmp_path.glob("*share*[0-9]"))


CODE = """
import sys
sys.path[:0] = ["tests", "."]
import test_together
test_together.together(sys.argv[1], int(sys.argv[2]))
"""


def started(folder, first, kill=""):
    return subprocess.Popen([sys.executable, "-c", CODE, str(folder), str(first)], cwd=ROOT, text=True,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "killer"),
                                                         "KILL": kill})  # fmt: skip


@needs_proc
@pytest.mark.parametrize("killed", [False, True])
def test_several_at_once(alone, tmp_path, killed):
    if killed:  # at its third share; what it leaves is in nobody's way
        process = started(tmp_path / "made", 2, "fsync 3 tokens")
        _, error = process.communicate(timeout=180)
        assert process.returncode == -signal.SIGKILL, error
    processes = [started(tmp_path / "made", first) for first in (0, 2, 4)]
    errors = [process.communicate(timeout=180)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert content(tmp_path / "made") == alone


def test_without_locks_one_that_finds_the_shares_gone_takes_what_another_has_joined(alone, tmp_path, monkeypatch):
    join = cache.join

    def too_late(folder, parts, *rest):
        join(folder, list(parts), *rest)
        raise UserError("share-3-of-7: damaged cache")

    monkeypatch.setattr(cache, "join", too_late)
    assert len(together(tmp_path / "made", 0).documents) == 30 and content(tmp_path / "made") == alone
