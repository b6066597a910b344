"""What is looked at before anything is loaded: that a run is alone in its folder, and may write what it will write.

The lock of a folder is a file in it, ``lock``, which rank 0 holds and the system frees when that process dies. tune.py
holds it for a trial ahead of the run, and hands it on. That of a model is a hidden file beside it, ``.qa_model.pt.lock``.
"""

import contextlib
import functools
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from files.locks import hold
from files.mistakes import UserError, warn
from files.writing import check_writable, followed, unwritable
from training.parser import uses_trained
from training.ranks import Ranks, precision_of, restarted
from training.states import start

Run = Callable[[Namespace, Ranks], int | None]
HANDED_ON = "BERT_LOCKED"  # environment variable: the folder whose lock the process that started this one holds for it
FEW = 100  # steps
DYING = 10  # seconds to wait for the lock of a run that was killed: its ranks look once a second whether it lives
LOST = 120  # the same after a restart: of a node that is lost, a file server keeps the locks for a while


def in_its_place(run: Run) -> Run:
    """A task's ``run``, begun by what would otherwise go wrong at its end."""

    @functools.wraps(run)
    def begun(args: Namespace, ranks: Ranks) -> int | None:
        check_flags(args, ranks)
        if not ranks.first:
            return run(args, ranks)
        training = not uses_trained(args)
        if training and args.dataset == "Sample" and os.path.exists(start(args)):
            warn("training on Sample, the embedded data set, as where --dataset names no other", word="note")
        with alone(Path(args.log_dir)) if training else contextlib.nullcontext():
            for path in outputs(args):
                check_writable(path, args.predict)
            with only_writer(followed(args.save)) if training else contextlib.nullcontext():
                return run(args, ranks)

    return begun


def check_flags(args, ranks):
    """Raises UserError for flags of a training that exclude each other where there are several ranks, or on this device."""
    if uses_trained(args):
        return
    precision_of(args, ranks)
    if args.parallel == "FSDP" and ranks.world > 1:
        if args.optimizer == "muon":
            raise UserError("--optimizer muon: needs whole matrices, --parallel FSDP cuts them; say --optimizer adamw, or "
                            "--parallel ZeRO")  # fmt: skip
        if args.compile == "on":
            raise UserError("--compile on: --parallel FSDP cuts up what would be compiled; leave one out")


def outputs(args):
    """The files that a run writes at its end."""
    if not uses_trained(args):
        if Path(args.save).suffix == ".safetensors":  # which would be read as other software's
            raise UserError(f"--save {args.save}: a name of weights alone, as others write them; let it end in .pt")
        return [args.save, Path(args.log_dir) / "result.json"]
    if args.evaluate:
        return [Path(args.log_dir) / "evaluation.json"]
    return [args.output] if args.predict else []


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While no other run is at work in ``folder``; where there are no locks, without looking. Raises UserError."""
    if os.environ.get(HANDED_ON) == str(folder.absolute()):
        yield
        return
    with locked(folder / "lock", f"--log-dir {folder}: another run is at work there", "folder"):
        yield


@contextlib.contextmanager
def only_writer(model: Path) -> Iterator[None]:
    """While no other run saves its best model as ``model``, from another --log-dir. Raises UserError."""
    with locked(model.with_name(f".{model.name}.lock"), f"--save {model}: another run writes it", "name"):
        yield


@contextlib.contextmanager
def locked(path, otherwise, what):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a")  # noqa: SIM115
    except OSError as error:
        raise unwritable(path if path.exists() else path.parent, error) from None
    with stream:
        if hold(stream, LOST if restarted() else DYING) is False:
            raise UserError(f"{otherwise} (it holds {path}); let it end, or choose another {what}")
        yield


def tell_of_sizes(args: Namespace, examples: int, steps: int | None, ranks: Ranks) -> None:
    """Lines on what is hardly meant: ranks without work, GPUs with little, so few steps that nothing is learned in them."""
    if args.batch_size < ranks.world:
        warn(f"--batch_size {args.batch_size}: of {ranks.world} ranks some have nothing to do; raise it")
    elif ranks.queued and args.batch_size < 8 * ranks.world:
        warn(f"--batch_size {args.batch_size}: is of all {ranks.world} GPUs together, and each wants some 256 rows of 128 "
             "tokens; raise it", word="note")  # fmt: skip
    if not args.steps and not args.checkpoint and steps is not None and steps < FEW:
        warn(f"{examples:,} examples: {steps} steps in {args.epochs} epochs, in which a new model or head learns next to "
             "nothing; take more --epochs, and by --checkpoint a model that has the head", word="note")  # fmt: skip
