"""Sliding-window attention beside full attention, over the length of the text: milliseconds and ratios.

    python benchmarks/attention.py [--window 128] [--longest 4096]

Forward and backward of attention alone (no projections), one text, 12 heads of 32 (MiniLM's), fp32, dropout 0.1,
alternating, the median of three. From line to line, a cost that grows with the length doubles, one that grows with its
square takes four times as long.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import machine
from model import attention, window_attention
from training.memory import keep_freed_memory


def milliseconds(function, length):
    parts = [torch.randn(1, 12, length, 32, requires_grad=True) for _ in range(3)]
    begun = time.perf_counter()
    function(*parts).sum().backward()
    return 1000 * (time.perf_counter() - begun)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--window", type=int, default=128)
    p.add_argument("--longest", type=int, default=4096)
    args = p.parse_args()
    keep_freed_memory()
    print(machine())
    ways = {
        "full": lambda q, k, v: attention(q, k, v, None, 0.1),
        "window": lambda q, k, v: window_attention(q, k, v, None, 0.1, args.window),
    }
    print(f"{'tokens':>8} {'full ms':>10} {'window ms':>10} {'full / window':>14}")
    length = 512
    while length <= args.longest:
        times = {name: [] for name in ways}
        for _ in range(4):
            for name, function in ways.items():
                times[name].append(milliseconds(function, length))
        full, window = (median(found[1:]) for found in times.values())  # the first warms up
        print(f"{length:>8} {full:>10.1f} {window:>10.1f} {full / window:>14.2f}", flush=True)
        length *= 2


if __name__ == "__main__":
    main()
