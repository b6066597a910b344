"""One training run: the task, the loop, the logs.

A task script fills in a ``Task`` (its model, examples, loss and score) and hands it to ``run``. Design choices:

- There is one loop. It reads: until the budget is spent, take a global batch, this rank's share of it, micro-batch by
  micro-batch, sum the gradients, clip, step; now and then log, validate, save.
- The budget is epochs, steps or minutes; progress through it, from 0 to 1, decides the learning rate (warm-up, then
  linear decay) and when to validate. Under ``--minutes`` rank 0's clock decides for all ranks.
- A loss is a sum over examples and their number. Both are summed over micro-batches and ranks before the division, so
  neither ``--accumulate`` nor the number of ranks changes the gradient.
- Every random choice is a function of seed, step and rank, never of what happened before, so that saved state needs no
  generators and a resumed run repeats the interrupted one bit for bit. What is saved, and when not, is in states.py.
- A signal to stop is noted and obeyed after the step, by all ranks after the same one. A step whose loss or gradient is
  not finite is skipped; after several in a row the run goes back to its last saved state once, with a lower rate.
- Scores are computed from rows, one per example, gathered in order: the same on any number of ranks.
"""

import contextlib
import copy
import dataclasses
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import batches
import checkpoint
import sharding
from files import UserError, atomic_write, write_json
from ranks import peak_memory, precision_of, restarted
from states import State, States, check_layout, check_same_run, kept_arguments

STOPPED = 75  # exit code after SIGTERM or SIGUSR1: saved, to be continued (EX_TEMPFAIL of sysexits.h)
INTERRUPTED = 130  # after Ctrl-C, as shells have it; saved as well
PATIENCE = 5  # steps in a row without a finite loss, before the run goes back
LOWER = 0.3  # factor of the learning rate from then on
SAMPLES = 8  # right, and as many wrong answers that a run keeps for report.py

# --------------------------------------------------------------------------------------------------------------------
# A task, its examples and its score
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Task:
    """What makes one task differ from another.

    ``loss(model, batch)`` gives the loss summed over the batch's labels; ``rows(model, batch, data, indices)`` gives one
    plain value for each example in ``indices``; ``figures(data, rows)`` makes scores of them,
    "loss" among them; ``summary(figures)`` is how they read in a log line. ``best`` names the score to choose a model
    by, smallest where it is "loss". ``notes(figures)`` are what the model file keeps of a validation.
    ``samples(compute, model, data, rows)`` gives some examples with the model's answers, for report.py.
    """

    name: str
    model: torch.nn.Module
    tokenizer: Any
    examples: dict  # split -> one of the classes in batches.py
    loss: Any
    rows: Any
    figures: Any
    summary: Any
    best: str = "loss"
    notes: Any = lambda figures: {}
    samples: Any = None


def pinned(batch, device):
    """The batch in memory that a GPU copies from while it computes; slow to get, so not in the loop itself."""
    return {k: v if v is None else v.pin_memory() for k, v in batch.items()} if device.type == "cuda" else batch


def to_device(batch, device):
    return {k: v if v is None else v.to(device, non_blocking=True) for k, v in batch.items()}


def inputs(batch, *more):
    """The arguments that every model of model.py takes, and those named."""
    return {name: batch.get(name) for name in ("input_ids", "token_type_ids", "attention_mask", *more)}


