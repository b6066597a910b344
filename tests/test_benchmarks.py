"""Benchmarks: each says what it does, and what is timed is timed as it is said to be."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from benchmarks import common

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name != "common.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_asked_for_help_says_what_it_does_and_does_nothing(script, tmp_path):
    pytest.importorskip("transformers")
    command = [sys.executable, ROOT / "benchmarks" / script, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage:") and len(done.stdout.splitlines()) > 4
    assert not list(tmp_path.iterdir())


@pytest.fixture
def clock(monkeypatch):
    """Time goes on by itself in no call: the test says how long a step takes."""
    now = types.SimpleNamespace(time=0.0)
    monkeypatch.setattr(common.time, "perf_counter", lambda: now.time)
    return now


def test_a_turn_counts_from_when_its_rate_has_settled(clock, monkeypatch, capsys):
    seconds = iter([5.0, 2.5, 1.0] + [1.0] * 100)  # a process that waited is slow at first

    def step():
        clock.time += next(seconds)
        return 1

    monkeypatch.setattr(common.sys, "stdin", ["turn\n"])
    common.take_turns(step, 4)
    rates = json.loads(capsys.readouterr().out.splitlines()[0])
    assert rates == {"steady": 1.0, "waking": 0.2}


def test_what_never_settles_is_counted_after_some_time(clock):
    calls = []

    def step():
        calls.append(clock.time)
        clock.time += common.SECONDS / len(calls)
        return len(calls)

    common.settle(step)
    assert clock.time < (common.LONGEST + 1) * common.SECONDS


def test_a_rate_that_waiting_changes_by_more_than_a_tenth_is_told():
    found = {"ours": common.Rates(100.0, 98.0, 1), "peer": common.Rates(100.0, 60.0, 1)}
    assert common.differing(found) == "peer: 60 in the first 5 s of a turn, after waiting, 100 once steady"
