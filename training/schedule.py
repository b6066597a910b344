"""The budget of a run, and what follows from the share of it that is spent.

The budget is epochs, steps or minutes. Progress through it, from 0 to 1, decides the learning rate (warm-up, then linear
decay) and when to validate. Under ``--minutes`` rank 0's clock decides for all ranks.
"""

import math
import time
from argparse import Namespace

from model import BertConfig
from training.ranks import Ranks
from training.states import State

TIMES = 5  # validations in a budget of steps or minutes
VALIDATING = 0.1  # of the minutes, at most
FORWARD = 1 / 3  # of a training step's time, where the backward pass takes twice as long as the forward pass
FEWEST = 50  # examples of a validation; fewer tell nothing


class Schedule:
    """When a run with these arguments, of so many batches an epoch, ends, and validates (for which there are ``most``
    examples), and how fast it learns."""

    def __init__(self, args: Namespace, batches_per_epoch: int, ranks: Ranks, most: float = math.inf):
        self.args, self.batches_per_epoch, self.ranks, self.most = args, batches_per_epoch, ranks, most
        self.steps = None if args.minutes else args.steps or args.epochs * batches_per_epoch
        self.counted = time.monotonic()  # up to here the state has counted the seconds

    def restart(self) -> None:
        """The time up to now does not count."""
        self.counted = time.monotonic()

    def seconds(self, state: State) -> float:
        return state.seconds + time.monotonic() - self.counted

    def count(self, state: State) -> None:
        """Note in ``state`` the seconds up to now."""
        state.seconds, self.counted = self.seconds(state), time.monotonic()

    def progress(self, state: State) -> float:
        """The share of the budget that is spent, the same on every rank."""
        if self.steps is None:
            return min(1.0, self.ranks.of_first(self.seconds(state)) / (60 * self.args.minutes))
        return min(1.0, state.step / self.steps)

    def rate(self, progress: float, lowered: float = 1.0) -> float:
        """Linear warm-up, then linear decay to zero at the end of the budget; ``lowered`` times that."""
        if self.steps is not None:  # the first step should do something
            progress += 0.5 / self.steps
        else:  # whose share is not known yet
            progress = max(progress, self.args.warmup / 20)
        rise = progress / self.args.warmup if self.args.warmup else 1.0
        return self.args.lr * lowered * min(rise, (1.0 - progress) / (1.0 - self.args.warmup))

    def validation_due(self, progress: float, state: State) -> bool:
        """At the end of each epoch; under --steps five times in the whole budget, under --minutes so often at most."""
        if self.args.minutes:
            return progress >= state.due
        if self.args.steps:
            return TIMES * state.step // self.args.steps > TIMES * (state.step - 1) // self.args.steps
        return state.batch == 0

    def affordable(self, state: State) -> int:
        """Examples of a validation: those of --valid-examples, under --minutes fewer where those still to come would make
        all together take more than VALIDATING of the minutes, by what steps have taken so far."""
        wanted = self.args.valid_examples
        if not self.args.minutes or not state.step:
            return wanted
        stepping = self.seconds(state) - state.lost - state.validating
        one = FORWARD * stepping / (state.step * self.args.batch_size)  # seconds of an example
        room = VALIDATING * 60 * self.args.minutes - state.validating
        return int(self.ranks.of_first(min(wanted, max(FEWEST, room / max(1, TIMES - state.validations) / one))))

    def validated(self, state: State, progress: float, seconds: float) -> None:
        """Note a validation that has taken so long: the next comes so late that all together take VALIDATING of the minutes
        at most, but one is at the end."""
        state.validations += 1
        state.validating += seconds
        if self.args.minutes:
            room = VALIDATING * 60 * self.args.minutes - state.validating
            more = self.ranks.of_first(min(TIMES - state.validations, max(1, room // max(seconds, 1e-9))))
            state.due = 1.0 if more <= 1 else progress + (1.0 - progress) / more

    def given_more(self, state: State) -> None:
        """For a run that goes on with other --minutes than it had: as many validations again, in what is left of them, and
        of more examples where these allow it, among which no score so far tells what is best."""
        if state.minutes == self.args.minutes:
            return
        state.minutes, progress = self.args.minutes, self.progress(state)
        if self.args.minutes:
            state.validations, state.due = 0, progress + (1.0 - progress) / TIMES
        more = self.affordable(state)
        if progress < 1.0 and state.valid_examples and min(self.most, more) > state.valid_examples:
            state.valid_examples, state.best = more, None


def default_rate(task: str, config: BertConfig, optimizer: str) -> float:
    """The peak learning rate that trained well: found at width 128, by Muon in fine-tuning at 384, and for questions with
    an answer in the text at both (benchmarks/LOG.md), falling with the width.

    Too high a rate shows as a loss that stays at chance: the first token's state stops depending on what was read.
    """
    rates = {"mlm": (2e-3, 0.5), "ns": (2e-4, 0.5), "qa": (1.04e-3, 1.5), "race": (4e-4, 1.5)}
    by_muon = optimizer == "muon" and task in ("qa", "race")
    rate, power = (1.5e-3, 1.0) if by_muon else rates[task]
    found = rate * (128 / config.hidden_size) ** power
    return min(found, 4e-4) if task == "qa" and not by_muon else found
