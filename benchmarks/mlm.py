"""Masked-language-model training beside transformers: tokens/s, share of the machine's matrix products, memory.

    python benchmarks/mlm.py [--rounds 5]
    python benchmarks/mlm.py --beside .venv-new/bin/python     # both stacks, in one run

4 layers, width 256, 4 heads, feed-forward 1024, vocabulary 30,522, 32 sequences of 128 tokens, dropout 0.1, AdamW, 15 %
masked. Ours and transformers' BertForMaskedLM get the same batches with the same threads, alternating, each in its own
process, its steps counted once its rate is steady; the median of the rounds. Both run in fp32 and, where the CPU
multiplies it fast, in bf16 (autocast); the peer once more, in the latter, with the allocator setting that ours makes for
itself (memory.keep_freed_memory), which its scripts do not have. All tokens of a batch count; there is no padding. FLOPs
are those of the matrix products that the task needs, forward and twice that backward, the vocabulary's at the masked
positions only; they are set beside the rate at which this machine multiplies matrices of these shapes (roofline.py),
measured in the same run.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mlm_task
from benchmarks.common import (
    KEPT,
    LENGTH,
    MASKED,
    ROWS,
    SIZES,
    alternate,
    differing,
    machine,
    needs,
    products,
    take_turns,
    their_optimizer,
)
from benchmarks.roofline import matrix_rate
from files.command_line import positive
from files.mistakes import run_main
from model import BertConfig, MLMTask
from training.memory import keep_freed_memory
from training.optimizer import make_optimizer
from training.ranks import has_fast_bf16


def batches(count):
    """Endlessly the same ``count`` batches, as mlm_task.py's."""
    made = []
    torch.manual_seed(0)  # whatever numbers a contestant's weights have taken
    for _ in range(count):
        input_ids, positions = torch.randint(5, SIZES["vocab_size"], (ROWS, LENGTH)), torch.rand(ROWS, LENGTH) < MASKED
        places = positions.flatten().nonzero()[:, 0]
        made.append({"input_ids": input_ids, "positions": positions, "places": places, "labels": input_ids[positions]})
    while True:
        yield from made


def stepper(loss, optimizer, dtype):
    work = batches(4)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            value = loss(next(work))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return ROWS * LENGTH

    return step


def ours(dtype):
    model = MLMTask(BertConfig(**SIZES)).train()
    optimizer = make_optimizer(model, "adamw", 0.01)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    return stepper(lambda batch: mlm_task.loss(model, batch) / len(batch["labels"]), optimizer, dtype)


def theirs(dtype):
    from transformers import BertConfig as Config
    from transformers import BertForMaskedLM

    model = BertForMaskedLM(Config(**SIZES)).train()

    def loss(batch):
        labels = batch["input_ids"].masked_fill(~batch["positions"], -100)
        return model(input_ids=batch["input_ids"], labels=labels).loss

    return stepper(loss, their_optimizer(model, 1e-4), dtype)


DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}  # the faster first
if not has_fast_bf16(torch.device("cpu")):
    del DTYPES["bf16"]
BEST = next(iter(DTYPES))
CONTESTANTS = {
    **{f"ours {dtype}": lambda dtype=dtype: ours(dtype) for dtype in DTYPES},
    **{f"transformers {dtype}": lambda dtype=dtype: theirs(dtype) for dtype in DTYPES},
    f"transformers {BEST}{KEPT}": lambda: theirs(BEST),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive(int), default=5)
    parser.add_argument("--steps", type=positive(int), default=12, help="steps of a turn that count")
    parser.add_argument("--beside", metavar="PYTHON", help="let another Python run all contestants as well")
    parser.add_argument("--contestant", choices=CONTESTANTS, help="be this one, and take a turn for each line read")
    args = parser.parse_args()
    if args.contestant:
        torch.manual_seed(0)
        if args.contestant.startswith("ours") or args.contestant.endswith(KEPT):
            keep_freed_memory()
        step = CONTESTANTS[args.contestant]()
        return take_turns(step, args.steps)

    needs("transformers", "the peer")
    found = alternate(__file__, CONTESTANTS, args.rounds, "--steps", str(args.steps), beside=args.beside)
    faster = max((f"transformers {dtype}" for dtype in DTYPES), key=lambda name: found[name].steady)
    peers = faster, f"transformers {BEST}{KEPT}"
    flops = sum(2 * n * r * i * c for n, r, i, c in products())
    limit = matrix_rate(products(), DTYPES[BEST])
    print(machine())
    for name, rates in found.items():
        times = ", ".join(f"{rates.steady / found[peer].steady:5.2f} x {peer}" for peer in peers)
        print(f"{name:36} {rates.steady:8.0f} tokens/s, {rates.memory / 2**20:6.0f} MiB: {times}")
    print(differing(found))
    rate = found[f"ours {BEST}"].steady * flops / (ROWS * LENGTH)
    print(f"ours {BEST}: {rate / 1e9:.0f} GFLOP/s of {limit / 1e9:.0f}, which matrix products of these shapes reach "
          f"alone: {100 * rate / limit:.0f} %")  # fmt: skip


if __name__ == "__main__":
    run_main(main)
