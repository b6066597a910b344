"""The saved state of a run: written beside the training, checked, kept twice, read back.

    runs/mlm/state.pt           the newest
    runs/mlm/state-before.pt    the one before it, for the day on which the newest turns out damaged
    runs/mlm/earlier-1.pt       of an unfinished run, when a new one without --resume began in its folder

Design choices:

- A file is what torch.save writes, and behind it the SHA-256 of that, which torch does not look at. Nothing is trusted
  before the digest agrees: torch itself checks no checksums as it reads.
- What is saved is copied first; a thread writes the copy, while the training goes on.
- A save that fails, as on a full disk, is told and changes nothing: the older states stay, and so does the run.
- A run that is not finished is never overwritten by another one.
"""

import contextlib
import hashlib
import itertools
import os
import threading
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from files.mistakes import UserError
from files.reading import CHUNK
from files.torch_zip import holds_weights, read_torch
from files.writing import atomic_write
from training.ranks import with_tensors

# To states since the first were saved; they begin as in a new run.
ADDED = {"validating", "due", "valid_examples", "minutes", "best_file", "lost"}


@dataclass
class State:
    """Where a run is; together with weights and optimizer, all that is saved and resumed.

    There are no random generators in it: every random choice is a function of seed, step and rank.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0  # global batches of this epoch that are done
    seconds: float = 0.0
    lost: float = 0.0  # seconds of ``seconds`` in steps that the run has gone back over, but for their validations
    tokens: int = 0
    validations: int = 0
    validating: float = 0.0  # seconds of ``seconds`` that validations took
    due: float = 0.2  # under --minutes, the progress at which the next one is
    valid_examples: int | None = None  # how many examples each takes, once that is known
    best: float | None = None
    best_file: str | None = None  # the digest of what was saved then
    minutes: float | None = None  # the budget by which the validations are
    skipped: int = 0  # steps whose loss or gradient was not finite
    bad: int = 0  # how many of them came last, in a row
    lowered: float = 1.0  # factor of the learning rate, below 1 once the run has gone back
    finished: bool = False
    recent: list = field(default_factory=list)  # (summed loss, count, tokens) of each step since the last log line
    history: list = field(default_factory=list)  # (step, "train" or "valid", {figure: value})

    @property
    def epoch_now(self) -> int:
        """The epoch, from 1, of the step just done."""
        return self.epoch + (self.batch > 0)

    @property
    def stepping(self) -> float:
        """Seconds, up to the last time they were counted, in steps that count."""
        return self.seconds - self.lost - self.validating

    @property
    def validated(self) -> bool:
        """Was the step just done scored? The history, which tells, is rank 0's."""
        return any(step == self.step and kind == "valid" for step, kind, _ in self.history)