class Computer:
    """Forward passes in the right precision on the right device, in batches that suit it."""

    CPU_BATCH = 16  # of MiniLM's sizes, SQuAD's windows: 139 questions/s; 32 give 130 and 64 give 124

    def __init__(self, args, ranks):
        self.ranks, self.dtype = ranks, precision_of(args, ranks.device)
        self.batch_size = max(1, 2 * args.batch_size // args.accumulate)
        if ranks.device.type == "cpu":
            self.batch_size = min(self.batch_size, self.CPU_BATCH)

    def autocast(self):
        return torch.autocast(self.ranks.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def score(self, task, split, limit=None):
        """The task's figures on a split, or on ``limit`` examples spread over it; the same on any number of ranks."""
        return task.figures(task.examples[split], self.rows(task, split, limit))

    @torch.no_grad()
    def rows(self, task, split, limit=None):
        """(example, its row) for those examples, in order."""
        data, model = task.examples[split], task.model.eval()
        chosen = np.arange(len(data))
        if limit and limit < len(data):
            chosen = np.linspace(0, len(data) - 1, limit).round().astype(int)
        lengths = None if data.lengths is None else data.lengths[chosen]
        work = batches.evaluation_batches(len(chosen), self.batch_size, lengths)
        mine = range(self.ranks.rank, len(work), self.ranks.world)
        if sharding.is_cut(model):  # all ranks must call it equally often; what is scored twice comes out the same
            mine = [min(first + self.ranks.rank, len(work) - 1) for first in range(0, len(work), self.ranks.world)]
        rows = {}
        with self.autocast():  # around all batches, so that weights are made narrower once
            for number in tqdm(mine, f"scoring {split}", disable=None if self.ranks.first else True, leave=False):
                indices = chosen[work[number]]
                batch = to_device(data.collate(indices, batches.EVALUATION), self.ranks.device)
                rows.update(zip(indices.tolist(), task.rows(model, batch, data, indices), strict=True))
        everything = {index: row for part in self.ranks.gather(rows) for index, row in part.items()}
        model.train()
        return [(index, everything[index]) for index in sorted(everything)]


# --------------------------------------------------------------------------------------------------------------------
# The loop
# --------------------------------------------------------------------------------------------------------------------


def prefetch(iterable, depth=2):
    """The items of ``iterable``, made by a thread ahead of their use."""
    items, end, stop = queue.Queue(depth), object(), threading.Event()

    def offer(item):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=0.1)
                return

    def work():
        try:
            for item in iterable:
                offer((item, None))
                if stop.is_set():
                    return
            offer((end, None))
        except BaseException as error:
            offer((end, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()


class Trainer:
    """A run in progress: task, optimizer, state and logs."""

    def __init__(self, task, args, ranks):
        self.task, self.args, self.ranks = task, args, ranks
        self.compute = Computer(args, ranks)
        self.model = task.model.to(ranks.device).train()
        # What model files are made from: with FSDP a whole copy, of which only rank 0's is used
        self.shell = copy.deepcopy(self.model) if args.parallel == "FSDP" and ranks.world > 1 else self.model
        self.parallel, self.optimizer = sharding.share(self.model, args, ranks)
        if sharding.is_cut(self.parallel):
            task.model = self.parallel
        self.scaler = sharding.make_scaler(self.parallel, enabled=self.compute.dtype == torch.float16)
        self.state = State()
        self.folder = Path(args.log_dir)
        self.data = task.examples["train"]
        self.batches_per_epoch = -(-len(self.data) // args.batch_size)
        self.states = States(self.folder, self.say)
        self.started = self.saved = time.monotonic()
        self.bar = self.board = None
        self.waited = 0.0  # seconds for batches, since the last log line
        self.stop_wanted = 0  # the exit code, once a signal came to this rank
        self.stop = self.save = False  # on any rank; by rank 0's clock

    # The budget

    def seconds(self):
        return self.state.seconds + time.monotonic() - self.started

    def progress(self):
        """The share of the budget that is spent, the same on every rank."""
        if self.args.minutes:
            return min(1.0, self.ranks.of_first(self.seconds()) / (60 * self.args.minutes))
        return min(1.0, self.state.step / (self.args.steps or self.args.epochs * self.batches_per_epoch))

    def rate(self, progress):
        """Linear warm-up, then linear decay to zero at the end of the budget."""
        if not self.args.minutes:  # the first step should do something
            progress += 0.5 / (self.args.steps or self.args.epochs * self.batches_per_epoch)
        rise = progress / self.args.warmup if self.args.warmup else 1.0
        return self.args.lr * self.state.lowered * min(rise, (1.0 - progress) / (1.0 - self.args.warmup))

    def validation_due(self, progress):
        """At the end of each epoch; under --steps and --minutes five times in the whole budget."""
        if self.args.steps or self.args.minutes:
            return int(5 * progress) > self.state.validations
        return self.state.batch == 0

    # Batches

    def work(self):
        """This rank's micro-batches of every step to come, and the state that holds after it."""
        epoch, done = self.state.epoch, self.state.batch
        while True:
            order = batches.epoch_batches(len(self.data), self.args.batch_size, self.args.seed, epoch, self.data.lengths)
            for number in range(done, len(order)):
                mine = order[number][self.ranks.rank :: self.ranks.world]
                idle = len(mine) == 0  # more ranks than examples: take part in the step without weight
                mine = order[number][:1] if idle else mine
                parts = [part for part in np.array_split(mine, self.args.accumulate) if len(part)]
                after = (epoch, number + 1) if number + 1 < len(order) else (epoch + 1, 0)
                yield [pinned(self.data.collate(part, epoch), self.ranks.device) for part in parts], idle, after
            epoch, done = epoch + 1, 0

    # One step

    def step(self, micro_batches, idle, progress):
        args, rate = self.args, self.rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        torch.manual_seed((args.seed + 1_000_003 * self.state.step + self.ranks.rank) % (1 << 63))  # for dropout
        counts = [0 if idle else count_terms(batch) for batch in micro_batches]
        tokens = 0 if idle else sum(count_tokens(batch) for batch in micro_batches)
        save = self.ranks.first and time.monotonic() - self.saved > 60 * args.save_minutes
        count, tokens, stop, save = self.ranks.sum(sum(counts), tokens, self.stop_wanted, save)
        count = max(count, 1)  # blocks of unknown tokens have nothing to restore
        summed = 0.0
        for number, batch in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with contextlib.nullcontext() if last or self.ranks.world == 1 else self.parallel.no_sync():
                with self.compute.autocast():
                    loss = self.task.loss(self.parallel, to_device(batch, self.ranks.device))
                loss = loss * 0.0 if idle else loss
                self.scaler.scale(loss * (self.ranks.world / count)).backward()
                summed += float(loss.detach())
        summed, = self.ranks.sum(summed)
        self.scaler.unscale_(self.optimizer)
        norm = sharding.clip(self.parallel, args.clip)
        # One step along a gradient that is not finite ruins all weights; fp16's scaler passes over it by itself.
        good = np.isfinite(summed) and (self.scaler.is_enabled() or bool(torch.isfinite(norm)))
        if good:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.bad = 0 if good else self.state.bad + 1
        self.state.skipped += not good
        self.state.recent.append((summed, count, tokens) if good else (0.0, 0, tokens))
        self.stop, self.save = stop > 0, save > 0
        return rate, norm

    def run(self):
        """Train until the budget is spent. The best model so far is always in ``--save``."""
        self.started = self.logged = time.monotonic()
        progress = self.progress()
        if self.ranks.first:
            self.open_logs()
        while progress < 1.0 and not self.stop:
            for micro_batches, idle, after in self.clocked(prefetch(self.work())):
                rate, norm = self.step(micro_batches, idle, progress)
                self.state.step += 1
                self.state.epoch, self.state.batch = after
                progress = self.progress()
                self.log_step(progress, rate, norm)
                if self.state.bad == PATIENCE:
                    self.go_back()
                    progress = self.progress()
                    break  # and on with the batches from there
                if self.validation_due(progress):
                    self.validate()
                elif self.save:
                    self.save_state()
                if self.stop or progress >= 1.0:
                    break
        if self.bar is not None:
            self.bar.close()

    def clocked(self, iterable):
        """The items, adding the time that they are waited for to ``waited``."""
        begun = time.monotonic()
        for item in iterable:
            self.waited += time.monotonic() - begun
            yield item
            begun = time.monotonic()

    def go_back(self):
        """To the last saved state, once, with a lower rate. Raises UserError the second time."""
        step, seconds, skipped = self.state.step, self.seconds(), self.state.skipped
        self.states.wait()
        self.ranks.gather(None)  # until rank 0 has written what there is
        what = f"no finite loss in {PATIENCE} steps in a row, up to step {step}"
        saved = None if self.state.lowered < 1 else self.states.load()
        if saved is None:
            again = "again, after going back" if self.state.lowered < 1 else "and no saved state to go back to"
            raise UserError(f"{what}, {again}; go on from {self.folder} with --resume and a lower --lr (now "
                            f"{self.args.lr:g}) or --precision fp32")  # fmt: skip
        self.restore(saved)
        self.state.seconds, self.state.skipped, self.state.lowered = seconds, skipped, LOWER
        self.started = time.monotonic()
        self.say(f"{what}: going back to step {self.state.step}, on with {LOWER:g} of the learning rate")
        self.save_state()

    # Validation and state

    def validate(self):
        begun = time.monotonic()
        figures = self.compute.score(self.task, "valid", self.args.valid_examples)
        self.state.validations += 1
        value = figures[self.task.best]
        better = np.isfinite(value) and np.isfinite(figures["loss"]) and (
            self.state.best is None or (value < self.state.best if self.task.best == "loss" else value > self.state.best)
        )  # fmt: skip
        if self.ranks.first:
            self.say("-" * 89)
            self.say(f"| end of epoch {self.epoch():3d} | step {self.state.step:6d} | time: "
                     f"{time.monotonic() - begun:5.2f}s | {self.task.summary('valid', figures)}")  # fmt: skip
            self.say("-" * 89)
            self.record("valid", figures)
            write_json(self.folder / "history.json", self.state.history)
        if better and self.save_best(figures):
            self.state.best = value
        self.save_state()

    def save_best(self, figures):
        """Write the model file; False where there is no room for it, so that a later model that is better is tried."""
        if sharding.is_cut(self.parallel):
            weights = sharding.weights_of(self.parallel)
            if self.ranks.first:
                self.shell.load_state_dict(weights)
        try:
            if self.ranks.first:
                checkpoint.save_model(self.args.save, self.shell, self.task.tokenizer, self.task.notes(figures))
        except (OSError, RuntimeError, UserError) as error:
            if self.state.best is None:  # nothing is lost yet
                raise
            self.say(f"warning: {self.args.save} stays as it was, the better model could not be saved "
                     f"({getattr(error, 'strerror', None) or error}); the run goes on")  # fmt: skip
            return False
        return True

    def epoch(self):
        """The epoch, from 1, of the step just done."""
        return self.state.epoch + (self.state.batch > 0)

    def save_state(self, wait=False):
        """All that the run needs to go on, written by rank 0; the budget's clock counts up to here.

        While losses are not finite, the state before them stays the last one.
        """
        self.state.seconds, self.started = self.seconds(), time.monotonic()
        self.saved = self.started
        if self.state.bad:
            return
        weights, optimizer = sharding.weights_of(self.parallel), sharding.optimizer_state(self.parallel, self.optimizer)
        if self.ranks.first:
            self.states.save({
                "task": self.task.name, "arguments": kept_arguments(self.args), "examples": len(self.data),
                "sizes": dataclasses.asdict(self.model.bert.config), "state": dataclasses.asdict(self.state),
                "model": weights, "optimizer": optimizer, "scaler": self.scaler.state_dict(),
            }, wait)  # fmt: skip

    def begin(self):
        """Go on from the state in --log-dir, where --resume or a restart by torchrun or Slurm asks for it; else start."""
        if self.ranks.first:
            self.states.remove_unfinished(self.args.save)
        resume = self.args.resume or restarted()
        saved = self.states.load() if resume else None
        self.ranks.gather(None)  # until all have read what rank 0 may now move
        if saved is not None:
            sizes = dataclasses.asdict(self.model.bert.config)
            check_layout(saved)
            check_same_run(saved, self.task.name, sizes, self.args, len(self.data))
            self.restore(saved)
            if saved["arguments"]["lr"] != self.args.lr:  # meant as it says
                self.state.lowered = 1.0
            self.say(f"resuming from {saved['path']} at step {self.state.step}")
            if self.ranks.first:
                self.states.clear_damaged()
            return
        if resume:
            self.say(f"nothing to resume in {self.folder}: starting")
        if self.ranks.first:
            self.states.set_aside()
        self.save_state()  # to go back to; and a disk without room for it is told at once

    def restore(self, saved):
        try:
            sharding.load_weights(self.parallel, saved["model"])
            sharding.load_optimizer(self.parallel, self.optimizer, saved["optimizer"])
        except ValueError as error:
            raise UserError(f"{saved['path']}: {error}; remove it to start anew") from None
        self.scaler.load_state_dict(saved["scaler"])
        self.state = State(**saved["state"])

    # Signals

    @contextlib.contextmanager
    def signals(self):
        """Within it, Ctrl-C, SIGTERM and SIGUSR1 stop the run where its state is whole. A second Ctrl-C interrupts."""
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
        handlers = [signal.signal(number, self.want_stop) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)

    def want_stop(self, number, _):
        self.stop_wanted = INTERRUPTED if number == signal.SIGINT else STOPPED
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.state.finished:  # only the scoring is left, which is done anew with --resume
            self.say("stopped before the last scores; go on with the same command and --resume")
            self.states.wait()
            os._exit(self.stop_wanted)

    # Logs

    def open_logs(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        total = None if self.args.minutes else self.args.steps or self.args.epochs * self.batches_per_epoch
        self.bar = tqdm(total=total, initial=self.state.step, desc=self.task.name, unit="step", disable=None)
        write_json(self.folder / "settings.json", settings(self.task, self.args))
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.folder), purge_step=self.state.step or None)

    def say(self, text):
        if self.ranks.first:
            tqdm.write(text)
            sys.stdout.flush()

    def log_step(self, progress, rate, norm):
        if not self.ranks.first:
            self.state.recent.clear()
            return
        self.bar.update()
        self.state.tokens += int(self.state.recent[-1][2])
        if self.state.step % self.args.log_interval:
            return
        losses, counts, tokens = (sum(column) for column in zip(*self.state.recent, strict=True))
        loss = losses / counts if counts else float("nan")
        now = time.monotonic()
        since = now - self.logged
        self.logged, steps, self.state.recent = now, len(self.state.recent), []
        busy, self.waited = 1 - self.waited / since, 0.0  # the share of the time in which no batch was waited for
        figures = {"loss": loss, "lr": rate, "gradient_norm": float(norm), "tokens_per_second": tokens / since,
                   "utilisation": busy, "memory_bytes": peak_memory(self.ranks.device)}  # fmt: skip
        self.record("train", figures)
        if self.bar.disable:
            of = f"{self.state.batch or self.batches_per_epoch:5d}/{self.batches_per_epoch:5d} batches"
            print(f"| epoch {self.epoch():3d} | {of} | lr {rate:.2e} | ms/batch {1000 * since / steps:5.2f} | "
                  f"{self.task.summary('', {'loss': loss})} | {progress:4.0%}"
                  + (f" | {self.state.skipped} skipped" if self.state.skipped else ""), flush=True)  # fmt: skip
        else:
            left = (1 - progress) / max(progress, 1e-9) * self.seconds()
            self.bar.set_postfix_str(f"loss {loss:.3f}, lr {rate:.1e}, {left:.0f} s left")

    def record(self, kind, figures):
        figures = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        self.state.history.append((self.state.step, kind, figures))
        for name, value in figures.items() if self.board else ():
            self.board.add_scalar(f"{kind}/{name}", value, self.state.step)

    def close_logs(self):
        write_json(self.folder / "history.json", self.state.history)
        if self.board:
            self.board.close()
        with contextlib.suppress(ImportError):
            draw_losses(self.state.history, self.folder / "loss.png")


def settings(task, args):
    """What a run was told, and the size of its model; what the flags leave open is not in it."""
    plain = str | int | float
    told = {name: value for name, value in vars(args).items() if isinstance(value, plain) and value is not False}
    return {"task": task.name, **told, "parameters": sum(p.numel() for p in task.model.parameters())}


def note_hparams(folder, told, figures):
    """Settings and result where TensorBoard's HPARAMS page compares runs."""
    with contextlib.suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder)) as board:
            board.add_hparams(told, {f"test/{name}": value for name, value in figures.items()
                                     if isinstance(value, int | float)}, run_name=".")  # fmt: skip


def count_terms(batch):
    """How many terms a batch's summed loss has: masked tokens, pairs, windows or questions."""
    return batch["labels" if "labels" in batch else "start"].size(0)


def count_tokens(batch):
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())


