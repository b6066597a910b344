"""What a run leaves to go on from: its state, now and then, and the best model so far in ``--save``.

How a state is written, checked and kept twice is in states.py; here is what is in it, and when it is taken back.
"""

import dataclasses
import os
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint
from files.mistakes import UserError
from files.reading import digest_of
from files.writing import atomic_write, followed
from training.ranks import Ranks, restarted
from training.schedule import Schedule
from training.sharding import Engine
from training.states import State, States, check_layout, check_same_run, free, kept_arguments, start

PATIENCE = 5  # steps in a row without a finite loss, before the run goes back
LOWER = 0.3  # factor of the learning rate from then on


class Saving:
    """State and best model of the run of ``task`` that trains ``engine`` on so many examples; ``say(text)`` tells the user.

    Its calls are for all ranks at once; rank 0 reads and writes, and what it finds the others are told: each for itself
    could see another file, as through the stale cache of a network's file system, or alone meet a full disk.
    """

    def __init__(self, task: Any, args: Namespace, ranks: Ranks, engine: Engine, schedule: Schedule, say: Callable):
        self.task, self.args, self.ranks, self.engine, self.schedule, self.say = task, args, ranks, engine, schedule, say
        self.states = States(args.log_dir, say)
        self.examples = len(task.examples["train"])
        self.saved = time.monotonic()

    def due(self) -> bool:
        """By rank 0's clock, is it time to save again?"""
        return self.ranks.first and time.monotonic() - self.saved > 60 * self.args.save_minutes

    def state(self, state: State, wait: bool = False) -> None:
        """Save all that the run needs to go on; the budget's clock counts up to here.

        While losses are not finite, the state before them stays the last one, but for that at the end.
        """
        self.schedule.count(state)
        if state.bad and not wait:
            return
        self.saved = time.monotonic()
        content = self.engine.content()
        kept = {**kept_arguments(self.args), "save": os.path.abspath(self.args.save)}  # to be found from elsewhere, too
        if self.ranks.first:
            self.states.save({
                "task": self.task.name, "arguments": kept, "examples": self.examples,
                "sizes": dataclasses.asdict(self.engine.model.bert.config), "state": dataclasses.asdict(state), **content,
                "vocabulary": self.task.tokenizer.fingerprint, "job": job(), "command": sys.argv[1:],
            }, wait)  # fmt: skip

    def best(self, state: State, figures: dict) -> bool:
        """Write the model file; False where there is no room for it, so that a later model that is better is tried."""
        model = self.engine.whole_model()
        return self.ranks.told(lambda: self.write_best(model, state, figures))

    def write_best(self, model, state, figures):
        try:
            notes = self.task.notes(figures)
            checkpoint.save_model(self.args.save, model, self.task.tokenizer, notes)
        except (OSError, RuntimeError, UserError) as error:
            reason = getattr(error, "strerror", None) or error
            if state.best is None:  # what was trained is in the state, if there was room for that
                raise error if isinstance(error, UserError) else UserError(
                    f"{self.args.save}: the model could not be saved ({reason}); make room, and go on with --resume"
                ) from None
            self.say(f"warning: {self.args.save} stays as it was, the better model could not be saved ({reason}); the run "
                     "goes on")  # fmt: skip
            return False
        state.best_file = digest_of(self.args.save)
        return True

    def begin(self) -> State:
        """The state to go on from: that in --log-dir, where --resume or a restart by torchrun or Slurm asks for it."""
        if self.ranks.first:
            own = followed(self.args.save)
            self.states.remove_unfinished(own, own.with_name(f"{own.stem}-before-*{own.suffix}"))
        resume = self.args.resume or self.ranks.sum(int(restarted()))[0] > 0  # each torchrun counts its own restarts
        saved = self.ranks.told(self.of_this_run) if resume else None
        if saved is not None:
            state = self.restored(saved)
            state.finished, state.bad = False, 0  # a larger budget may lie before it
            if saved["arguments"]["lr"] != self.args.lr:  # meant as it says
                state.lowered = 1.0
            self.say(f"resuming from {saved['path']} at step {state.step}")
            self.ranks.told(self.states.clear_damaged)
            before = saved["arguments"].get("save") or self.args.save

            def keep_other():
                if Path(before).absolute() != Path(self.args.save).absolute():  # not written by this run until now
                    self.keep_start()

            self.ranks.told(keep_other)
            self.find_best(state, before)
            self.ranks.told(lambda: self.states.remove("result.json", "examples.json"))
            self.schedule.given_more(state)
            return state
        if resume:
            self.say(f"nothing to resume in {self.args.log_dir}: starting")
        unfinished = self.ranks.told(self.states.set_aside)
        self.ranks.told(lambda: self.keep_start(unfinished))
        state = State(minutes=self.args.minutes)
        self.schedule.restart()
        self.state(state)  # to go back to; and a disk without room for it is told at once
        return state

    def keep_start(self, unfinished: str | None = None) -> None:
        """A copy of what the first validation will write over, better or worse: the model to start from, the best one of an
        ``unfinished`` run, by its digest, or a file that none of these scripts has written, as the torchtext example's of
        the same name."""
        own = Path(self.args.save)
        if not own.is_file():
            return
        if os.path.exists(start(self.args)) and own.samefile(start(self.args)):
            what = "this run starts from it and"
        elif unfinished is not None and digest_of(own) == unfinished:
            what = "the best model of the unfinished run, and this one"
        elif not checkpoint.is_ours(own):
            what = "no model of these scripts, and this run"
        else:
            return
        kept = free(lambda number: own.with_name(f"{own.stem}-before-{number}{own.suffix}"))
        copy(own, kept)
        self.say(f"{own}: {what} writes it; kept as {kept}")

    def find_best(self, state: State, before: str) -> None:
        """See to it that ``--save`` has the best model so far, which lies where ``--save`` was ``before``.

        What is gone, or another run's by now, is made up for by the next validation. Raises UserError where there will be
        none.
        """
        if state.best is None:
            return
        own, old = Path(self.args.save), Path(before)

        def take():
            if own.absolute() != old.absolute() and is_best(state, old):
                copy(old, own)
                self.say(f"{own}: the best model so far, copied from {old}")
            return is_best(state, own)

        if self.ranks.told(take):
            return
        if self.schedule.progress(state) >= 1.0 and state.validated:
            raise UserError(f"{old}: the run is over, and its best model is not there; put that back, or raise the budget")
        self.say(f"warning: {old} is no longer the best model so far; the next validation writes {own}")
        state.best = None

    def of_this_run(self):
        """What was saved last, None where nothing was. Raises UserError where it belongs to another run; after a restart
        that of another job is none, for this one died before it had saved anything, nor that of another command, which the
        same job ran before."""
        saved = self.states.load()
        if saved is None:
            return None
        own = saved.get("job", job()), saved.get("command", sys.argv[1:])
        if not self.args.resume and own != (job(), sys.argv[1:]):
            self.say(f"{saved['path']}: of another job or command, and not gone on from")
            return None
        check_layout(saved)
        sizes = dataclasses.asdict(self.engine.model.bert.config)
        check_same_run(saved, self.task.name, sizes, self.args, self.examples, self.task.tokenizer.fingerprint)
        return saved

    def restored(self, saved: dict) -> State:
        """Weights and optimizer as they were saved; gives the state of then."""
        try:
            self.engine.load(saved)
        except ValueError as error:
            raise UserError(f"{saved['path']}: {error}; remove it to start anew") from None
        return State(**saved["state"])

    def back(self, state: State) -> State:
        """To the last saved state, once, with a lower rate. Raises UserError the second time."""
        self.states.wait()
        what = f"no finite loss in {PATIENCE} steps in a row, up to step {state.step}"
        saved = None if state.lowered < 1 else self.ranks.told(self.states.load)
        if saved is None:
            again = "again, after going back" if state.lowered < 1 else "and no saved state to go back to"
            raise UserError(f"{what}, {again}; go on from {self.args.log_dir} with --resume --optimizer "
                            f"{self.args.optimizer} and a lower --lr (it was {self.args.lr * state.lowered:g}), or with "
                            "--precision fp32")  # fmt: skip
        self.schedule.count(state)
        earlier = self.restored(saved)
        earlier.lost += state.seconds - earlier.seconds - (state.validating - earlier.validating)
        earlier.seconds, earlier.validating = state.seconds, state.validating
        earlier.skipped, earlier.lowered, earlier.bad = state.skipped, LOWER, 0
        earlier.best, earlier.best_file = state.best, state.best_file  # which may have come since
        self.schedule.given_more(earlier)
        self.say(f"{what}: going back to step {earlier.step}, on with {LOWER:g} of the learning rate")
        self.state(earlier)
        return earlier


def copy(source: Path, target: Path) -> None:
    with open(source, "rb") as content, atomic_write(target) as stream:
        shutil.copyfileobj(content, stream)


def job() -> str | None:
    """What Slurm, or torchrun, calls the job of this process, the same after a restart; else None. Where it got no
    --rdzv-id, torchrun calls every job so: then it is torchrun's process, if there is but one."""
    named = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID")
    if named == "none":
        return f"torchrun {os.getppid()}" if os.environ.get("GROUP_WORLD_SIZE") == "1" else None
    return named


def is_best(state: State, path: str | Path) -> bool:
    """Is the file there, and what the run itself has saved last?"""
    return Path(path).is_file() and state.best_file in (None, digest_of(path))
