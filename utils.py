"""One training run: the task, the loop, the end.

A task script fills in a ``Task`` (its model, examples, loss and score) and hands it to ``run``. Design choices:

- There is one loop. It reads: until the budget is spent, take a global batch, this rank's share of it, micro-batch by
  micro-batch, sum the gradients, clip, step; now and then log, validate, save. Budget and learning rate are in
  training/schedule.py, logs in training/logs.py, saving and going back in training/saving.py.
- A loss is a sum over examples and their number. Both are summed over micro-batches and ranks before the division, so
  neither ``--accumulate`` nor the number of ranks changes the gradient.
- Every random choice is a function of seed, step and rank, never of what happened before, so that saved state needs no
  generators and a resumed run repeats the interrupted one bit for bit.
- A signal to stop is obeyed by all ranks after the same step (training/stopping.py). A step whose loss or gradient is not
  finite is skipped; after several in a row the run goes back to its last saved state once, with a lower rate.
- There is one way to score: rows, one per example, gathered in order, the same on any number of ranks; from them what
  the model found, which several models can put together; from that the figures.
"""

import contextlib
import math
import os
import queue
import signal
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import checkpoint
from files.mistakes import UserError, warn
from files.writing import write_json
from text import batches
from text.tokens import names_of
from training import sharding
from training.beginning import tell_of_sizes
from training.logs import Logs, note_hparams, settings
from training.memory import memory_of, micro_batches, peak_memory
from training.ranks import Ranks, precision_of
from training.saving import PATIENCE, Saving, is_best
from training.schedule import Schedule, default_rate
from training.states import State
from training.stopping import CODES, STOPPED, stopping

SAMPLES = 8  # right, and as many wrong answers that a run keeps for report.py

# --------------------------------------------------------------------------------------------------------------------
# A task, its examples and its score
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Task:
    """What makes one task differ from another.

    ``loss(model, batch)`` gives the loss summed over the batch's labels; ``rows(model, batch, data, indices)`` gives one
    plain value for each example in ``indices``; ``found(data, rows)`` makes of those what the model found, which
    ``together(list of them)`` joins where several models answer; ``figures(data, found)`` makes scores of that, "loss"
    among them; ``summary(part, figures)`` is how they read in a log line. ``best`` names the score to choose a model by,
    smallest where it is "loss". ``notes(figures)`` are what the model file keeps of a validation.
    ``samples(compute, model, data, found)`` gives some examples with the model's answers, for report.py. ``tested`` are the
    figures that result.json and evaluation.json call test_loss and so on.
    """

    name: str
    model: torch.nn.Module
    tokenizer: Any
    examples: dict  # split -> one of the kinds of examples in text/
    loss: Callable
    rows: Callable
    figures: Callable
    summary: Callable
    best: str = "loss"
    notes: Callable = lambda figures: {}
    samples: Callable | None = None
    found: Callable = lambda data, rows: rows
    together: Callable | None = None
    tested: tuple = ("loss",)


def pinned(batch, ranks):
    """The batch in memory that a GPU copies from while it computes; slow to get, so not in the loop itself.

    A mask that hides nothing is left out, without which attention is faster there.
    """
    if ranks.device.type == "cuda":
        batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    if ranks.queued and batch.get("attention_mask") is not None and batch["attention_mask"].all():
        batch = {**batch, "attention_mask": None}
    return batch


def to_device(batch: dict, device: torch.device) -> dict:
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