def draw_losses(history, path):
    """A picture of the training and validation loss over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for kind in ("train", "valid"):
        points = [(step, figures["loss"]) for step, name, figures in history if name == kind and "loss" in figures]
        if points:
            axes.plot(*zip(*points, strict=True), label=kind, marker="o" if kind == "valid" else None)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
    pyplot.close(figure)


def default_rate(task, config):
    """The peak learning rate that trained well: found at width 128 (benchmarks/LOG.md), falling with the width.

    Too high a rate shows as a loss that stays at chance: the first token's state stops depending on what was read.
    """
    rate, power = {"mlm": (2e-3, 0.5), "ns": (2e-4, 0.5)}.get(task, (4e-4, 1.5))
    return rate * (128 / config.hidden_size) ** power


def run(task, args, ranks):
    """Train (unless --evaluate), score the best model on the test split, write result.json. Gives the exit code."""
    if args.lr is None:
        args.lr = default_rate(task.name, task.model.bert.config)
    if args.evaluate:
        task.model.to(ranks.device)
        return finish(task, args, ranks, State())
    trainer = Trainer(task, args, ranks)
    with trainer.signals():
        trainer.begin()
        trainer.run()
        trainer.stop = trainer.stop or ranks.sum(trainer.stop_wanted)[0] > 0  # the signal may have come in the last step
        trainer.state.finished = not trainer.stop
        trainer.save_state(wait=True)
        if ranks.first:
            trainer.close_logs()
        ranks.gather(None)  # until rank 0 has written state and best model
        if trainer.stop:
            trainer.say(f"stopped at step {trainer.state.step}; go on with the same command and --resume")
            return trainer.stop_wanted or STOPPED
        if trainer.state.best is None:
            raise UserError(f"no validation gave a finite score, so there is no model in {args.save}; try a lower --lr")
        if args.no_test:
            return 0
        best = checkpoint.read_model(args.save)
        sharding.load_weights(trainer.parallel, checkpoint.whole(best))
        trainer.model.notes = best["notes"]
        return finish(task, args, ranks, trainer.state)


def finish(task, args, ranks, state):
    """Score the test split and tell the figures."""
    compute = Computer(args, ranks)
    rows = compute.rows(task, "test")
    figures, folder = task.figures(task.examples["test"], rows), Path(args.log_dir)
    if task.samples:
        samples = task.samples(compute, task.model, task.examples["test"], rows)
        if ranks.first:
            write_json(folder / "examples.json", samples)
    if ranks.first and state.step:
        note_hparams(folder, settings(task, args), figures)
    return conclude(task.name, task.summary, figures, args, ranks, state)


def conclude(name, summary, figures, args, ranks, state):
    """Print the closing lines and write result.json."""
    if ranks.first:
        print("=" * 89)
        print(f"| End of training | {summary('test', figures)}")
        print("=" * 89, flush=True)
        result = {
            "task": name, "dataset": args.dataset, "seconds": round(state.seconds, 3), "steps": state.step,
            "tokens": state.tokens, "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9), 1),
            "peak_memory_bytes": peak_memory(ranks.device), "skipped_steps": state.skipped,
            **{name if name != "loss" else "test_loss": value for name, value in figures.items()},
        }  # fmt: skip
        write_json(Path(args.log_dir) / "result.json", result)
    return 0
