"""Two ranks of one thread each beside one rank of one thread: tokens/s of masked-language-model training.

    python benchmarks/ranks.py [--rounds 3] [--size small --steps 12]

The real commands on the embedded data set, 4 layers of width 256 if no --size is given, the same global batch,
alternating; the median. Two programs at once that know nothing of each other, each with that batch, their tokens added,
show what the machine gives: cores share memory and caches, so that two need not be twice as fast as one even where nothing
is exchanged.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import machine
from files.command_line import positive
from files.mistakes import UserError, run_main

CONTESTANTS = {  # the flags of each program that runs at the same time
    "1 rank": [["--batch_size", "64"]],
    "2 ranks": [["--batch_size", "64", "--parallel", "DDP", "--world_size", "2"]],
    "2 programs": [["--batch_size", "64"]] * 2,
}


def tokens_per_second(folder, programs, size, steps):
    """The sum over the programs, run at once."""
    running, cores = [], sorted(os.sched_getaffinity(0))
    for number, flags in enumerate(programs):
        command = [sys.executable, str(ROOT / "mlm_task.py"), "--size", size, "--steps", str(steps),
                   "--valid-examples", "1", "--cache-dir", f"{folder}/cache", "--log-dir", f"{folder}/{number}",
                   "--save", f"{folder}/{number}.pt", *flags]  # fmt: skip
        own = cores[:2] if "--parallel" in flags else cores[number : number + 1]
        running.append(subprocess.Popen(  # ranks take as many threads as they have cores
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=lambda own=own: os.sched_setaffinity(0, own),
        ))  # fmt: skip
    codes = [process.wait() for process in running]
    if any(codes):
        sys.exit(f"mlm_task.py {programs} failed")
    results = [json.loads(Path(f"{folder}/{number}/result.json").read_text()) for number in range(len(programs))]
    return sum(result["tokens_per_second"] for result in results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive(int), default=3)
    parser.add_argument("--size", default="mini", help="of the model, as mlm_task.py has it (default: mini)")
    parser.add_argument("--steps", type=positive(int), default=60, help="of each program (default: 60)")
    args = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise UserError("two ranks want two cores, and this process may use one; give it more")
    rates = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        tokens_per_second(folder, CONTESTANTS["1 rank"], args.size, 1)  # makes the cache
        for _ in range(args.rounds):
            for name, programs in CONTESTANTS.items():
                rates[name].append(tokens_per_second(folder, programs, args.size, args.steps))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(machine())
    for name, rate in medians.items():
        print(f"{name:10} of one thread {rate:8.0f} tokens/s {rate / medians['1 rank']:6.2f} x")


if __name__ == "__main__":
    run_main(main)
