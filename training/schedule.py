"""The budget of a run, and what follows from the share of it that is spent.

The budget is epochs, steps or minutes. Progress through it, from 0 to 1, decides the learning rate (warm-up, then linear
decay) and when to validate. Under ``--minutes`` rank 0's clock decides for all ranks.
"""

import time
from argparse import Namespace

from model import BertConfig
from training.ranks import Ranks
from training.states import State


class Schedule:
    """When a run with these arguments, of so many batches an epoch, ends, validates, and how fast it learns."""

    def __init__(self, args: Namespace, batches_per_epoch: int, ranks: Ranks):
        self.args, self.batches_per_epoch, self.ranks = args, batches_per_epoch, ranks
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
        rise = progress / self.args.warmup if self.args.warmup else 1.0
        return self.args.lr * lowered * min(rise, (1.0 - progress) / (1.0 - self.args.warmup))

    def validation_due(self, progress: float, state: State) -> bool:
        """At the end of each epoch; under --steps and --minutes five times in the whole budget."""
        if self.args.steps or self.args.minutes:
            return int(5 * progress) > state.validations
        return state.batch == 0


def default_rate(task: str, config: BertConfig) -> float:
    """The peak learning rate that trained well: found at width 128 (benchmarks/LOG.md), falling with the width.

    Too high a rate shows as a loss that stays at chance: the first token's state stops depending on what was read.
    """
    rate, power = {"mlm": (2e-3, 0.5), "ns": (2e-4, 0.5)}.get(task, (4e-4, 1.5))
    return rate * (128 / config.hidden_size) ** power
