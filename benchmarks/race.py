"""What is worth it on RACE: heads, layouts and ways to read an article, each with the same minutes from the same body.

    python benchmarks/race.py FOLDER --bert-model MODEL --minutes 30 [--jobs 2] [--seeds 1 2]

Fine-tunes every variant below, ``--jobs`` at a time with one thread each, lets each answer all of RACE's dev, and prints
the questions that it was trained on a second, validations included, and the accuracy on dev and test for middle, high and
all. Of each run the step is kept that was best on 300 questions of dev; by test nothing is chosen. What is finished is kept
in FOLDER, so that after a stop the same command goes on.
"""

import argparse
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import machine
from files.command_line import positive
from files.mistakes import UserError, run_main
from files.reading import read_json
from files.writing import write_json
from metrics import race_scores, read_race_answers
from text.places import Places, default_cache_dir, default_data_dir

RECIPE = ("--dataset RACE --batch_size 16 --lr 1e-4 --dropout 0 --bptt 128 --passage select --head cls "
          "--layout separate").split()  # fmt: skip
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


def race_task(log, *words):
    with open(log, "a") as stream:
        code = subprocess.run([sys.executable, str(ROOT / "race_task.py"), *RECIPE, *map(str, words)], stdout=stream,
                              stderr=stream, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode  # fmt: skip
    if code:
        raise UserError(f"race_task.py ended with code {code}; see {log}, and start again to go on")


def fine_tune(folder, variant, seed, flags, places, dev):
    """The result.json of a variant and its answers on dev, made in ``folder`` unless they were before."""
    folder = folder / f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    result, answers, model = (folder / name for name in ("result.json", "dev.json", "race_model.pt"))
    kept = folder / "flags.json"
    begun = result.exists() or (folder / "state.pt").exists()
    if begun and kept.exists() and read_json(kept) != flags:
        raise UserError(f"{folder}: was made with {' '.join(read_json(kept))}; name another folder")
    write_json(kept, flags)
    words = [*flags, *places, *VARIANTS[variant].split(), "--seed", seed]
    if not result.exists():
        race_task(folder / "log.txt", *words, "--resume", "--log-dir", folder, "--save", model)
    if not answers.exists():
        race_task(folder / "dev.txt", *words, "--predict", dev, "--bert-model", model, "--output", answers)
    batch_size = read_json(folder / "settings.json")["batch_size"]  # RECIPE's, or a further flag's
    return {**read_json(result), "batch_size": batch_size}, read_json(answers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=positive(int), default=os.cpu_count())
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--data-dir", default=default_data_dir())
    parser.add_argument("--cache-dir", default=default_cache_dir())
    args, flags = parser.parse_known_args()
    if any(flag.startswith("--level") for flag in flags):
        raise UserError("--level: the table is of middle, high and all; leave it out")
    dev = Places(args.data_dir, args.cache_dir).find("RACE", "RACE") / "dev"
    gold = read_race_answers(dev)
    runs = list(itertools.product(args.variants, args.seeds))
    print(f"{machine()}, {args.jobs} runs at a time, one thread each; {' '.join(flags)}")
    if alone := len(runs) % args.jobs:
        last = ", ".join(f"{variant} of seed {seed}" for variant, seed in runs[-alone:])
        print(f"{last}: with fewer runs beside it than the others, so that it does more in its minutes")
    print(f"{'':31} {'questions/s':>11} {'dev:':>7} {'middle':>7} {'high':>7} {'test:':>7} {'middle':>7} {'high':>7}")
    places = ["--data-dir", args.data_dir, "--cache-dir", args.cache_dir]
    with ThreadPoolExecutor(args.jobs) as pool:
        results = pool.map(lambda run: fine_tune(args.folder, *run, flags, places, dev), runs)
        for (variant, seed), (result, answers) in zip(runs, results, strict=True):
            scores = [part[key] for part in (race_scores(gold, answers), result)
                      for key in ("accuracy", "middle_accuracy", "high_accuracy")]  # fmt: skip
            print(f"{variant:24} seed {seed} {result['steps'] * result['batch_size'] / result['seconds']:11.2f}",
                  *(f"{score:7.2f}" for score in scores), flush=True)  # fmt: skip


if __name__ == "__main__":
    run_main(main)
