"""What tests/fuzz.py damages around a run: notes of model files on how they read, files to predict on, and what report.py
reads of a run and of an evaluation.

Of each kind, good(folder) writes what is right, change(folder, rng) damages it, and read(folder, rng) uses it as the
program does.
"""

import sys

import torch
import toys
from fuzz_changes import change_bytes, change_folder, change_tree
from fuzz_data import PARTS
from fuzz_models import small_model

import checkpoint
import mlm_task
import ns_task
import qa_task
import race_task
import report
from files.writing import write_json
from model import MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from training import flags
from training.ranks import Ranks

TASKS = {  # a task's script, head, notes, and what it predicts on
    "mlm": (mlm_task, MLMTask, {"bptt": 24}, "lines.txt"),
    "ns": (ns_task, NextSentenceTask, {"bptt": 24, "objective": "sop"}, "pairs.tsv"),
    "qa": (qa_task, QuestionAnswerTask, {"bptt": 32, "stride": 8, "null_threshold": 0.5}, "questions.json"),
    "race": (race_task, RaceTask, {"bptt": 32, "passage": "select", "layout": "joint"}, "articles"),
}
VALUES = [-1, 0, 1, 2, 7, 8, 9, 10, 11, 16, 39, 40, 41, 10**6, 10**400, True, None, 8.0, float("nan"), float("inf"), 1e308,
          "8", "x", "nsp", "sop", "window", "truncate", "select", "separate", "joint"]  # fmt: skip
LINES = ["the cat sat on the [MASK] .", "[MASK] [MASK]", "who is in the [MASK]house?"]
PAIRS = ["the cat sat.\tthe dog sat.", f"{'red ' * 30}\tblue", "a\tb"]


def run_task(task, folder, *words):
    script = TASKS[task][0]
    sys.argv = [f"{task}_task.py", "--precision", "fp32", "--batch-size", "8", "--data-dir", str(folder), "--cache-dir",
                str(folder / "cache"), "--output", str(folder / "out.json"), *map(str, words)]  # fmt: skip
    return script, script.arguments()


def predict(task, folder, *words):
    script, args = run_task(task, folder, "--predict", folder / TASKS[task][3], *words)
    script.run(args, Ranks())


def good_models(folder):
    letters = toys.letters()
    for task, (_, head, notes, _) in TASKS.items():
        checkpoint.save_model(folder / f"{task}.pt", small_model(head, letters), letters, notes)


# Notes


def good_notes(folder):
    good_models(folder)
    good_inputs(folder)
    write_json(folder / "questions.json", toys.as_json(toys.squad(contexts=2, words=60)))
    toys.write_articles(folder / "articles", toys.articles(count=2, words=60), answers=False)


def change_notes(folder, rng):
    path = rng.choice(sorted(folder.glob("*.pt")))
    content = torch.load(path, weights_only=True)
    if rng.random() < 0.3:
        content["notes"] = change_tree(content["notes"], rng)
    else:
        content["notes"][rng.choice(list(content["notes"]))] = rng.choice(VALUES)
    torch.save(content, path)
    (folder / "chosen").write_text(path.stem)


def read_notes(folder, rng):
    task = (folder / "chosen").read_text()
    path, (script, head, _, _) = folder / f"{task}.pt", TASKS[task]
    if rng.random() < 0.2:
        _, args = run_task(task, folder, "--checkpoint", path)
        return flags.new_or_loaded(head, args, None, script.READING)
    predict(task, folder, "--bert-model", path)


# Files to predict on


def good_inputs(folder):
    (folder / "lines.txt").write_text("\n".join(LINES))
    (folder / "pairs.tsv").write_text("\n".join(PAIRS))


def good_predict(folder):
    good_models(folder)
    good_inputs(folder)


def change_inputs(folder, rng):
    """Bytes of the files are changed, or words put in that a text may hold."""
    for name, mark in (("lines.txt", b"[MASK]"), ("pairs.tsv", b"\t")):
        data = (folder / name).read_bytes()
        if rng.random() < 0.4:
            data = change_bytes(data, rng)
        else:
            for _ in range(rng.choice([1, 3, 10])):
                at = rng.randrange(len(data) + 1)
                data = data[:at] + rng.choice([rng.choice(PARTS), mark]) + data[at:]
        (folder / name).write_bytes(data if rng.random() < 0.3 else data.decode("utf-8", "replace").encode())


def read_inputs(folder, rng):
    task = rng.choice(["mlm", "ns"])
    predict(task, folder, "--bert-model", folder / f"{task}.pt")


# What a run leaves


EXAMPLES = [
    {"kind": "mlm", "texts": ["the", "sat"], "masks": [{"gold": "cat", "guesses": [["dog", 0.5], ["cat", 0.25]]}]},
    {"kind": "ns", "first": "a", "second": "b", "follows": True, "probability": 0.75, "right": True},
    {"kind": "qa", "passage": "the cat sat", "question": "who?", "answer": "cat", "start": 4, "end": 7, "gold": ["cat"],
     "right": True},
    {"kind": "race", "passage": "the cat sat", "question": "who?", "options": ["cat", "dog"], "chosen": 0, "gold": 1,
     "probabilities": [0.75, 0.25], "right": False},
]  # fmt: skip


def good_report(folder):
    for name in ("one", "two"):
        run = folder / name
        run.mkdir()
        write_json(run / "settings.json", {"task": "qa", "dataset": "Sample", "lr": 0.1, "log_dir": name, "size": None})
        write_json(run / "history.json", [[1, "train", {"loss": 2.0, "lr": 0.1}], [2, "valid", {"loss": 1.5, "f1": 50.0}]])
        write_json(run / "result.json", {"task": "qa", "seconds": 6.5, "steps": 2, "tokens": 10**6, "exact": 40.0})
        write_json(run / "examples.json", EXAMPLES)
        write_json(run / "evaluation.json", {"models": ["a.pt", "b.pt"], "task": "qa", "exact": 50.0, "f1": 60.0,
                                             "examples": EXAMPLES[2:]})  # fmt: skip


def change_report(folder, rng):
    for name in ("settings", "history", "result", "examples"):
        if rng.random() < 0.2:  # as an evaluation's folder has it
            (folder / "one" / f"{name}.json").unlink()
    change_folder(folder, rng)


def read_report(folder, rng):
    runs = rng.choice([["one"], ["one", "two"]])
    sys.argv = ["report.py", *(str(folder / run) for run in runs), "--output", str(folder / "report.html")]
    report.main()


KINDS = {
    "notes": (good_notes, change_notes, read_notes),
    "predict": (good_predict, change_inputs, read_inputs),
    "report": (good_report, change_report, read_report),
}
