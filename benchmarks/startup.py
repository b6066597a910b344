"""How long a user waits before anything happens: an answer, --help, and the first step with a warm cache.

    python benchmarks/startup.py [--rounds 5]

Medians of the real commands, the first answer among them; the last is the time to the first log line of a training on
the embedded data set.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import machine
from files.command_line import positive


def until(command, folder, line):
    """Seconds until ``command`` prints something that holds ``line``, or ends."""
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for text in process.stdout:
            if line and line in text:
                break
        else:
            if process.wait() or line:
                sys.exit(f"{' '.join(command)} failed")
        seconds = time.perf_counter() - begun
        process.kill()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive(int), default=5)
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        first = [sys.executable, str(ROOT / "mlm_task.py"), "--steps", "20", "--log-interval", "1"]
        ask = [sys.executable, str(ROOT / "qa_task.py"), "--ask", "Who designed the Analytical Engine?", "--context",
               str(ROOT / "docs" / "engine.txt")]  # fmt: skip
        for name, command, line in (
            ("qa_task.py --ask, by a shipped model", ask, None),
            ("mlm_task.py --help", [sys.executable, str(ROOT / "mlm_task.py"), "--help"], None),
            ("mlm_task.py, first step, warm cache", first, "ms/batch"),
        ):
            times = [until(command, folder, line) for _ in range(args.rounds + 1)][1:]  # the first makes the cache
            print(f"{name:38} {statistics.median(times):5.2f} s")


if __name__ == "__main__":
    main()
