"""From raw text to answers in a budget of minutes: a vocabulary, masked words, questions; and what they came to.

    python benchmarks/from_nothing.py FOLDER --minutes 30 --data-dir data
    python benchmarks/from_nothing.py FOLDER --minutes 240 --dataset SQuAD1 library.tar.gz --race

Each stage is the command that a user would give, bare but for names and its share of the minutes. The clock runs from raw
text to the last trained step, with all that the commands do on the way: training the vocabulary, tokenising, validating.
Scoring the development set comes after, and does not count. With --race a model for RACE is made from the same body, in
as many minutes as the one for SQuAD. What is finished is kept in FOLDER, so that after a stop the same command goes on;
at the end there is FOLDER/curve.png, the validations over the minutes.
"""

import argparse
import contextlib
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import machine, needs
from files.command_line import positive
from files.mistakes import UserError, run_main
from files.reading import read_json
from files.writing import write_json, write_picture
from text.places import default_data_dir
from training.stopping import leave_with_parent

TEXTS = ("--valid-share", "--valid_share", "--test", "--text", "--sentences")  # what the texts of mlm_task.py are
PRETRAINING = 0.35, 0.5  # of the minutes, by default, for masked words: of less than two hours, and of more


class Chain:
    """The stages in one folder: each is run once, and its minutes are kept beside its log."""

    def __init__(self, folder: Path, flags: list[str]):
        self.folder, self.flags = folder, flags
        folder.mkdir(parents=True, exist_ok=True)

    def stage(self, name: str, script: str, *words: str | float | Path) -> float:
        """Run a command in the folder unless that was done before; gives its minutes, those of earlier tries included."""
        kept = self.folder / f"{name}.json"
        done = read_json(kept) if kept.exists() else {"minutes": 0.0, "command": [], "finished": False}
        command, begun = [script, *map(str, words), *self.flags], time.monotonic()
        if done["finished"]:
            if done["command"] != command:
                raise UserError(f"{kept}: of another command, {' '.join(done['command'])}; name another folder")
            return done["minutes"]
        with open(self.folder / f"{name}.log", "a") as log:
            process = subprocess.Popen([sys.executable, ROOT / script, *command[1:]], cwd=self.folder, stdout=log,
                                       stderr=log, preexec_fn=leave_with_parent)  # fmt: skip
            code = None
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                    code = process.wait(timeout=30)  # a terminal sends Ctrl-C to the stage as well: it saves, and ends
                minutes = done["minutes"] + (time.monotonic() - begun) / 60  # written now and then, lest a kill lose them
                write_json(kept, {"minutes": minutes, "command": command, "finished": code == 0})
        if code:
            raise UserError(f"{script} ended with code {code}; see {self.folder / name}.log, and start again to go on")
        return minutes

    def task(self, name: str, minutes: float, *words: str | Path) -> float:
        """A training of that budget; gives the minutes that it took."""
        log = self.folder / name
        return self.stage(name, f"{name}_task.py", "--minutes", f"{max(minutes, 0.1):.2f}", "--log-dir", log, "--no-test",
                          "--resume", *words)  # fmt: skip

    def score(self, name: str, model: str, *words: str) -> dict:
        """The figures of a model on its test split."""
        self.stage(f"{name}-score", f"{name}_task.py", "--evaluate", "--bert-model", model, "--log-dir", name, *words)
        return read_json(self.folder / name / "evaluation.json")


def draw(folder: Path, times: dict[str, tuple[float, float]]) -> None:
    """curve.png: each validation over the minutes, of which ``times`` has a run's first and their number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = dict(zip(("mlm", "qa"), figure.subplots(1, 2), strict=True))
    for name, key in (("mlm", "ppl"), ("qa", "f1")):
        history = read_json(folder / name / "history.json")
        begin, minute = times[name][0], times[name][1] / max(step for step, _, _ in history)
        points = [(begin + step * minute, figures[key]) for step, kind, figures in history if kind == "valid"]
        axes[name].plot(*zip(*points, strict=True), marker="o")
        axes[name].set(xlabel="minutes from raw text")
        axes[name].grid(alpha=0.3)
    axes["mlm"].set(ylabel="perplexity, text set aside", yscale="log")
    axes["qa"].set(ylabel="F1, questions on articles set aside")
    write_picture(folder / "curve.png", figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=positive(float), default=30)
    parser.add_argument("--dataset", nargs="+", default=["BookCorpus", "SQuAD1"], help="texts to pretrain on")
    parser.add_argument("--text-flags", default="", help="more flags of those texts, such as '--test-share 0.01', for all "
                        "that reads them")  # fmt: skip
    parser.add_argument("--size", default="mini")
    parser.add_argument("--race", action="store_true", help="a model for RACE as well")
    parser.add_argument("--pretraining", type=float, help="share of the minutes for masked words, the others for questions "
                        f"(default: {PRETRAINING[0]}, or {PRETRAINING[1]} from 120 minutes on)")  # fmt: skip
    for task in ("mlm", "qa", "race"):
        parser.add_argument(f"--{task}-flags", default="", help=f"more flags of {task}_task.py, to try what they are worth")
    parser.add_argument("--data-dir", default=default_data_dir())
    parser.add_argument("--cache-dir", help="default: FOLDER/cache, so that all that is made counts")
    args = parser.parse_args()
    needs("matplotlib", "the curve")  # at its end
    paths = [str(Path(name).resolve()) if Path(name).exists() else name for name in args.dataset]
    cache = Path(args.cache_dir or args.folder / "cache")
    places = ["--data-dir", str(Path(args.data_dir).resolve()), "--cache-dir", str(cache.resolve())]
    chain, text = Chain(args.folder.resolve(), places), ["--dataset", *paths, *args.text_flags.split()]
    for word in args.mlm_flags.split():
        if word.startswith(TEXTS):  # what is scored would not be what training leaves out
            raise UserError(f"--mlm-flags {word}: say it by --text-flags, for those who prepare and score as well")
    prepared = chain.stage("prepare", "data.py", "prepare", *text)
    share = PRETRAINING[args.minutes >= 120] if args.pretraining is None else args.pretraining
    spent = prepared + chain.task("mlm", share * args.minutes - prepared, *text, "--size", args.size,
                                  *args.mlm_flags.split())  # fmt: skip
    asked = args.minutes - spent
    questions = chain.task("qa", asked, "--bert-model", "mlm_bert.pt", "--dataset", "SQuAD1", *args.qa_flags.split())
    words = chain.score("mlm", "mlm_bert.pt", *text)
    squad = chain.score("qa", "qa_model.pt", "--dataset", "SQuAD1")
    lines = [
        ("text and vocabulary", prepared, ""),
        ("masked words", spent - prepared, f"perplexity {words['test_ppl']:.2f}"),
        ("SQuAD 1.1", questions, f"exact {squad['exact']:.2f}, F1 {squad['f1']:.2f}"),
    ]
    if args.race:
        options = chain.task("race", asked, "--bert-model", "mlm_bert.pt", "--dataset", "RACE", *args.race_flags.split())
        race = chain.score("race", "race_model.pt", "--dataset", "RACE")
        lines.append(("RACE", options, f"accuracy {race['accuracy']:.2f}"))
    print(f"{machine()}; {', '.join(args.dataset)}; {args.size}")
    for what, minutes, result in lines:
        print(f"{what:20} {minutes:7.1f} minutes   {result}")
    print(f"{'in all, to SQuAD':20} {spent + questions:7.1f} minutes")
    draw(chain.folder, {"mlm": (prepared, spent - prepared), "qa": (spent, questions)})


if __name__ == "__main__":
    run_main(main)