class States:
    """The states of the run whose logs are in ``folder``. ``say(text)`` tells the user."""

    def __init__(self, folder: str | Path, say: Callable[[str], None]):
        self.folder, self.say = Path(folder), say
        self.writer: threading.Thread | None = None
        self.whole = True  # what was to be written last has been
        self.newest, self.before = self.folder / "state.pt", self.folder / "state-before.pt"

    # Writing

    def save(self, content: dict, wait: bool = False) -> None:
        """Write ``content``, plain values and tensors; return when it is copied, with ``wait`` when it is written."""
        self.wait()
        if not wait:
            content = with_tensors(content, lambda tensor: tensor.detach().to("cpu", copy=True))
        self.writer = threading.Thread(target=self.write, args=(content,))
        self.writer.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        if self.writer is not None:
            self.writer.join()

    def write(self, content: dict) -> None:
        try:
            with atomic_write(self.newest, follow=False) as stream:
                hashed = Hashed(stream)
                torch.save(content, hashed)  # type: ignore[arg-type]  # torch calls write and flush only
                stream.write(hashed.digest.digest())
                stream.flush()
                os.fsync(stream.fileno())  # whole on the disk before the older ones move
                if self.newest.exists():
                    os.replace(self.newest, self.before)
            sync_folder(self.folder)
            self.whole = True
        except (OSError, RuntimeError, UserError) as error:  # RuntimeError: torch's writer, whose own writing failed
            reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
            kept, self.whole = next(iter(self.found()), None), False
            self.say(f"warning: the state of step {content['state']['step']} could not be saved ({reason}); "
                     + (f"the one in {kept} stays" if kept else "there is none yet") + "; the run goes on")  # fmt: skip

    # Reading

    def load(self) -> dict | None:
        """What was saved last and is whole; None where nothing was saved. Raises UserError where all is damaged."""
        path, found = self.newest_whole(), self.found()
        if path is None:
            if found:
                raise UserError(f"{found[0]}: damaged, and no other state is whole; remove it to start anew")
            return None
        saved = read_torch(path, "remove it to start anew")
        if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
            raise UserError(f"{path}: not the state of a run; remove it to start anew")
        return {**saved, "path": str(path)}

    def found(self) -> list[Path]:
        """The states that lie here, whole or not, the newest first."""
        return [path for path in (self.newest, self.before) if path.exists()]

    def newest_whole(self) -> Path | None:
        """The newest of them that is not damaged; tells of those that are."""
        found = self.found()
        whole = next((path for path in found if undamaged(path)), None)
        for path in found[: found.index(whole) if whole else None]:
            self.say(f"warning: {path} is damaged" + (f"; taking {whole}" if whole else ""))
        return whole

    def clear_damaged(self) -> None:
        """Move a damaged newest state away, lest the next save move it over the good one before it."""
        if self.newest.exists() and self.before.exists() and not undamaged(self.newest):
            os.replace(self.newest, self.folder / "state-damaged.pt")

    def remove(self, *names: str) -> None:
        """What an earlier run, or this one before it was given more, left in --log-dir, which is not this one's result."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def set_aside(self) -> str | None:
        """Before a new run: keep the state of an unfinished one under another name, remove that of a finished one and what
        it has left, but what --evaluate has. Gives the digest of the unfinished one's best model."""
        boards = (path.name for path in self.folder.glob("events.out.tfevents.*"))
        scored = (self.folder / "result.json").exists()
        self.remove("result.json", "examples.json", "history.json", "loss.png", *boards)
        whole = self.newest_whole()
        state = noted(whole) if whole else {}
        unfinished = whole and not scored and not state.get("finished")
        if whole and unfinished:
            kept = free(lambda number: self.folder / f"earlier-{number}.pt")
            os.replace(whole, kept)
            self.say(f"{self.folder} held an unfinished run, at step {state.get('step', '?')}: kept as {kept}; to go on "
                     f"with it, rename that to {self.newest} and add --resume")  # fmt: skip
        self.newest.unlink(missing_ok=True)
        self.before.unlink(missing_ok=True)
        best = state.get("best_file")
        return best if unfinished and isinstance(best, str) else None

    def remove_unfinished(self, *paths: str | Path) -> None:
        """Remove what killed runs left half-written in --log-dir, and of ``paths`` elsewhere."""
        places = [self.folder / name for name in ("state.pt", "*.json", "loss.png")]  # not what others write there
        for folder, name in ((place.parent, place.name) for place in (*places, *map(Path, paths))):
            for left in folder.glob(f"{name}.tmp[0-9]*"):
                if left.is_file():
                    left.unlink(missing_ok=True)


def free(name: Callable[[int], Path]) -> Path:
    """The first of the paths name(1), name(2) and so on at which nothing is."""
    return next(path for number in itertools.count(1) if not (path := name(number)).exists())


def noted(path):
    """How far the run of a state was; nothing where this version cannot read it."""
    with contextlib.suppress(UserError):
        saved = read_torch(path, "")
        if isinstance(saved, dict) and isinstance(saved.get("state"), dict):
            return saved["state"]
    return {}


class Hashed:
    """Stands in for a file that is open for writing; ``digest`` is of all that was written."""

    def __init__(self, stream):
        self.stream, self.digest = stream, hashlib.sha256()

    def write(self, data):
        self.digest.update(data)
        return self.stream.write(data)

    def flush(self):
        self.stream.flush()


def check_layout(saved: dict) -> None:
    """Raises UserError where what `States.load` gave lacks a part of a saved state, or has one of another kind."""
    kinds = {"task": str, "arguments": dict, "examples": int, "sizes": dict, "state": dict, "model": dict,
             "optimizer": dict, "scaler": dict}  # fmt: skip
    state, number = saved["state"], int | float
    special = {"best": number | None, "finished": bool, "recent": list, "history": list, "valid_examples": int | None,
               "minutes": number | None, "best_file": str | None}  # fmt: skip
    fields: dict[str, Any] = {name: special.get(name, number) for name in State.__dataclass_fields__}
    if not (all(isinstance(saved.get(name), kind) for name, kind in kinds.items())
            and set(fields) - ADDED <= set(state) <= set(fields)
            and all(isinstance(state[name], fields[name]) for name in state)
            and all(isinstance(row, tuple) and len(row) == 3 for row in [*state["recent"], *state["history"]])
            and isinstance(saved["arguments"].get("lr"), number)
            and all(isinstance(saved["arguments"].get(name, ""), str) for name in ("save", "began_at"))
            and holds_weights(saved["model"])):  # fmt: skip
        raise UserError(f"{saved['path']}: not the state of a run; remove it to start anew")


