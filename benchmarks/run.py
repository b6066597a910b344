"""What `make bench` runs: the suite beside transformers on this machine, one table.

    python benchmarks/run.py [--rounds 3]

Masked-language-model training steps at 4 layers, width 256, feed-forward 1024, 4 heads, vocabulary 30,522, sequences of
128 tokens in batches of 32, dropout 0.1, AdamW, 15 % masked: ours and transformers' BertForMaskedLM on the same
batches with the same threads, alternating; the median of the rounds. Counted are all tokens of a batch; there is no
padding. The peer runs in fp32 and under bf16 autocast, and its better setting stands in the ratio.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model import BertConfig, MLMTask
from optimizer import make_optimizer

SIZES = dict(
    vocab_size=30522, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
)
SHAPE, STEPS = (32, 128), 8


def ours(dtype):
    model = MLMTask(BertConfig(**SIZES)).train()
    optimizer = make_optimizer(model, "adamw", 0.01)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4

    def step(input_ids, positions, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = F.cross_entropy(model(input_ids, positions=positions).float(), labels[positions])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def theirs(dtype):
    from transformers import BertConfig as Config
    from transformers import BertForMaskedLM

    model = BertForMaskedLM(Config(**SIZES)).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step(input_ids, positions, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(input_ids=input_ids, labels=labels.masked_fill(~positions, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def tokens_per_second(step):
    input_ids = torch.randint(5, SIZES["vocab_size"], SHAPE)
    positions = torch.rand(SHAPE) < 0.15
    begun = time.perf_counter()
    for _ in range(STEPS):
        step(input_ids, positions, input_ids)
    return STEPS * input_ids.numel() / (time.perf_counter() - begun)


def main():
    parser = argparse.ArgumentParser(description="The suite beside transformers: tokens/s of masked-language-model steps.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    steps = {f"{name} {dtype}": make(dtype) for name, make in (("ours", ours), ("transformers", theirs))
             for dtype in ("bf16", "fp32")}  # fmt: skip
    for step in steps.values():  # the first step allocates
        tokens_per_second(step)
    rates = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            rates[name].append(tokens_per_second(step))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peer = max(medians["transformers bf16"], medians["transformers fp32"])
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, rate in medians.items():
        print(f"{name:20} {rate:8.0f} tokens/s   {rate / peer:5.2f} x transformers at its better setting")


if __name__ == "__main__":
    main()
