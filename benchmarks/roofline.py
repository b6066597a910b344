"""How fast this machine multiplies matrices of the shapes that a training step uses.

    python benchmarks/roofline.py

The FLOPs of all products of a step divided by the time that they take one after the other, each on operands of its own
in bf16 or fp32. What a step reaches of it is its utilisation; the rest goes to everything that is no matrix product.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import machine, products


def seconds_of(count, rows, inner, columns, dtype):
    """Median seconds of ``count`` products (rows, inner) x (inner, columns); many small ones as one batch."""
    copies = () if count < 64 else (count,)
    left, right = (torch.randn(*copies, *shape).to(dtype) for shape in ((rows, inner), (inner, columns)))
    out, times = left @ right, []
    for _ in range(9):
        begun = time.perf_counter()
        torch.matmul(left, right, out=out)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * (1 if copies else count)


def matrix_rate(products, dtype):
    """FLOP/s over ``products``, a list of (how many, rows, inner, columns)."""
    seconds = sum(seconds_of(*product, dtype) for product in products)
    return sum(2 * n * r * i * c for n, r, i, c in products) / seconds


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False).parse_args()
    print(machine())
    for dtype in (torch.bfloat16, torch.float32):
        print(f"{str(dtype).removeprefix('torch.'):9} {matrix_rate(products(), dtype) / 1e9:6.0f} GFLOP/s")


if __name__ == "__main__":
    main()
