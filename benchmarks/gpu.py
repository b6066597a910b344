"""All that wants a GPU, in one table: tests, speed beside transformers, losses beside the CPU's, fp16, memory.

    python benchmarks/gpu.py                          # `make gpu`, in six minutes; without a GPU it says so
    python benchmarks/gpu.py --device cpu --quick     # the same code on tiny models, to see that it runs

It needs no data, no network and no torchtext; pytest and transformers are passed over where they are missing. Text is
drawn from a made-up language in which the next word depends on the last one. Ours is the training loop as the tasks run
it, collating and all, in bf16, its layers compiled; the peer is transformers' model with its fused attention (sdpa),
torch.compile and torch's fused AdamW, on batches that lie ready on the device. On SQuAD, where lengths differ, both are
timed without the compiler too, and the peer compiled in two ways: for one length, to which all windows are padded, and
for any (dynamic shapes). 15 % of the words are masked. Model FLOPs are those of the matrix products which the task
needs, forward and twice that backward, the vocabulary's at the masked places only; a utilisation is their share of the
chip's own figure, or elsewhere of what a large product reaches. What does not fit into --minutes is left out, and said
to be.
"""

import argparse
import gc
import importlib.util
import re
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mlm_task
import qa_task
import utils
from model import BertConfig, MLMTask, QuestionAnswerTask
from text.batches import pad_rows
from text.masked_blocks import MaskedBlocks
from training.memory import peak_memory
from training.ranks import Ranks, half_precision, settle

PEAKS = {  # half precision, dense; of a name that is part of another the longer one first
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12,
    "L4": 121e12, "V100": 125e12,
}  # fmt: skip
SIZES = {"base": (12, 768), "mini": (4, 256), "tiny": (1, 32)}
WORDS, MASKED, DROPOUT = 30522, 0.15, 0.1
SQUAD = 384, 32  # tokens of a window at most, windows a step
TURN = 20  # steps
TURNS = 8  # at most, of a contestant that does not become steady


# Made-up text


class Words(SimpleNamespace):
    """Stands in for a tokenizer of ``size`` words."""

    def __len__(self):
        return self.size


def words(size):
    return Words(pad_id=0, unk_id=1, cls_id=2, sep_id=3, mask_id=4, special_ids=[*range(5)], size=size)


def language(count, size, seed=0):
    """``count`` tokens of which each depends on the one before: one of four words may follow a word."""
    rng = np.random.default_rng(seed)
    follow, which = rng.integers(5, size, (size, 4)), rng.integers(4, size=count)
    tokens = np.empty(count, np.uint16)
    token = 5
    for place in range(count):
        tokens[place] = token = follow[token, which[place]]
    return SimpleNamespace(tokens=tokens)