def undamaged(path):
    """Do the last bytes of the file give the SHA-256 of those before them?"""
    digest = hashlib.sha256()
    left = os.path.getsize(path) - digest.digest_size
    with open(path, "rb") as stream:
        while left > 0 and (chunk := stream.read(min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        return left == 0 and stream.read() == digest.digest()


def sync_folder(folder):
    """Let the names in a folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --------------------------------------------------------------------------------------------------------------------
# Which runs may go on from which
# --------------------------------------------------------------------------------------------------------------------

# A resumed run may change these: where things lie, how long it trains, the learning rate, and who computes. All other
# flags, those of a task among them, decide what the batches and the model are; for the model it began from see `began`.
FREE = """data_dir cache_dir log_dir save log_interval checkpoint bert_model resume evaluate predict output no_test
    epochs steps minutes save_minutes lr warmup clip accumulate precision parallel world_size timeout_minutes
    compile deterministic
    size emsize nhid nlayers nhead norm tokenizer vocab vocab_size save_vocab""".split()  # the last two lines: see sizes

UNSAID = {"head": "cls", "layout": "separate"}  # what None meant in states of before a run noted what it decided


def kept_arguments(args: Namespace) -> dict:
    """The arguments that are saved with a state: those that must agree, the learning rate, and where the best model is."""
    kept = {name: value for name, value in vars(args).items() if name in ("lr", "save") or name not in FREE}
    return {**kept, "began": began(args), "began_at": str(Path(start(args)).absolute())}


def start(args: Namespace) -> str:
    """The model that a run starts from, "none" where that is noise."""
    return getattr(args, "checkpoint", None) or getattr(args, "bert_model", None) or "none"


def began(args):
    """What a run started from, by its flag and the file's name, for files are moved."""
    return f"--{'checkpoint' if getattr(args, 'checkpoint', None) else 'bert-model'} {Path(start(args)).name}"


def check_same_run(saved: dict, task: str, sizes: dict, args: Namespace, examples: int, vocabulary: str) -> None:
    """Raises UserError, which names the flags and both values, where a state belongs to another run; ``vocabulary`` is the
    tokenizer's fingerprint."""
    where = saved["path"]
    if saved["task"] != task:
        raise UserError(f"{where}: belongs to another task, {saved['task']}; resume with its script, or choose a --log-dir")
    from_here = began(args)
    since = saved["arguments"].get("began", from_here)
    if since != from_here:
        raise UserError(f"{from_here}: the run in {where} began by {since}; resume with that flag, or use another "
                        "--log-dir")  # fmt: skip
    at, now = Path(saved["arguments"].get("began_at", "none")), Path(start(args))
    if at.exists() and now.exists() and not now.samefile(at):  # else it was moved
        raise UserError(f"{from_here} in {now.parent}: the run in {where} began by that in {at.parent}; resume with that, "
                        "or use another --log-dir")  # fmt: skip
    differing = {}  # name of a flag -> its value now, and that of the run
    for name, value in saved["arguments"].items():
        now = getattr(args, name, value)
        value = UNSAID.get(name) if value is None and now is not None else value
        if name not in FREE and now != value:
            differing[name] = str(now), str(value)
    if differing:
        told = ", ".join(f"--{name.replace('_', '-')} {now}" for name, (now, _) in differing.items())
        then = ", ".join(value for _, value in differing.values())
        raise UserError(f"{told}: the run in {where} has {then}; resume with its flags, or use another --log-dir")
    for name, value in saved["sizes"].items():
        if sizes.get(name) != value:
            raise UserError(f"{where}: belongs to a model of {name} {value}, now {sizes.get(name)}; resume with the flags "
                            "of that run, or use another --log-dir")  # fmt: skip
    if saved.get("vocabulary", vocabulary) != vocabulary:  # of as many words, in files of the same names
        raise UserError(f"{where}: made with another vocabulary; resume with the model or --vocab of that run, or use "
                        "another --log-dir")  # fmt: skip
    if saved["examples"] != examples:
        raise UserError(f"{where}: made with {saved['examples']} training examples, now there are {examples}; resume with "
                        "the same data, or use another --log-dir")  # fmt: skip
