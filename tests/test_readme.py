"""README.rst: well-formed, and every command line in it runs (with small budgets put in)."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from text import sample

README = (ROOT / "README.rst").read_text()
COMMANDS = [line.strip()[2:] for line in README.splitlines() if line.strip().startswith("$ ")]
SMALL = "--steps 2 --nlayers 1 --emsize 32 --nhid 64 --nhead 2 --batch_size 4 --bptt 64 --valid-examples 8".split()


def test_it_passes_docutils_without_a_warning():
    docutils = pytest.importorskip("docutils.core")
    html = docutils.publish_string(README, writer_name="html", settings_overrides={"halt_level": 2, "report_level": 1})
    assert b"Two commands" in html


def test_it_names_every_top_level_module():
    modules = {path.name for path in ROOT.glob("*.py")}
    assert modules <= set(re.findall(r"^(\w+\.py)\s", README, re.MULTILINE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: the scripts, small data under data/, and an srun that runs what follows its options."""
    folder = tmp_path_factory.mktemp("readme")
    for path in [*ROOT.glob("*.py"), ROOT / "demo.html"]:
        shutil.copy(path, folder)
    data = folder / "data"
    (data / "books").mkdir(parents=True)
    stories = [story.text for story in sample.stories("valid", 300, "readme")]
    for number in range(30):
        (data / "books" / f"{number}.txt").write_text("\n\n".join(stories[10 * number : 10 * number + 10]))
    (data / "squad").mkdir()
    for part, split in (("train", "train"), ("dev", "valid")):
        (data / "squad" / f"{part}-v1.1.json").write_text(json.dumps(answerable(sample.squad(split, 20))))
    for part in ("train", "dev", "test"):
        for level, article in sample.race("valid", 6):
            place = data / "RACE" / part / level
            place.mkdir(parents=True, exist_ok=True)
            (place / article["id"].removeprefix(level)).write_text(json.dumps(article))
    (folder / "story.txt").write_text(stories[0])
    (folder / "lines.txt").write_text("Then [MASK] went home.\n")
    (folder / "pairs.tsv").write_text("Anna went home.\tShe slept.\n")
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/sh\nwhile [ "$1" != python ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder


def answerable(squad):
    """Version 1.1: without the questions that have no answer, in several articles."""
    paragraphs = squad["data"][0]["paragraphs"]
    for paragraph in paragraphs:
        paragraph["qas"] = [{k: v for k, v in q.items() if k != "is_impossible"} for q in paragraph["qas"] if q["answers"]]
    return {"version": "1.1", "data": [{"title": str(n), "paragraphs": [p]} for n, p in enumerate(paragraphs)]}


def with_small_budget(command):
    """The words of a command: a training run gets a small model, few steps and no more than that."""
    words = shlex.split(command)
    script = next(word for word in words if word.endswith(".py"))
    if script == "tune.py":
        words[words.index("--trials") + 1] = "2"
    if script in ("mlm_task.py", "ns_task.py", "qa_task.py", "race_task.py", "tune.py") and "--predict" not in words:
        for flag in ("--minutes", "--epochs", "--size"):
            if flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
        words += SMALL
    return words


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs(folder, command):
    environment = {
        **os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "BERT_CACHE": str(folder / "cache"),
        "BERT_DATA": str(folder / "data"), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path[1:]),
    }  # fmt: skip
    words = with_small_budget(command)
    words = [word for part in words for word in (sorted(map(str, folder.glob(part))) if "*" in part else [part])]
    if "demo.py" in words:  # serves until it is told to stop
        words = ["timeout", "--signal=INT", "--preserve-status", "20", *words, "--port", "0"]
    process = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
