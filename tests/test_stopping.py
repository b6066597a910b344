"""Runs that hang: a signal ends them when their time is up, a second SIGTERM at once."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

SCRIPT = """
import ctypes, signal, sys, time
sys.path.insert(0, {root!r})
from training import stopping

stopping.DEADLINE, stopping.AGAIN = {deadline}, {again}
came = []

def hang():
    "In a library, which does not let Python's handlers run."
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

def obey():
    while not came:
        time.sleep(0.05)
    print("noted", flush=True)
    time.sleep({takes})
    print("saved", flush=True)

with stopping.stopping(lambda number, _: came.append(number)):
    print("at work", flush=True)
    {work}()
time.sleep(2)
sys.exit(7)
"""


@pytest.fixture
def start():
    """``start("hang", deadline=1)`` starts a process that hangs; gives it once it is at work."""
    started = []

    def call(work, deadline=100, again=100, takes=0.1):
        script = SCRIPT.format(root=str(ROOT), work=work, deadline=deadline, again=again, takes=takes)
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process = subprocess.Popen([sys.executable, "-c", script], text=True, **pipes)
        started.append(process)
        assert process.stdout.readline() == "at work\n"
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_run_that_hangs_ends_when_its_time_is_up(start, number, code):
    process = start("hang", deadline=1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code and error.count("\n") == 1
    assert error.startswith(f"error: no end of the step in 1 s after {number.name}: ended at once; go on from the last")


def test_a_second_sigterm_ends_it_at_once(start):
    process = start("hang", again=0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75 and error.startswith("error: a second SIGTERM: ended at once")


def test_the_same_signal_from_its_group_and_from_who_started_it_is_one(start):
    process = start("obey", takes=4)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=60)
    assert output == "saved\n" and not error and process.returncode == 7


def test_a_run_that_obeys_has_no_deadline_any_more(start):
    process = start("obey", deadline=2)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=60)
    assert output == "noted\nsaved\n" and not error and process.returncode == 7
