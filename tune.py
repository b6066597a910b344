"""Search for the flags with which a task learns best, by Optuna (Akiba et al. 2019, arXiv 1907.10902).

    python tune.py race --trials 20                                     # on the embedded data set, from ns_bert.pt
    python tune.py race --trials 50 -- --dataset RACE --minutes 10      # what follows -- goes to race_task.py
    srun -n 4 --gpus-per-task=1 python tune.py qa --trials 100 -- --dataset SQuAD1 --minutes 5

A trial is a run of the task's script, in a process and a folder of its own. It is judged by the validation examples,
never by the test split: by the best of its validations, in the figure by which the task itself chooses a model. The first
trial has the task's own flags, the others what Optuna makes of those before (TPE). A trial whose best validation so far
is worse than the median of the others at the same point is stopped. Design choices:

- Learning rate, warm-up, dropout, batch size, and the head of race_task.py are searched; a flag given after -- is fixed.
- Everything is kept in the storage, so any number of processes, on machines that share --storage and --log-dir, work on
  one study, and one that is started again goes on. A trial runs as long as a lock in its folder is held, by tune.py or by
  the run, whichever lives longer; who finds a trial that is marked as running, with its lock free, resumes that run.
- A run that fails costs one trial. Of all trials but the best the weights are deleted.
"""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

from tqdm import tqdm

import checkpoint
import heads
import mlm_task
import ns_task
import qa_task
import race_task
import utils
from files.locks import hold
from files.mistakes import UserError, run_main
from text import cache
from training import beginning, flags, stopping
from training.parser import Parser, hurried

TASKS = {"mlm": mlm_task, "ns": ns_task, "qa": qa_task, "race": race_task}
SCORES = {"mlm": "loss", "ns": "loss", "qa": "f1", "race": "accuracy"}  # the figures by which the tasks choose a model
HEADS = ("cls", *heads.HEADS)
OURS = "log_dir save resume no_test evaluate predict ask fill".split()  # not to be given for a trial
VOCABULARY = Namespace(save_vocab="bert_vocab.pt")  # as mlm_task.py has it; of a model of torchtext's example it is read
GRACE = 120  # seconds that a run may take to leave once it is to be stopped for good
FAILURES = 3  # in a row, before any trial has got anywhere: the mistake is common to all


