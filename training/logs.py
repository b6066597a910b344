"""What a run tells while it trains, and leaves in its ``--log-dir`` for report.py and TensorBoard.

    settings.json    what it was told, and the size of its model
    history.json     (step, "train" or "valid", {figure: value}), with which loss.png is drawn, if it has two points
    events.out...    the same for TensorBoard, where that is installed

A terminal gets a bar, anything else the log lines of the old example.
"""

import contextlib
import importlib.util
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from files.mistakes import UserError, warn
from files.writing import write_json, write_picture
from text.tokens import names_of
from training.memory import peak_memory
from training.ranks import Ranks
from training.schedule import Schedule
from training.states import State

LINE = "-" * 89


class Logs:
    """The logs of one run. What is said and recorded on other ranks than the first is passed over.

    ``summary(part, figures)`` is how a task's figures read in a line.
    """

    def __init__(self, task: str, summary: Callable, args: Namespace, ranks: Ranks, schedule: Schedule):
        self.task, self.summary, self.args, self.ranks, self.schedule = task, summary, args, ranks, schedule
        self.folder = Path(args.log_dir)
        self.board: Any = None

    def open(self, state: State, parameters: int) -> None:
        self.restart(state)
        if not self.ranks.first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bar = tqdm(total=self.schedule.steps, initial=state.step, desc=self.task, unit="step", disable=None)
        write_json(self.folder / "settings.json", settings(self.task, self.args, parameters))
        missing = {} if importlib.util.find_spec("matplotlib") else {"matplotlib": "no loss.png"}
        try:
            from torch.utils.tensorboard import SummaryWriter  # here for start-up time

            self.board = SummaryWriter(str(self.folder), purge_step=state.step + 1 if state.step else None)
        except ImportError:
            missing["tensorboard"] = "nothing for TensorBoard"
        if missing:
            warn(f"{' and '.join(missing.values())}, without pip install {' '.join(missing)}", word="note")

    def restart(self, state: State) -> None:
        """Take the time from here on; the steps that the next line also tells of, done before, are not in its rate."""
        self.logged, self.waited, self.before = time.monotonic(), 0.0, len(state.recent)

    def say(self, text: str) -> None:
        if self.ranks.first:
            tqdm.write(text)
            sys.stdout.flush()

    def clocked(self, iterable: Iterable) -> Iterator:
        """The items, adding the time that they are waited for to ``waited``."""
        begun = time.monotonic()
        for item in iterable:
            self.waited += time.monotonic() - begun
            yield item
            begun = time.monotonic()

    def note(self, state: State, step: tuple) -> None:
        """Keep (summed loss, count, tokens) of a step for the next line."""
        if self.ranks.first:
            state.recent.append(step)
            state.tokens += int(step[2])

    def due(self, state: State) -> bool:
        """Is there to be a line after this step?"""
        return state.step % self.args.log_interval == 0

    def step(self, state: State, progress: float, rate: float, norm: float) -> None:
        """Count a step that is done; every --log-interval steps, tell of those since the last time."""
        if not self.ranks.first:
            return
        self.bar.update(state.step - self.bar.n)  # less than before, where the run has gone back
        if not self.due(state):
            return
        losses, counts, _ = (sum(column) for column in zip(*state.recent, strict=True))
        loss = losses / counts if counts else float("nan")
        since, timed = time.monotonic() - self.logged, state.recent[self.before :]
        steps, tokens = len(timed), sum(tokens for _, _, tokens in timed)
        busy = 1 - self.waited / since  # the share of the time in which no batch was waited for
        state.recent = []
        self.restart(state)
        figures = {"loss": loss, "lr": rate, "gradient_norm": norm, "tokens_per_second": tokens / since,
                   "busy": busy, "memory_bytes": peak_memory(self.ranks.device)}  # fmt: skip
        self.record(state, "train", figures)
        if self.bar.disable:
            batches = self.schedule.batches_per_epoch
            print(f"| epoch {state.epoch_now:3d} | {state.batch or batches:5d}/{batches:5d} batches | lr {rate:.2e} | "
                  f"ms/batch {1000 * since / steps:5.2f} | {self.summary('', {'loss': loss})} | {progress:4.0%}"
                  + (f" | {state.skipped} skipped" if state.skipped else ""), flush=True)  # fmt: skip
        else:
            left = (1 - progress) / max(progress, 1e-9) * self.schedule.seconds(state)
            self.bar.set_postfix_str(f"loss {loss:.3f}, lr {rate:.1e}, {left:.0f} s left")

    def validation(self, state: State, figures: dict, seconds: float) -> None:
        """Tell of a validation, whose seconds are not counted where a rate of training is told."""
        self.logged += seconds
        if self.ranks.first:
            self.say(LINE)
            where = "epoch" if state.batch else "end of epoch"
            self.say(f"| {where} {state.epoch_now:3d} | step {state.step:6d} | time: {seconds:5.2f}s | "
                     f"{self.summary('valid', figures)}")  # fmt: skip
            self.say(LINE)
            self.record(state, "valid", figures)
            self.write_history(state)

    def record(self, state: State, kind: str, figures: dict) -> None:
        figures = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        state.history.append((state.step, kind, figures))
        for name, value in figures.items():
            self.to_board(lambda board, name=name, value=value: board.add_scalar(f"{kind}/{name}", value, state.step))

    def to_board(self, call: Callable) -> None:
        """TensorBoard's writer says of a full disk late, and then at every call: the run goes on without it."""
        try:
            if self.board:
                call(self.board)
        except OSError as error:
            self.board = None
            self.say(f"warning: {self.folder}: nothing more for TensorBoard ({error.strerror or error}); the run goes on")

    def close_bar(self) -> None:
        if self.ranks.first:
            self.bar.close()

    def close(self, state: State) -> None:
        if not self.ranks.first:
            return
        self.write_history(state)
        self.to_board(lambda board: board.close())
        with contextlib.suppress(ImportError, OSError, UserError):
            draw_losses(state.history, self.folder / "loss.png")

    def write_history(self, state: State) -> None:
        """history.json, for which a full disk may have no room; the state has it all the same."""
        path = self.folder / "history.json"
        try:
            write_json(path, state.history)
        except (OSError, UserError) as error:
            self.say(f"warning: {path} stays as it was ({getattr(error, 'strerror', None) or error}); the run goes on")


