"""How much of a long run's time is work, and how much goes to failures and saves: a simulation.

    python benchmarks/goodput.py [--hours 240] [--restart-minutes 5] [--stall-seconds 1]

A job is lost whenever one of its nodes fails, which happens by chance at a steady rate: every so many hours over all
nodes together. It then begins anew, which takes --restart-minutes, and goes on from the last saved state, so that what was
done since is done twice. A save stops the training for --stall-seconds, while the state is copied; writing goes on beside
the training, and a state counts once it is written, --write-seconds later. Printed is the share of the time in which
something was learned that stayed, the mean of some hundred runs of --hours of work, beside what the formula gives:

    1 - stall / interval - (interval / 2 + write + restart) / time between failures

First it measures on this machine what copying and writing the state of BERT-base takes.
"""

import argparse
import dataclasses
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.common import machine
from model import BertConfig, MLMTask
from training.optimizer import make_optimizer
from training.states import State, States

RUNS = 300
BETWEEN_FAILURES = (1, 6, 24, 168)  # hours, of all nodes together
INTERVALS = (1, 10, 60)  # minutes, --save-minutes


def simulate(work: float, between: float, interval: float, stall: float, write: float, restart: float,
             chance: random.Random) -> float:  # fmt: skip
    """The share of a run's time that is work that stayed; all times in one unit.

    ``work``: what is to be done; a failure comes after a time that is drawn from an exponential distribution with the
    mean ``between``.
    """
    clock, saved = 0.0, 0.0
    failure = chance.expovariate(1 / between)
    while True:
        done, written = saved, saved
        while True:  # one life of the job: spans of work, each ended by a save
            span = min(interval, work - done)
            if clock + span >= failure:
                break
            clock += span
            done += span
            if done >= work:
                return work / clock
            clock += stall
            if clock + write < failure:
                written = done
        saved = written
        clock = failure + restart
        failure = clock + chance.expovariate(1 / between)


def measured() -> tuple[float, float]:
    """(seconds to copy, seconds to write) BERT-base's weights and moments, as a run saves them."""
    model = MLMTask(BertConfig(vocab_size=30522))
    optimizer = make_optimizer(model, "adamw", 0.01)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        states = States(folder, print)
        content = {"state": dataclasses.asdict(State()), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        begun = time.perf_counter()
        states.save(content)
        copied = time.perf_counter()
        states.wait()
        return copied - begun, time.perf_counter() - copied


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--hours", type=float, default=240, help="of work in a run")
    parser.add_argument("--restart-minutes", type=float, default=5)
    parser.add_argument("--stall-seconds", type=float, default=1)
    parser.add_argument("--write-seconds", type=float, default=30)
    args = parser.parse_args()
    copy, write = measured()
    print(f"{machine()}: BERT-base's state is copied in {copy:.1f} s and written in {write:.1f} s")
    print(f"{args.hours:g} hours of work; a restart takes {args.restart_minutes:g} minutes, a save stops the training for "
          f"{args.stall_seconds:g} s and is written in {args.write_seconds:g} s")  # fmt: skip
    print("share of the time that is work that stayed, in % (by the formula):")
    print(f"{'a failure every':>18}" + "".join(f"{f'--save-minutes {interval}':>22}" for interval in INTERVALS))
    stall, write, restart = args.stall_seconds / 60, args.write_seconds / 60, args.restart_minutes
    for hours in BETWEEN_FAILURES:
        line = f"{hours:>12} hours"
        for interval in INTERVALS:
            chance = random.Random(f"{hours} {interval}")
            shares = [simulate(60 * args.hours, 60 * hours, interval, stall, write, restart, chance) for _ in range(RUNS)]
            formula = 1 - stall / interval - (interval / 2 + write + restart) / (60 * hours)
            line += f"{100 * sum(shares) / RUNS:14.1f} ({100 * formula:5.1f})"
        print(line)


if __name__ == "__main__":
    main()