class Later:
    """Numbers on their way from the device to the host: ``read`` waits for them, and for what comes before them."""

    def __init__(self, numbers: torch.Tensor):
        self.numbers, self.event = numbers, None
        if numbers.is_cuda:
            self.numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self.numbers.copy_(numbers, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()

    def read(self) -> list:
        if self.event is not None:
            self.event.synchronize()
        return self.numbers.tolist()


def inputs(batch: dict, *more: str) -> dict:
    """The arguments that every model of model.py takes, and those named."""
    return {name: batch.get(name) for name in ("input_ids", "token_type_ids", "attention_mask", *more)}


class Computer:
    """Forward passes in the right precision on the right device, in batches that suit it."""

    CPU_BATCH = 16  # of MiniLM's sizes, SQuAD's windows: 139 questions/s; 32 give 130 and 64 give 124
    GPU_BATCH = 512  # at most: by then all of it is at work

    def __init__(self, args: Namespace, ranks: Ranks):
        self.ranks, self.dtype = ranks, precision_of(args, ranks)
        self.batch_size = max(1, min(2 * args.batch_size // (args.accumulate or 1), self.CPU_BATCH))
        self.memory = min(ranks.gather(memory_of(ranks.device))) if ranks.queued else 0  # that all ranks have

    def at_once(self, model: torch.nn.Module, data: Any) -> int:
        """How many examples to score in a batch, the same on every rank: on a GPU whose fp32 states take a quarter of
        its memory, whatever the training batch."""
        if not self.ranks.queued:
            return self.batch_size
        config = model.bert.config
        token = 4 * (8 * config.hidden_size + 3 * config.intermediate_size)  # bytes, of what a layer holds at once
        return max(1, min(self.GPU_BATCH, self.memory // 4 // (token * data.longest)))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def score(self, task: Task, split: str, limit: int | None = None) -> dict:
        """The task's figures on a split, or on ``limit`` examples spread over it; the same on any number of ranks."""
        return task.figures(task.examples[split], self.found([task], split, limit))

    def found(self, tasks: list[Task], split: str, limit: int | None = None) -> Any:
        """What a model finds in a split, or several together: tasks that differ in model, tokenizer and examples."""
        members = []
        for task in tasks:
            if not sharding.is_cut(task.model):
                task.model.to(self.ranks.device)
            members.append(task.found(task.examples[split], self.rows(task, split, limit)))
            if len(tasks) > 1:  # room for the next
                task.model.cpu()
        if len(tasks) == 1:
            return members[0]
        together = tasks[0].together
        assert together is not None, "a task of which several models answer says how they do"
        return together(members)

    @torch.no_grad()
    def rows(self, task: Task, split: str, limit: int | None = None) -> list[tuple[int, Any]]:
        """(example, its row) for those examples, in order."""
        data, model = task.examples[split], task.model.eval()
        chosen: np.ndarray = np.arange(len(data))
        if limit and limit < len(data):
            chosen = np.linspace(0, len(data) - 1, limit).round().astype(int)
        lengths = None if data.lengths is None else data.lengths[chosen]
        work = batches.evaluation_batches(len(chosen), self.at_once(model, data), lengths)
        mine: Sequence[int] = range(self.ranks.rank, len(work), self.ranks.world)
        if sharding.is_cut(model):  # all ranks must call it equally often; what is scored twice comes out the same
            mine = [min(first + self.ranks.rank, len(work) - 1) for first in range(0, len(work), self.ranks.world)]
        rows: dict[int, Any] = {}
        parts = (chosen[work[number]] for number in mine)
        ready = prefetch(((part, pinned(data.collate(part, batches.EVALUATION), self.ranks)) for part in parts),
                         self.ranks.device)  # fmt: skip
        bar = tqdm(ready, f"scoring {split}", len(mine), disable=None if self.ranks.first else True, leave=False)
        with contextlib.closing(ready), self.autocast():  # around all batches, so that weights are made narrower once
            for indices, batch in bar:
                found = task.rows(model, to_device(batch, self.ranks.device), data, indices)
                rows.update(zip(indices.tolist(), found, strict=True))
        everything = {index: row for part in self.ranks.gather(rows) for index, row in part.items()}
        model.train()
        return [(index, everything[index]) for index in sorted(everything)]


# --------------------------------------------------------------------------------------------------------------------
# The loop
# --------------------------------------------------------------------------------------------------------------------


def prefetch(iterable: Iterable, device: torch.device, depth: int = 2) -> Generator:
    """The items of ``iterable``, made ahead of their use by a thread that goes with ``device``; to be closed."""
    items: queue.Queue = queue.Queue(depth)
    end, stop = object(), threading.Event()

    def offer(item):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=0.1)
                return

    def work():
        try:
            if device.type == "cuda":  # each thread begins with the first GPU, another rank's
                torch.cuda.set_device(device)
            for item in iterable:
                offer((item, None))
                if stop.is_set():
                    return
            offer((end, None))
        except BaseException as error:
            offer((end, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
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
        thread.join()  # a thread in torch's code as Python ends may end it with an abort


class Trainer:
    """A run in progress: the loop over steps, and what stops it."""

    def __init__(self, task: Task, args: Namespace, ranks: Ranks):
        self.task, self.args, self.ranks = task, args, ranks
        self.compute = Computer(args, ranks)
        self.parameters = sum(p.numel() for p in task.model.parameters())  # before ranks share them
        self.engine = sharding.share(task.model.train(), args, ranks, self.compute.dtype)
        if sharding.is_cut(self.engine.parallel):
            task.model = self.engine.parallel
        self.data = task.examples["train"]
        most = len(task.examples["valid"]) if "valid" in task.examples else math.inf
        self.schedule = Schedule(args, -(-len(self.data) // args.batch_size), ranks, most)
        tell_of_sizes(args, len(self.data), self.schedule.steps, ranks)
        self.logs = Logs(task.name, task.summary, args, ranks, self.schedule)
        self.saving = Saving(task, args, ranks, self.engine, self.schedule, self.logs.say)
        self.state = State()
        self.unread: list = []  # of the last steps: loss and norm on their way, and what belongs to them
        self.norm = float("nan")  # of the gradient of the last step that has been read
        self.stop_wanted = 0  # the exit code, once a signal came to this rank
        self.stop = self.save = False  # on any rank; by rank 0's clock

    def run(self) -> None:
        """Train until the budget is spent. The best model so far is always in ``--save``."""
        self.logs.open(self.state, self.parameters)
        if not self.state.step and "valid" in self.task.examples:
            self.compute.rows(self.task, "valid", 2)  # what fails there should fail now, not after hours
        self.schedule.restart()
        progress = self.schedule.progress(self.state)
        if 0.0 < progress < 1.0 and self.schedule.validation_due(progress, self.state) and not self.scored():
            self.validate(progress)  # which the end of the process has cut short
        while progress < 1.0 and not self.stop:
            with contextlib.closing(prefetch(self.work(), self.ranks.device)) as steps:
                for micro_batches, counts, after in self.logs.clocked(steps):
                    rate = self.step(micro_batches, counts, progress)
                    self.state.step += 1
                    self.state.epoch, self.state.batch = after
                    progress = self.schedule.progress(self.state)
                    due = self.schedule.validation_due(progress, self.state)
                    if due or self.save or self.stop or progress >= 1.0 or self.logs.due(self.state):
                        self.read_steps()
                    self.logs.step(self.state, progress, rate, self.norm)
                    if self.state.bad >= PATIENCE:
                        self.unread = []
                        self.state = self.saving.back(self.state)
                        self.logs.restart(self.state)
                        progress = self.schedule.progress(self.state)
                        break  # and on with the batches from there
                    if due:
                        self.validate(progress)
                    elif self.save:
                        self.saving.state(self.state)
                    if self.stop or progress >= 1.0:
                        break
        if not self.stop and not self.scored():
            self.validate(1.0)  # where the budget with which a run goes on is spent already
        self.logs.close_bar()

    def work(self) -> Iterator[tuple[list[dict], list[tuple[int, int]], tuple[int, int]]]:
        """For each step to come this rank's micro-batches, (terms, tokens) of those that count, and where the run is then.

        Each rank has as many as the one with most examples, for FSDP's ranks wait for each other in every one. Those that
        a rank's own examples do not fill, all of them where there are more ranks than examples, have no weight.
        """
        epoch, done = self.state.epoch, self.state.batch
        while True:
            order = batches.epoch_batches(len(self.data), self.args.batch_size, self.args.seed, epoch, self.data.lengths)
            for number in range(done, len(order)):
                mine = order[number][self.ranks.rank :: self.ranks.world]
                wanted = self.args.accumulate or (1 if self.ranks.queued else micro_batches(
                    self.task.model.bert.config, self.data, order[number], self.ranks.world))  # as a CPU's memory allows
                parts = [part for part in np.array_split(mine, wanted) if len(part)]
                most = min(wanted, -(-len(order[number]) // self.ranks.world))
                parts, real = parts + [order[number][:1]] * (most - len(parts)), len(parts)
                after = (epoch, number + 1) if number + 1 < len(order) else (epoch + 1, 0)
                made = [self.data.collate(part, epoch) for part in parts]
                counts = [(count_terms(batch), count_tokens(batch)) for batch in made[:real]]
                yield [pinned(batch, self.ranks) for batch in made], counts, after
            epoch, done = epoch + 1, 0

    def step(self, micro_batches: list[dict], counts: list[tuple[int, int]], progress: float) -> float:
        """One step; gives its learning rate."""
        args, engine, rate = self.args, self.engine, self.schedule.rate(progress, self.state.lowered)
        optimizer: Any = engine.optimizer  # MuonAdamW, or what makes ZeRO of it, each with ``good``
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        torch.manual_seed((args.seed + 1_000_003 * self.state.step + self.ranks.rank) % (1 << 63))  # for dropout
        count, tokens = (sum(column) for column in zip((0, 0), *counts, strict=True))
        count, tokens, stop, save = self.ranks.sum(count, tokens, self.stop_wanted, self.saving.due())
        count = max(count, 1)  # blocks of unknown tokens have nothing to restore
        summed = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for number, batch in enumerate(micro_batches):
            with sharding.not_yet_summed(engine.parallel, last=number == len(micro_batches) - 1):
                with self.compute.autocast():
                    loss = self.task.loss(engine.parallel, to_device(batch, self.ranks.device))
                loss = loss if number < len(counts) else loss * 0.0
                engine.scaler.scale(loss * (self.ranks.world / count)).backward()
                summed += loss.detach()
        engine.scaler.unscale_(optimizer)
        told = torch.stack([self.ranks.sum_on_device(summed), sharding.clip(engine.parallel, args.clip).double()])
        # One step along a gradient that is not finite ruins all weights.
        if self.ranks.queued:
            optimizer.step(good=told.isfinite().all())
        elif np.isfinite(told.tolist()).all():
            optimizer.step()
        engine.scaler.update()
        optimizer.zero_grad()
        self.unread.append((Later(told), count, tokens))
        self.read_steps(keep=int(self.ranks.queued))
        self.stop, self.save = stop > 0, save > 0
        return rate

    def read_steps(self, keep: int = 0) -> None:
        """Note what became of the steps so far, but for the last ``keep``, which may still be at work."""
        while len(self.unread) > keep:
            told, count, tokens = self.unread.pop(0)
            summed, self.norm = told.read()
            good = np.isfinite(summed) and np.isfinite(self.norm)
            # Of a finite loss in fp16 it was the scale, which the scaler lowers: no reason to go back.
            overflow = not good and np.isfinite(summed) and self.engine.scaler.is_enabled()
            self.state.bad = 0 if good or overflow else self.state.bad + 1
            self.state.skipped += not good
            self.logs.note(self.state, (summed, count, tokens) if good or overflow else (0.0, 0, tokens))

    def validate(self, progress):
        examples = self.valid_examples()
        if self.stop or (self.state.best is None and not self.state.bad):  # it may take longer than is left, and a disk
            self.saving.state(self.state, wait=True)  # without room for the first model ends the run
        begun = time.monotonic()
        figures = self.compute.score(self.task, "valid", examples)
        seconds = time.monotonic() - begun
        self.schedule.validated(self.state, progress, seconds)
        value, best, sign = figures[self.task.best], self.state.best, -1 if self.task.best == "loss" else 1
        better = np.isfinite(value) and np.isfinite(figures["loss"]) and (best is None or sign * value > sign * best)
        self.logs.validation(self.state, figures, seconds)
        if self.ranks.of_first(better) and self.saving.best(self.state, figures):
            self.state.best = value
        self.saving.state(self.state)

    def scored(self):
        """Was the step just done validated? Rank 0's state tells."""
        return self.ranks.of_first(self.state.validated)

    def valid_examples(self):
        """How many examples each validation takes, and of questions in windows the windows of as many."""
        if self.state.valid_examples is None:
            self.state.valid_examples = self.schedule.affordable(self.state)
        data = self.task.examples["valid"]
        if hasattr(data, "spread"):  # else any of them will do
            data.spread(self.state.valid_examples)
            return max(self.state.valid_examples, len(data))  # of the one question that stays, all windows
        return self.state.valid_examples

    def want_stop(self, number, _):
        """Stop where the state is whole. A second Ctrl-C interrupts."""
        self.stop_wanted = CODES[number]
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.state.finished:  # only the scoring is left, which is done anew with --resume
            self.logs.say("stopped before the last scores; go on with the same command and --resume")
            self.saving.states.wait()
            os._exit(self.stop_wanted)


def count_terms(batch):
    """How many terms a batch's summed loss has: masked tokens, pairs, windows or questions."""
    return batch["labels" if "labels" in batch else "start"].size(0)


def count_tokens(batch: dict) -> int:
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())


# --------------------------------------------------------------------------------------------------------------------
# The end
# --------------------------------------------------------------------------------------------------------------------


def run(task: Task, args: Namespace, ranks: Ranks) -> int:
    """Train, score the best model on the test split, write result.json. Gives the exit code. Raises UserError where no
    validation gave a finite score, or the best model's file is another's by then."""
    if args.lr is None:
        args.lr = default_rate(task.name, task.model.bert.config, args.optimizer)
    trainer = Trainer(task, args, ranks)
    with stopping(trainer.want_stop, ranks.first):
        trainer.state = trainer.saving.begin()
        trainer.run()
        trainer.stop = trainer.stop or ranks.sum(trainer.stop_wanted)[0] > 0  # the signal may have come in the last step
        trainer.state.finished = not trainer.stop and args.no_test  # before the scores a run is not over
        trainer.saving.state(trainer.state, wait=True)
        trainer.stop = trainer.stop or ranks.sum(trainer.stop_wanted)[0] > 0  # or while that was written
        trainer.state.finished = not trainer.stop
        trainer.logs.close(trainer.state)
        ranks.gather(None)  # until rank 0 has written state and best model
        if trainer.stop:
            lost = "" if trainer.saving.states.whole else ", which could not be saved: make room"
            trainer.logs.say(f"stopped at step {trainer.state.step}{lost}; go on with the same command and --resume")
            return trainer.stop_wanted or STOPPED
        if trainer.state.best is None:
            raise UserError(f"no validation gave a finite score, so there is no model in {args.save}; try a lower --lr")
        if args.no_test:
            return 0
        weights, trainer.engine.model.notes = ranks.told(lambda: weights_and_notes(args.save, trainer.state))
        sharding.load_weights(trainer.engine.parallel, weights, ranks)
        return finish(trainer)


def weights_and_notes(path, state):
    if Path(path).is_file() and not is_best(state, path):
        raise UserError(f"{path}: not what this run has saved there, another has since; give each a --save of its own")
    best = checkpoint.read_model(path)
    return checkpoint.whole(best), best["notes"]


def finish(trainer: Trainer) -> int:
    """Score the model that a run has trained; write examples.json and result.json. Gives the exit code."""
    task, args, ranks, state = trainer.task, trainer.args, trainer.ranks, trainer.state
    figures, samples = score_test([task], args, ranks)
    if not ranks.first:
        return 0
    folder = Path(args.log_dir)
    if samples is not None:
        write_json(folder / "examples.json", samples)
    write_json(folder / "result.json", {
        "task": task.name, "dataset": ", ".join(names_of(args.dataset)),
        "seconds": round(state.seconds, 3), "validation_seconds": round(state.validating, 3), "steps": state.step,
        "tokens": state.tokens, "tokens_per_second": round(state.tokens / max(state.stepping, 1e-9), 1),
        "peak_memory_bytes": peak_memory(ranks.device), "skipped_steps": state.skipped, **for_result(task, figures),
    })  # fmt: skip
    note_hparams(folder, settings(task.name, args, trainer.parameters), figures)
    return 0


def evaluate(tasks: list[Task], args: Namespace, ranks: Ranks) -> int:
    """Score a trained model, or several together; write evaluation.json, which is apart from what the run that trained
    it left in the same folder. Gives the exit code."""
    if ranks.first and args.dataset == "Sample":
        warn("scoring on Sample, the embedded data set, as where --dataset names no other", word="note")
    figures, samples = score_test(tasks, args, ranks)
    if ranks.first:
        named = args.checkpoint or args.bert_model
        write_json(Path(args.log_dir) / "evaluation.json", {
            "task": tasks[0].name, "dataset": ", ".join(names_of(args.dataset)),
            "models": named if isinstance(named, list) else [named],
            "peak_memory_bytes": peak_memory(ranks.device), **for_result(tasks[0], figures), "examples": samples or [],
        })  # fmt: skip
    return 0


def score_test(tasks: list[Task], args: Namespace, ranks: Ranks) -> tuple[dict, list | None]:
    """Figures of the test split by one model or several together, and samples of it; prints the closing lines."""
    compute, task = Computer(args, ranks), tasks[0]
    data = task.examples["test"]
    found = compute.found(tasks, "test")
    figures = task.figures(data, found)
    samples = task.samples(compute, task.model, data, found) if task.samples else None
    if ranks.first:
        print("=" * 89)
        print(f"| End of training | {task.summary('test', figures)}")
        print("=" * 89, flush=True)
    return figures, samples


def for_result(task, figures):
    return {f"test_{name}" if name in task.tested else name: value for name, value in figures.items()}