class Windows:
    """Stands in for SQuAD's windows: rows of 60 to ``longest`` tokens, with answers anywhere."""

    def __init__(self, longest, count, tokenizer):
        rng = np.random.default_rng(1)
        self.lengths = np.minimum(longest, np.maximum(longest // 6, rng.gamma(6, longest / 14, count).astype(int)))
        self.tokens = rng.integers(5, len(tokenizer), longest)
        self.tokenizer, self.longest = tokenizer, longest

    def __len__(self):
        return len(self.lengths)

    def collate(self, indices, epoch):
        rows = [(self.tokens[:12], self.tokens[: self.lengths[index] - 15]) for index in indices]
        places = torch.from_numpy(self.lengths[indices] // 2)
        return {**pad_rows(rows, self.tokenizer), "start": places, "end": places}


# Contestants: each gives a function that does some steps, and returns the tokens that they read


def trainer(cls, data, script, config, device, **flags):
    """The suite's own run of a task, on one device."""
    args = Namespace(
        parallel="None", log_dir="", save="", optimizer="adamw", precision="auto", weight_decay=0.01,
        batch_size=32, accumulate=1, minutes=None, steps=1000, warmup=0.0, lr=1e-4, seed=1, clip=1.0, save_minutes=1e9,
        log_interval=100, compile="auto", deterministic=False,
    )  # fmt: skip
    args = Namespace(**{**vars(args), **flags})
    settle(args, device)
    torch.manual_seed(0)
    task = utils.Task("", cls(config), None, {"train": data}, script.loss, None, None, None)
    return utils.Trainer(task, args, Ranks(device=device))


def stepping(run):
    work = utils.prefetch(run.work(), run.ranks.device)

    def steps(count):
        before = run.state.tokens
        for _ in range(count):
            micro_batches, counts, _ = next(work)
            run.step(micro_batches, counts, 0.1)
            run.state.step += 1
        run.read_steps()
        return run.state.tokens - before

    return steps


def theirs(kind, config, batches, device, compiled=True, dynamic=None):
    """transformers' model in the way of its documentation for GPUs."""
    import transformers

    torch.backends.cuda.enable_cudnn_sdp(True)  # with which it is the faster, and ours is not
    names = """vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_dropout_prob
        attention_probs_dropout_prob""".split()
    their = transformers.BertConfig(**{name: getattr(config, name) for name in names}, attn_implementation="sdpa")
    model = getattr(transformers, kind)(their).to(device).train()
    called = torch.compile(model, dynamic=dynamic) if compiled and device.type == "cuda" else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=device.type == "cuda")
    ready = [utils.to_device(batch, device) for batch in batches]

    def steps(count):
        done = 0
        for number in range(count):
            batch = ready[number % len(ready)]
            with torch.autocast(device.type, half_precision(device)):
                loss = called(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += utils.count_tokens(batches[number % len(ready)])
        return done

    return steps


def for_theirs(batch):
    """Our batch as transformers takes it."""
    if "start" in batch:
        names = {"start": "start_positions", "end": "end_positions"}
        return {names.get(name, name): x for name, x in batch.items()}
    labels = torch.full_like(batch["input_ids"], -100)
    labels[batch["positions"]] = batch["labels"]
    return {"input_ids": batch["input_ids"], "attention_mask": torch.ones_like(batch["input_ids"]), "labels": labels}


def padded_to(length, batch):
    """A batch whose rows have ``length`` tokens, what is new being padding."""
    short = length - batch["input_ids"].size(1)
    return {name: torch.nn.functional.pad(x, (0, short)) if x.dim() == 2 else x for name, x in batch.items()}


def speed(make, device, warm, timed):
    """(tokens a second, bytes at most, did it settle?) of ``make()``'s steps: of two turns of ``timed`` in a row that agree
    to 5 %, or the last of TURNS.

    A new shape compiles in the middle of the work; such a turn does not count.
    """
    torch._dynamo.reset()  # else other shapes of the one before lead the compiler to make code for any
    if device.type == "cuda":
        gc.collect()  # what the contestant before held
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    steps = make()
    steps(warm)
    turns: list[float] = []
    while not (settled := len(turns) > 1 and abs(turns[-1] / turns[-2] - 1) <= 0.05) and len(turns) < TURNS:
        finish(device)
        begun = time.perf_counter()
        done = steps(timed)
        finish(device)
        turns.append(done / (time.perf_counter() - begun))
    return 2 / (1 / turns[-1] + 1 / turns[-2]), peak_memory(device), settled


def finish(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_of_a_token(config, length, task):
    """Model FLOPs of training on one token, of ``length`` that see each other."""
    layers, d, f = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    forward = layers * (2 * (4 * d * d + 2 * d * f) + 4 * length * d)
    if task == "mlm":
        forward += MASKED * 2 * (d * d + d * config.vocab_size)
        forward -= (1 - MASKED) * 2 * (d * d + 2 * d * f)  # behind attention, the last layer is wanted at the masked places
    return 3 * forward


def peak_of(device):
    """FLOP/s of the chip, by its maker or by a large product."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = next((rate for part, rate in PEAKS.items() if part in name), None)
    if known:
        return known
    n = 8192 if device.type == "cuda" else 256
    x = torch.randn(n, n, device=device).to(half_precision(device))
    x @ x
    finish(device)
    begun = time.perf_counter()
    for _ in range(5):
        x @ x
    finish(device)
    return 5 * 2 * n**3 / (time.perf_counter() - begun)


# The parts; each gives lines of the table


def tests(device, quick):
    if importlib.util.find_spec("pytest") is None or importlib.util.find_spec("hypothesis") is None:
        return ["tests that want a GPU      left out: no pytest and hypothesis here"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py", "tests/test_model.py",
               "-k", "test_gpu or cuda", *(["--collect-only"] if quick else [])]  # fmt: skip
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    last = process.stdout.strip().splitlines()[-1:]
    return [f"tests that want a GPU      {last[0] if last else process.stderr[-200:]}"
            + ("" if process.returncode == 0 else f"; FAILED\n{process.stdout[-3000:]}")]  # fmt: skip


def training(task, size, length, rows, device, quick):
    layers, width = SIZES[size]
    vocabulary = 200 if quick else WORDS
    config = BertConfig(vocabulary, width, layers, max(1, width // 64), max_position_embeddings=512,
                        hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=DROPOUT)  # fmt: skip
    tokenizer = words(vocabulary)
    steps = (1, 1) if quick else (6, TURN) if task == "mlm" else (TURN, TURN)  # of SQuAD's rows a turn is an epoch: all
    if task == "mlm":
        text = language((4 if quick else 40) * rows * (length - 1), vocabulary)  # no row is padded, no batch is short
        data, cls, script = MaskedBlocks(text, tokenizer, length, 1, MASKED), MLMTask, mlm_task
    else:
        data, cls, script = Windows(length, TURN * rows, tokenizer), QuestionAnswerTask, qa_task  # lengths once each
    order = utils.batches.epoch_batches(len(data), rows, 1, 0, data.lengths)
    seen = length if task == "mlm" else float((data.lengths**2).sum() / data.lengths.sum())
    flops, peak = flops_of_a_token(config, seen, task), peak_of(device)

    def ours(compile):
        return lambda: stepping(trainer(cls, data, script, config, device, batch_size=rows, compile=compile))

    contestants = {"ours": ours("auto")}
    if task == "squad":
        contestants["ours, not compiled"] = ours("off")
    if importlib.util.find_spec("transformers"):
        some = [for_theirs(data.collate(part, 0)) for part in order[:TURN]]
        kind = "BertForMaskedLM" if task == "mlm" else "BertForQuestionAnswering"
        wide = some if task == "mlm" else [padded_to(length, batch) for batch in some]
        contestants["transformers"] = lambda: theirs(kind, config, wide, device)
        if task == "squad":
            contestants["transformers, any length"] = lambda: theirs(kind, config, some, device, dynamic=True)
            contestants["transformers, not compiled"] = lambda: theirs(kind, config, some, device, compiled=False)
    for name, make in contestants.items():
        rate, memory, settled = speed(make, device, *steps)
        doubt = "" if settled else "   NOT steady"
        yield (f"{task:5} {size:5} {rows:4} x {length:3}  {name:26} {rate:11,.0f} tokens/s   utilisation "
               f"{100 * rate * flops / peak:5.1f} %   {memory / 2**20:8,.0f} MiB{doubt}")  # fmt: skip


def small_run(device, **flags):
    config = BertConfig(500, 128, 2, 2, max_position_embeddings=64, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0)  # fmt: skip
    data = MaskedBlocks(language(60_000, 500), words(500), 64, 1, 0.3)
    return trainer(MLMTask, data, mlm_task, config, device, **{"batch_size": 16, "lr": 1e-3, "optimizer": "muon", **flags})


def losses(run, count):
    stepping(run)(count)
    return np.array([summed / max(terms, 1) for summed, terms, _ in run.state.recent])


def agreement(device, quick):
    count = 3 if quick else 60
    ours, cpu = (losses(small_run(place, precision="fp32"), count) for place in (device, torch.device("cpu")))
    worst = abs(ours - cpu).max()
    return [f"loss in fp32 beside the CPU's, {count} steps from {cpu[0]:.3f} to {cpu[-1]:.3f}: at most {worst:.5f} apart, "
            f"{'within' if worst < 1e-2 else 'NOT within'} 0.01"]  # fmt: skip


def overflows(device, quick):
    if device.type == "cpu":
        return ["fp16 with overflows        left out: needs a GPU"]
    run = small_run(device, precision="fp16")
    run.engine.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    found, skipped = losses(run, 60), run.state.skipped
    first = found[min(skipped, len(found) - 1)]
    return [f"fp16 with overflows        {skipped} of 60 steps skipped, the scale from 2^40 to "
            f"2^{np.log2(run.engine.scaler.get_scale()):.0f}, loss {first:.3f} to {found[-1]:.3f}: "
            f"{'well' if 0 < skipped < 40 and found[-1] < first else 'NOT well'}"]  # fmt: skip


def repeated(device, quick):
    """Two runs with --deterministic; last, for it is asked of the whole process."""
    settle(Namespace(precision="auto", deterministic=True), device)
    found = [losses(small_run(device), 3 if quick else 30) for _ in range(2)]
    torch.use_deterministic_algorithms(False)
    return [f"--deterministic, twice: {'the same bits' if (found[0] == found[1]).all() else 'NOT the same bits'}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models and few steps, to see that it runs")
    parser.add_argument("--minutes", type=float, default=8.5, help="after which no further part begins")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing to measure (--device cpu --quick shows that the benchmark runs)")
        return
    begun, device = time.monotonic(), torch.device(args.device, 0) if args.device == "cuda" else torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    table: list[str] = []

    def note(line):
        table.append(line)
        print(line, flush=True)

    note(f"{name}, torch {torch.__version__}, {half_precision(device)}")
    rows = (4, 4) if args.quick else (256, 64)
    sizes = ["tiny"] if args.quick else ["base", "mini"]
    parts = [(agreement,), (overflows,), (training, "squad", sizes[0], *((64, 4) if args.quick else SQUAD)),
             *((training, "mlm", size, *shape) for size in sizes for shape in zip((128, 512), rows, strict=True)),
             (repeated,), (tests,)]  # fmt: skip
    for part, *settings in parts:
        name = " ".join([part.__name__, *map(str, settings)])
        if time.monotonic() - begun > 60 * args.minutes:
            note(f"{name}: left out, {args.minutes:g} minutes are over")
            continue
        try:
            for line in part(*settings, device, args.quick):
                note(line)
        except (RuntimeError, subprocess.TimeoutExpired) as failure:
            if args.quick:
                raise
            note(f"{name}: FAILED, {failure}")
    print("\n" + "\n".join(table) + f"\n{(time.monotonic() - begun) / 60:.1f} minutes")
    return int(any(re.search(r"\bFAILED\b|\bNOT\b(?! steady)", line) for line in table))


if __name__ == "__main__":
    sys.exit(main())
