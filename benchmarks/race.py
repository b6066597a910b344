"""What is worth it on RACE: heads, layouts and ways to read an article, each with the same minutes from the same body.

    python benchmarks/race.py FOLDER --bert-model MODEL --minutes 30 [--jobs 2] [--seeds 1 2]

Fine-tunes every variant below, ``--jobs`` at a time with one thread each, and prints for each the questions that it was
trained on a second, validations included, and the accuracy on the test split for middle, high and all, which nothing is
chosen by. What is finished is kept in FOLDER, so that after a stop the same command goes on.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import machine  # noqa: E402

QUESTIONS = 16  # a step
RECIPE = f"--dataset RACE --batch_size {QUESTIONS} --lr 1e-4 --dropout 0 --bptt 128 --passage select".split()
VARIANTS = {  # flags after the recipe's: of a flag given twice the last counts
    "cls": "",
    "duma": "--head duma",
    "duma, 2 layers": "--head duma --duma-layers 2",
    "dcmn": "--head dcmn",
    "dcmn, options compared": "--head dcmn --compare-options",
    "mix": "--head mix",
    "cls, joint": "--layout joint",
    "dcmn, joint": "--head dcmn --layout joint",
    "dcmn, truncate": "--head dcmn --passage truncate",
    "dcmn, window": "--head dcmn --passage window",
    "dcmn, select 256": "--head dcmn --bptt 256",
}


def fine_tune(folder, variant, seed, flags):
    """The result.json of a variant, trained in ``folder`` unless it was before."""
    name = f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
    log = folder / name
    log.mkdir(parents=True, exist_ok=True)
    if not (log / "result.json").exists():
        command = [sys.executable, ROOT / "race_task.py", *RECIPE, *VARIANTS[variant].split(), "--seed", seed, "--resume",
                   "--log-dir", log, "--save", log / "race_model.pt", *flags]  # fmt: skip
        with open(log / "log.txt", "a") as stream:
            subprocess.run([*map(str, command)], check=True, stdout=stream, stderr=stream,
                           env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    return json.loads((log / "result.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    args, flags = parser.parse_known_args()
    runs = list(itertools.product(args.variants, args.seeds))
    print(f"{machine()}, {args.jobs} runs at a time, one thread each; {' '.join(flags)}")
    print(f"{'variant':24} {'seed':>4} {'questions/s':>11} {'middle':>7} {'high':>7} {'all':>7}", flush=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        results = pool.map(lambda run: fine_tune(args.folder, *run, flags), runs)
        for (variant, seed), result in zip(runs, results, strict=True):
            accuracies = [f"{result[key]:7.2f}" for key in ("middle_accuracy", "high_accuracy", "accuracy")]
            print(f"{variant:24} {seed:4} {result['steps'] * QUESTIONS / result['seconds']:11.2f}", *accuracies, flush=True)


if __name__ == "__main__":
    main()
