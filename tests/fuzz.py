"""Fuzzing of all that reads files from outside: damaged and hostile inputs give a result or a UserError, nothing else.

    python tests/fuzz.py                                  # 200 inputs of each kind
    python tests/fuzz.py --kind model --inputs 5000 --seed 7

A kind is a folder of good files and the code that reads it. Each input is a copy of the folder in which something was
changed at random: bits, lengths, chunks, the structure of JSON and of torch's files, the entries of a zip. Findings: any
exception but UserError, or one of several lines; a process that dies, is silent for SECONDS, or takes over MEMORY bytes
(address space, so that claims count and not only use); an order to run something, and a file touched outside the
folder, both seen by Python's audit hook. Finding number S of a kind is repeated by ``--kind K --seed S --inputs 1``.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fuzz_data
import fuzz_models
import fuzz_runs

from files.mistakes import UserError

SECONDS, MEMORY = 20, 2 << 30
# Of each kind good(folder), change(folder, rng), read(folder, rng).
KINDS = {**fuzz_models.KINDS, **fuzz_data.KINDS, **fuzz_runs.KINDS}
TOUCH = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
         "shutil.rmtree", "shutil.move", "shutil.copyfile"}  # fmt: skip
RUN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn", "socket.connect",
       "webbrowser.open", "ctypes.call_function")  # fmt: skip
watched = None  # the list to which the hook adds, and the folder in which all may be touched


def watch(event, arguments):
    if watched is None:
        return
    found, folder = watched
    if event in RUN:
        found.append(f"ran {event} {arguments}"[:200])
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in TOUCH) and isinstance(arguments[0], str | bytes | Path):
        path = os.fsdecode(arguments[0])
        if not os.path.isabs(path) and event != "open":  # relative to a folder that is open, as shutil.rmtree does it
            return
        path = os.path.abspath(path)
        ours = (f"{folder}/", f"{folder.parent}/stdout", tempfile.gettempdir() + "/tmp", "/dev/null")
        if path != str(folder) and not path.startswith(ours):
            found.append(f"touched {path} ({event})")


def attempt(kind, seed, good, work):
    """Make input ``seed`` of a kind and read it: None, or what is wrong. ``work`` is an empty folder's path."""
    global watched
    rng = random.Random(f"{kind} {seed}")
    _, change, read = KINDS[kind]
    shutil.copytree(good, work)
    change(work, rng)  # where this raises, the fuzzer is wrong
    found, problem, before = [], None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watched = found, work
    try:
        with (open(work.parent / "stdout", "w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream),
              contextlib.redirect_stderr(io.StringIO())):  # fmt: skip
            read(work, rng)
    except UserError as error:
        if not str(error).isprintable():
            problem = f"not one line: {str(error)!r}"[:300]
        if "allocate memory" in str(error) or "MemoryError" in str(error):
            problem = f"asks for too much memory: {error}"[:300]
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:150]} at {' < '.join(places[:0:-1][:4])}"
    finally:
        watched = None
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if not problem and grown > MEMORY // 2:
        problem = f"took {grown >> 20} MB"
    shutil.rmtree(work)
    return found[0] if found else problem


def work_through(kind, seeds, good, work, pipe):
    """In a process of its own: tell the parent each seed before it is tried, then what is wrong."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if "FUZZ_LOUD" not in os.environ:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C++ talks too
    sys.addaudithook(watch)
    warnings.simplefilter("ignore")
    for seed in seeds:
        pipe.send((seed, ""))
        problem = attempt(kind, seed, good, work)
        if problem:
            pipe.send((seed, problem))
    pipe.send((None, ""))


def fuzz(kind, seeds, folder):
    """{seed: what is wrong} of the inputs ``seeds`` of a kind."""
    folder, findings, seeds = Path(folder), {}, list(seeds)
    good, work = folder / "good", folder / "work"
    good.mkdir()
    KINDS[kind][0](good)
    context = multiprocessing.get_context("fork")
    while seeds:
        shutil.rmtree(work, ignore_errors=True)
        receiver, sender = context.Pipe(False)
        process = context.Process(target=work_through, args=(kind, seeds, good, work, sender))
        process.start()
        sender.close()
        seed, end = seeds[0], "the process died"
        with contextlib.suppress(EOFError):
            while True:
                if not receiver.poll(SECONDS):
                    end = f"silent for {SECONDS} seconds"
                    os.kill(process.pid, signal.SIGKILL)
                    break
                seed, problem = receiver.recv()
                if seed is None:
                    break
                if problem:
                    findings[seed] = problem
        process.join()
        if seed is not None:
            findings[seed] = f"{end} (exit code {process.exitcode})"
        seeds = [] if seed is None else seeds[seeds.index(seed) + 1 :]
    return findings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200, help="inputs of each kind (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--kind", choices=KINDS, help="only this kind (default: all)")
    args = parser.parse_args()
    total = 0
    for kind in [args.kind] if args.kind else KINDS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            findings = fuzz(kind, range(args.seed, args.seed + args.inputs), folder)
        alike = {}
        for seed, problem in findings.items():
            alike.setdefault(problem.split(" at ")[-1] if " at " in problem else problem[:60], []).append((seed, problem))
        for group in alike.values():
            print(f"  {kind} {group[0][0]}: {group[0][1]}" + (f" ({len(group)} like it)" if group[1:] else ""))
        print(f"{kind:10} {args.inputs} inputs, {len(findings)} findings of {len(alike)} sorts, "
              f"{time.monotonic() - started:.0f} seconds", flush=True)  # fmt: skip
        total += len(findings)
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
