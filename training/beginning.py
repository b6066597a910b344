"""What is looked at before anything is loaded: that a run may write what it will write."""

import functools
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from files.writing import check_writable
from training.flags import uses_trained
from training.ranks import Ranks

Run = Callable[[Namespace, Ranks], int | None]


def in_its_place(run: Run) -> Run:
    """A task's ``run``, begun by what would otherwise go wrong at its end."""

    @functools.wraps(run)
    def begun(args: Namespace, ranks: Ranks) -> int | None:
        for path in outputs(args) if ranks.first else ():
            check_writable(path)
        return run(args, ranks)

    return begun


def outputs(args):
    """The files that a run writes at its end."""
    if not uses_trained(args):
        return [args.save, Path(args.log_dir) / "result.json"]
    if args.evaluate:
        return [Path(args.log_dir) / "evaluation.json"]
    return [args.output] if args.predict else []
