"""Two ranks of one thread each beside one rank of one thread: tokens/s of masked-language-model training.

    python benchmarks/ranks.py [--rounds 3]

The real commands on the embedded data set, 4 layers of width 256, the same global batch, alternating; the median.
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

from benchmarks.common import machine  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    contestants = {"1 rank": [], "2 ranks": ["--parallel", "DDP", "--world_size", "2"]}
    rates = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds + 1):  # the first round makes the cache
            for name, flags in contestants.items():
                command = [sys.executable, str(ROOT / "mlm_task.py"), "--size", "mini", "--batch_size", "64", "--steps",
                           "60", "--valid-examples", "1", "--cache-dir", f"{folder}/cache", *flags]  # fmt: skip
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
                if number:
                    result = json.loads((Path(folder) / "runs/mlm/result.json").read_text())
                    rates[name].append(result["tokens_per_second"])
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(machine())
    for name, rate in medians.items():
        print(f"{name:8} of one thread {rate:8.0f} tokens/s {rate / medians['1 rank']:6.2f} x")


if __name__ == "__main__":
    main()