def optuna():
    try:
        import optuna
    except ImportError:
        raise UserError("tune.py needs optuna; install it with: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def arguments(words):
    """The flags before -- and the list of those behind it."""
    cut = words.index("--") if "--" in words else len(words)
    p = Parser(__doc__)
    p.usage = "%(prog)s {mlm,ns,qa,race} [--trials N] [--storage URL] [--study NAME] [--log-dir DIR] [-- flags of the task]"
    p.add_argument("task", choices=list(TASKS), help="the task to search for")
    p.flag("trials", "finished trials that the study is to have in all: good, stopped or failed, of this and other "
           "processes, now and before", type=flags.positive(int), default=20)  # fmt: skip
    p.flag("storage", "where the study is kept, a URL as SQLAlchemy has it; several machines need a database server",
           default="sqlite:///tune.db")  # fmt: skip
    p.flag("study", "its name there (default: the task)")
    p.flag("log-dir", "with a folder for each trial: log.txt, history.json; all processes must see it (default: "
           "runs/tune/STUDY)")  # fmt: skip
    args = p.parse_args(words[:cut])
    args.study = args.study or args.task
    args.log_dir = Path(args.log_dir or f"runs/tune/{args.study}").absolute()
    if "://" not in args.storage:
        raise UserError(f"--storage {args.storage}: not a URL; write sqlite:///{args.storage} for a file of this name")
    return args, words[cut + 1 :]


def given_flags(words):
    return {word.split("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")}


def task_arguments(task, words):
    """The task's own reading of the flags for its trials; so that a mistake there is told at once, and once."""
    own = sorted(given_flags(words) & set(OURS))
    if own:
        raise UserError(f"--{own[0].replace('_', '-')} after --: each trial has its own, or none; leave it out")
    sys.argv = [f"{task}_task.py", *words]
    return TASKS[task].arguments()


def decided(task, args, words):
    """The flags of a trial, with what --minutes decided: by its --lr alone a trial would take another optimizer."""
    name = {"qa": "optimizer", "race": "bptt"}.get(task, "")
    value = getattr(args, name, None)  # None where a trained model says it
    said = value is None or name in given_flags(words) or not hurried(args)
    return words if said else [*words, f"--{name}", str(value)]


def search_space(task, args, given):
    """Names of flags -> Optuna's distributions, and the task's own values, which are within them."""
    distributions = optuna().distributions
    path, batch = args.checkpoint or args.bert_model, args.batch_size
    if path in (None, "none"):
        config = flags.sizes(args, 1)
    else:
        config = checkpoint.read_model(path, checkpoint.before(path), args.save_vocab, args.nhead)["config"]
    rate = utils.default_rate(task, config, args.optimizer)
    space = {
        "lr": (distributions.FloatDistribution(rate / 10, rate * 10, log=True), rate),
        "warmup": (distributions.FloatDistribution(0.0, 0.4), args.warmup),
        "dropout": (distributions.FloatDistribution(0.0, 0.3), args.dropout),
        "batch_size": (distributions.CategoricalDistribution(sorted({max(1, batch // 2), batch, 2 * batch})), batch),
    }
    if hasattr(args, "head") and not args.checkpoint and not args.compare_options:  # which have a head
        space["head"] = distributions.CategoricalDistribution(HEADS), args.head
    space = {name: both for name, both in space.items() if name not in given}
    return {name: both[0] for name, both in space.items()}, {name: both[1] for name, both in space.items()}


def as_flags(params):
    """Three digits tell enough, and what is printed is what was run."""
    rounded = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in params.items()}
    return [word for name, value in rounded.items() for word in (f"--{name}", value)]


def open_study(args, words, start):
    """The study, new or as it was left. Raises UserError where it belongs to other flags, or the storage is of no use."""
    library, engine = optuna(), {}
    if args.storage.startswith("sqlite"):
        engine = {"connect_args": {"timeout": 60}}  # seconds to wait for another process that writes
    try:
        study = library.create_study(
            storage=library.storages.RDBStorage(args.storage, engine), study_name=args.study, load_if_exists=True,
            direction="minimize" if SCORES[args.task] == "loss" else "maximize",
            pruner=library.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1),
        )  # fmt: skip
    except Exception as error:  # SQLAlchemy's and the database drivers' own
        raise UserError(f"--storage {args.storage}: {str(error).splitlines()[0]}; name one that can be written") from None
    run = {"task": args.task, "flags": words, "log_dir": str(args.log_dir)}
    if "run" not in study.user_attrs:
        if any(args.log_dir.glob("[0-9]*")):
            raise UserError(f"{args.log_dir}: holds the trials of another study; remove it, or choose another --log-dir")
        study.set_user_attr("run", run)
        study.enqueue_trial(start)
    for name, value in study.user_attrs["run"].items():
        if value != run[name]:
            what, now = (shlex.join(x) if name == "flags" else x for x in (value, run[name]))
            raise UserError(f"the study {args.study} has {name} {what!r}, not {now!r}; go on with that, or name another "
                            "--study")  # fmt: skip
    return study


# --------------------------------------------------------------------------------------------------------------------
# One trial
# --------------------------------------------------------------------------------------------------------------------


def claim(folder):
    """The lock of a trial: an open file, to be handed on to its run, whose lock it is; None where another process holds it.

    Raises UserError where the file system cannot be written or knows no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(folder / "lock", "a")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{folder}: cannot be locked ({error.strerror}); choose another --log-dir") from None
    held = hold(stream)
    if held is None:
        raise UserError(f"{folder}: cannot be locked (no locks there); choose another --log-dir")
    if not held:
        stream.close()
    return stream if held else None


def environment():
    """That of a run on its own, also where Slurm or torchrun started this process beside others."""
    places = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
              "GROUP_WORLD_SIZE"}  # fmt: skip
    started = ("SLURM_", "TORCHELASTIC_")
    return {name: x for name, x in os.environ.items() if name not in places and not name.startswith(started)}


def start(task, folder, words, lock):
    own = ["--log-dir", str(folder), "--save", str(folder / "model.pt"), "--resume", "--no-test"]
    if task == "mlm" and "save_vocab" not in given_flags(words) and not mlm_task.is_examples(VOCABULARY):
        own += ["--save-vocab", str(folder / VOCABULARY.save_vocab)]
    with open(folder / "log.txt", "a") as log:
        return subprocess.Popen(
            [sys.executable, TASKS[task].__file__, *words, *own], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**environment(), beginning.HANDED_ON: str(folder)}, pass_fds=[lock.fileno()],
            preexec_fn=stopping.leave_with_parent,
        )  # fmt: skip


def validations(folder, score):
    """What the run's validations gave so far."""
    try:
        history = json.loads((folder / "history.json").read_text())
    except FileNotFoundError:
        return []
    return [figures[score] for _, kind, figures in history if kind == "valid"]


def last_line(path):
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


class Tuner:
    """This process's part of a study."""

    def __init__(self, args, words):
        self.task, self.folder, self.wanted = args.task, args.log_dir, args.trials
        self.score, self.stop, self.failures = SCORES[args.task], 0, 0
        task_args = task_arguments(args.task, words)
        self.words = words = decided(args.task, task_args, words)
        self.space, start = search_space(args.task, task_args, given_flags(words))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            open(self.folder / "lock", "a").close()
        except OSError as error:
            raise UserError(f"--log-dir {self.folder}: cannot be written ({error.strerror}); choose another") from None
        with self.alone():
            self.study = open_study(args, words, start)
        self.states = optuna().trial.TrialState
        self.bar = tqdm(total=args.trials, desc=f"tuning {args.task}", unit="trial", disable=None)

    def alone(self):
        """While no other process begins or ends a trial."""
        return cache.lock(self.folder / "lock")

    def trials(self, *states):
        return self.study.get_trials(deepcopy=False, states=states or None)

    def finished(self):
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def place(self, trial):
        return self.folder / f"{trial.number:05d}"

    def say(self, text):
        tqdm.write(text)
        sys.stdout.flush()

    def next(self):
        """A trial to work on and its lock: one that was left behind, or a new one; None where there are enough."""
        with self.alone():
            running = self.trials(self.states.RUNNING)
            for left in running:
                lock = claim(self.place(left))
                if lock and set(left.params) == set(self.space):
                    self.say(f"trial {left.number} was interrupted; it goes on")
                    return optuna().trial.Trial(self.study, left._trial_id), lock
                if lock:  # killed as it chose its flags
                    self.study.tell(left.number, state=self.states.FAIL)
            if len(self.finished()) + len(self.trials(self.states.RUNNING)) >= self.wanted:
                return None
            trial = self.study.ask(self.space)
            return trial, claim(self.place(trial))

    def run(self, trial, lock):
        """Run the task's script. Gives how the trial ended (None: interrupted), its value, and why it failed."""
        folder = self.place(trial)
        known, bad, until = len(self.trials()[trial.number].intermediate_values), False, math.inf
        run = start(self.task, folder, [*self.words, *as_flags(trial.params)], lock)
        while True:
            code = run.poll()
            values = validations(folder, self.score)
            for number in range(known, len(values)):
                trial.report(values[number], number)
            if len(values) > known and not bad and trial.should_prune():
                bad, until = True, time.monotonic() + GRACE
                run.terminate()
            known = max(known, len(values))
            if self.stop and until == math.inf:
                until = time.monotonic() + GRACE
                run.terminate()
            if code is not None:
                break
            if time.monotonic() > until:
                run.kill()
            time.sleep(0.1)
        values = [value for value in values if math.isfinite(value)]
        if code == 0 and values:
            return self.states.COMPLETE, (min if self.score == "loss" else max)(values), ""
        if bad:
            return self.states.PRUNED, None, ""
        if self.stop or code in (stopping.STOPPED, stopping.INTERRUPTED):
            return None, None, ""
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return self.states.FAIL, None, f"{how}: {last_line(folder / 'log.txt')}"

    def end(self, trial, lock, state, value, why):
        """Note how the trial ended, say so, and keep the best trial's weights only."""
        with self.alone():
            self.study.tell(trial, value, state=state)
            lock.close()
            best = self.best()
            for other in self.finished():
                kept = [self.place(other) / "model.pt"] if best and other.number == best.number else []
                for path in self.place(other).glob("*.pt"):
                    if path not in kept:
                        path.unlink(missing_ok=True)
        where = os.path.relpath(self.place(trial) / "log.txt")
        failed = state == self.states.FAIL
        what = f"failed, {why}; see {where}" if failed else self.describe(self.trials()[trial.number])
        self.say(f"trial {trial.number}: {what} ({' '.join(as_flags(trial.params))})")
        self.failures = self.failures + 1 if failed else 0
        if self.failures == FAILURES and all(trial.state == self.states.FAIL for trial in self.finished()):
            raise UserError(f"{FAILURES} trials failed, and none before them was better; see {where}")

    def best(self):
        return self.study.best_trial if self.trials(self.states.COMPLETE) else None

    def describe(self, trial):
        values = list(trial.intermediate_values.values())
        if trial.state == self.states.PRUNED:
            return f"stopped after validation {len(values)}, {self.score} {values[-1]:.4g}"
        return f"{self.score} {trial.value:.4g}" if trial.state == self.states.COMPLETE else trial.state.name.lower()

    def work(self):
        """Trial after trial until there are enough, or this process is told to stop. Gives the exit code."""
        for number, code in stopping.CODES.items():
            signal.signal(number, lambda _, __, code=code: setattr(self, "stop", code))
        while not self.stop:
            self.bar.n = len(self.finished())
            self.bar.set_postfix_str(f"best {self.score} {self.best().value:.4g}" if self.best() else "")
            begun = self.next()
            if begun is None:
                break
            state, value, why = self.run(*begun)
            if state is not None:
                self.end(*begun, state, value, why)
            else:
                begun[1].close()
        self.bar.close()
        if self.stop:
            self.say(f"stopped with {len(self.finished())} of {self.wanted} trials; go on with the same command")
            return self.stop
        return self.tell()

    def tell(self):
        """Print the best ten trials and the command that repeats the best."""
        done, best, busy = self.finished(), self.best(), len(self.trials(self.states.RUNNING))
        elsewhere = f"other processes are at work on {busy} trials"
        if best is None and busy:
            print(elsewhere)
            return 0
        if best is None:
            raise UserError(f"none of the {len(done)} trials came to its end; see the log.txt of each in {self.folder}")
        names, sign = list(self.space), 1 if self.score == "loss" else -1
        ended = sorted(self.trials(self.states.COMPLETE), key=lambda trial: sign * trial.value)
        pruned, failed = self.trials(self.states.PRUNED), self.trials(self.states.FAIL)
        print(f"\n{'trial':>6}  {self.score:>10}  " + "  ".join(f"{name:>10}" for name in names))
        for trial in ended[:10]:
            values = as_flags({name: trial.params[name] for name in names})[1::2]
            print(f"{trial.number:>6}  {trial.value:>10.4g}  " + "  ".join(f"{value:>10}" for value in values))
        print(f"{len(done)} trials: {len(ended)} came to their end, {len(pruned)} were stopped, {len(failed)} failed"
              + (f" ({', '.join(f'trial {trial.number}' for trial in failed)})" if failed else ""))  # fmt: skip
        if busy:
            print(elsewhere)
        print(f"best: trial {best.number}, {self.score} {best.value:.4g} on the validation examples, weights in "
              f"{os.path.relpath(self.place(best) / 'model.pt')}; the command:")  # fmt: skip
        script = os.path.relpath(TASKS[self.task].__file__)
        print(shlex.join(["python", script, *self.words, *as_flags({name: best.params[name] for name in names})]))
        return 0


def main():
    return Tuner(*arguments(sys.argv[1:])).work()


if __name__ == "__main__":
    run_main(main)
