"""What `make demo` runs: pretraining, fine-tuning and, beside them, what each is worth.

    python benchmarks/demo.py [FOLDER]      # default: runs/demo

Runs the task scripts with their own defaults on the embedded data set: masked words, next sentence, then questions and
choices, each three times: from the pretrained model, from random weights with the same budget, and with the text to
read hidden; questions also with a fifth of the budget, in which random weights do not get there. The fine-tuning runs
stand beside each other, two at a time with one thread each, which two cores do in less time than one after the other.
Prints one table.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from files.writing import atomic_write
from text import sample

RUNS = [  # each inner list is a stage; its runs go on at the same time
    [("mlm", "mlm_task.py", [])],
    [("ns", "ns_task.py", [])],
    [("qa", "qa_task.py", []), ("qa-random", "qa_task.py", ["--bert-model", "none"])],
    [
        ("qa-300", "qa_task.py", ["--steps", "300"]),
        ("qa-300-random", "qa_task.py", ["--steps", "300", "--bert-model", "none"]),
    ],
    [("race", "race_task.py", []), ("race-random", "race_task.py", ["--bert-model", "none"])],
    [
        ("qa-question", "qa_task.py", ["--show", "question", "--steps", "300"]),
        ("race-question", "race_task.py", ["--show", "question", "--steps", "300"]),
        ("race-options", "race_task.py", ["--show", "options", "--steps", "300"]),
    ],
]


def run(folder, name, script, flags, threads):
    """One script in ``folder``, its log beside its result; gives its result.json."""
    command = [sys.executable, str(ROOT / script), "--log-dir", name, *flags]
    if name not in ("mlm", "ns"):
        command += ["--save", f"{name}.pt"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else dict(os.environ)
    begun = time.monotonic()
    with open(folder / f"{name}.log", "w") as log:
        code = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        sys.exit(f"{script} failed; see {folder / name}.log")
    print(f"  {name:14} {time.monotonic() - begun:5.0f} s", flush=True)
    return json.loads((folder / name / "result.json").read_text())


def chance():
    """The share of the most frequent answer among the test questions, in percent."""
    questions = [q for a in sample.squad("test", sample.SIZES[-1][3])["data"] for p in a["paragraphs"] for q in p["qas"]]
    answers = Counter(q["answers"][0]["text"] if q["answers"] else "" for q in questions)
    return 100 * answers.most_common(1)[0][1] / len(questions)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", nargs="?", type=Path, default="runs/demo")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    begun, results = time.monotonic(), {}
    print(f"Pretraining and fine-tuning on the embedded data set; logs and models in {folder}", flush=True)
    for stage in RUNS:
        with ThreadPoolExecutor(2) as pool:
            threads = 1 if len(stage) > 1 else None
            jobs = {name: pool.submit(run, folder, name, script, flags, threads) for name, script, flags in stage}
            results.update({name: job.result() for name, job in jobs.items()})
    vocabulary, most_frequent = 1024, chance()
    rows = [
        ("masked words, perplexity", results["mlm"]["test_ppl"], None, None, vocabulary),
        ("next sentence, accuracy", results["ns"]["test_accuracy"], None, None, 50.0),
        ("questions, exact", *(results[n]["exact"] for n in ("qa", "qa-random", "qa-question")), most_frequent),
        ("... after 300 steps", *(results[n]["exact"] for n in ("qa-300", "qa-300-random")), None, most_frequent),
        ("questions, F1", *(results[n]["f1"] for n in ("qa", "qa-random", "qa-question")), most_frequent),
        ("choices, accuracy", *(results[n]["accuracy"] for n in ("race", "race-random", "race-question")), 25.0),
        ("choices, options only", None, None, results["race-options"]["accuracy"], 25.0),
    ]
    table = [("", "pretrained", "from random", "nothing to read", "chance")]
    table += [(name, *("-" if value is None else f"{value:.1f}" for value in values)) for name, *values in rows]
    lines = ["{:26}{:>12}{:>14}{:>18}{:>10}".format(*cells) for cells in table]
    lines.append(f"in {(time.monotonic() - begun) / 60:.1f} minutes on {os.cpu_count()} cores")
    with atomic_write(folder / "table.txt", "w") as stream:
        stream.write("\n".join(lines) + "\n")
    print("\n".join(lines))
    models = [os.path.relpath(folder / name) for name in ("mlm_bert.pt", "qa.pt", "race.pt")]
    print("ask them:", os.path.relpath(sys.executable), os.path.relpath(ROOT / "demo.py"), "--bert-model", *models)


if __name__ == "__main__":
    main()