def settings(task: str, args: Namespace, parameters: int) -> dict:
    """What a run was told, and the size of its model; what the flags leave open is not in it."""
    told = {**vars(args), "dataset": ", ".join(names_of(args.dataset))}
    told = {name: value for name, value in told.items() if isinstance(value, str | int | float) and value is not False}
    return {"task": task, **told, "parameters": parameters}


def note_hparams(folder: Path, told: dict, figures: dict) -> None:
    """Settings and result where TensorBoard's HPARAMS page compares runs."""
    with contextlib.suppress(ImportError, OSError):
        from torch.utils.tensorboard import SummaryWriter  # here for start-up time

        with SummaryWriter(str(folder)) as board:
            board.add_hparams(told, {f"test/{name}": value for name, value in figures.items()
                                     if isinstance(value, int | float)}, run_name=".")  # fmt: skip


def draw_losses(history, path):
    """A picture of the training and validation loss over the steps, where one of them has two points or more."""
    curves = {kind: [(step, figures["loss"]) for step, name, figures in history if name == kind and "loss" in figures]
              for kind in ("train", "valid")}  # fmt: skip
    if max(map(len, curves.values())) < 2:
        return
    from matplotlib.figure import Figure  # here for start-up time; pyplot, which opens windows, takes longer

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for kind, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=kind, marker="o" if kind == "valid" else None)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    write_picture(path, figure)
