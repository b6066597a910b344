"""The commands themselves: tokens/s of training as a user starts it, with loader, logs and its own recipe.

    python benchmarks/commands.py [--rounds 3] [--steps 60]

Masked words first, at the sizes of benchmarks/mlm.py, beside its loop, which has no loader and takes AdamW, 15 % masked,
batches of 32 and dropout of 0.1: the command as it comes; in batches of 32, as it comes under --minutes without a GPU;
and with one after the other of the loop's settings said to it, so that what each costs is seen; beside the last an
ordinary script that does the same work with transformers' model and collator, torch's loader and AdamW, once more with
the allocator setting that ours makes for itself. Then the other tasks as they come, on the embedded data set.
Alternating, each run a process of its own; the median of a run's log lines but the first two, and of the rounds.
Validations and what is saved beside them do not count.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import KEPT, LENGTH, MASKED, ROWS, machine, needs, their_optimizer, vocabulary
from benchmarks.common import SIZES as MODEL
from benchmarks.mlm import BEST
from files.command_line import positive
from files.mistakes import UserError, run_main
from text.places import Places
from training.memory import keep_freed_memory

SIZES = ["--size", "mini", "--bptt", "128"]
SAME = "... and dropout of 0.1"
MORE = {  # each row keeps what those above it say; the last does the very work of the loop
    "... with AdamW": ["--optimizer", "adamw"],
    "... and 15 % masked": ["--mask_frac", "0.15"],
    "... and batches of 32": ["--batch_size", "32"],
    SAME: ["--dropout", "0.1"],
}
COMMANDS = {
    "mlm_task.py as it comes": ("mlm", SIZES),
    "... under --minutes: in batches of 32": ("mlm", [*SIZES, "--batch_size", "32"]),
    **{name: ("mlm", SIZES + all) for name, all in zip(MORE, itertools.accumulate(MORE.values()), strict=True)},
    **{f"{task}_task.py as it comes": (task, ["--bert-model", "none", "--size", "mini"]) for task in ("ns", "qa", "race")},
}
SCRIPTS = {"a transformers script": [], f"a transformers script{KEPT}": ["--kept"]}


def script(steps: int, kept: bool) -> None:
    """Train as such a script does, and print its tokens a second."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, DataCollatorForLanguageModeling

    if kept:
        keep_freed_memory()
    tokenizer = BertTokenizerFast(str(vocabulary()))
    with tempfile.TemporaryDirectory() as folder:
        text = (Places("data", folder).sample() / "train.txt").read_text()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    rows = [{"input_ids": ids[i : i + LENGTH]} for i in range(0, len(ids) - LENGTH, LENGTH)]
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
    model = BertForMaskedLM(BertConfig(**MODEL)).train()
    optimizer, log, done, rates, begun = their_optimizer(model, 1e-4), max(1, steps // 10), 0, [], time.perf_counter()
    while done < steps:
        for batch in DataLoader(rows, ROWS, shuffle=True, collate_fn=collate, drop_last=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=BEST == "bf16"):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if done % log == 0:
                rates.append(log * ROWS * LENGTH / (time.perf_counter() - begun))
                begun = time.perf_counter()
            if done == steps:
                break
    print(statistics.median(rates[2:]))


def scripted(flags: list[str], steps: int) -> float:
    """Tokens a second of such a script."""
    words = [sys.executable, __file__, "--script", *flags, "--steps", str(steps)]
    out = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    return float(out.split()[-1])


def loop() -> float:
    """Tokens a second of benchmarks/mlm.py's step."""
    command = [sys.executable, str(ROOT / "benchmarks/mlm.py"), "--contestant", f"ours {BEST}"]
    out = subprocess.run(command, input="turn\n", stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[0])["steady"]


def command(task: str, flags: list[str], steps: int, folder: str) -> float:
    """Tokens a second of a task's training."""
    flags = [*flags, "--vocab", str(vocabulary())] if task == "mlm" else flags
    words = [sys.executable, str(ROOT / f"{task}_task.py"), *flags, "--steps", str(steps), "--valid-examples", "1",
             "--log-interval", str(max(1, steps // 10)), "--no-test",
             "--log-dir", f"{folder}/{task}", "--save", f"{folder}/{task}.pt",
             "--cache-dir", f"{folder}/cache", "--save-vocab", f"{folder}/vocab.pt"]  # fmt: skip
    subprocess.run(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return training_rate(json.loads(Path(f"{folder}/{task}/history.json").read_text()))


def training_rate(history: list) -> float:
    """The median of the log lines but the first two and those behind a validation, with whose model and state they share
    the disk and the clock."""
    behind = [None, *(kind for _, kind, _ in history)]
    rates = [figures["tokens_per_second"] for (_, kind, figures), last in zip(history, behind, strict=False)
             if kind == "train" and last != "valid"]  # fmt: skip
    return statistics.median(rates[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=positive(int), default=3)
    parser.add_argument("--steps", type=int, default=60, help="of each run, at least 10 (default: 60)")
    parser.add_argument("--script", action="store_true", help="be the transformers script")
    parser.add_argument("--kept", action="store_true", help="that keeps freed memory")
    args = parser.parse_args()
    if args.script:
        return script(args.steps, args.kept)
    if args.steps < 10:
        raise UserError(f"--steps {args.steps}: too few log lines to tell a rate; at least 10")
    needs("transformers", "the script beside which it is")
    rates: dict[str, list[float]] = {"the loop of benchmarks/mlm.py": [], **{name: [] for name in (*SCRIPTS, *COMMANDS)}}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for name, found in rates.items():
                found.append(command(*COMMANDS[name], args.steps, folder) if name in COMMANDS
                             else scripted(SCRIPTS[name], args.steps) if name in SCRIPTS else loop())  # fmt: skip
    print(machine())
    same = statistics.median(rates[SAME])
    whole = statistics.median(rates["the loop of benchmarks/mlm.py"])
    for name, found in rates.items():
        rate = statistics.median(found)
        share = f"  {rate / whole:5.2f} of the loop" if name in COMMANDS and COMMANDS[name][0] == "mlm" else ""
        share = f"  {same / rate:5.2f} times as many by the same work here" if name in SCRIPTS else share
        print(f"{name:40} {rate:8.0f} tokens/s{share}")


if __name__ == "__main__":
    run_main(main)
