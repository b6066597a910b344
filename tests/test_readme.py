"""README.rst and docs/*.rst: well-formed, links lead somewhere, the map is true, every command runs (on a small budget)."""

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile

import pytest
from conftest import ROOT, open_page

from text import sample

WINGS = ("text", "training", "formats", "files")
PAGES = ["README.rst", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.rst")),
         "pretrained/README.rst"]  # fmt: skip
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
LINES = [line.strip() for text in TEXTS.values() for line in text.splitlines()]
# In the order of PAGES: the README's commands train the models that those of the other pages use.
COMMANDS = list(dict.fromkeys(line[2:] for line in LINES if line.startswith("$ ")))
PREDECESSORS = """
python mlm_task.py
python ns_task.py
python mlm_task.py --parallel DDP --log-interval 600 --dataset BookCorpus
python ns_task.py --parallel DDP --bert-model mlm_bert.pt --dataset BookCorpus
python qa_task.py --bert-model ns_bert.pt --epochs 30
python race_task.py --bert-model ns_bert.pt
""".strip().splitlines()
OVERWRITES = [f"{task}_task.py" for task in ("mlm", "ns", "qa", "race")]
SMALL = "--steps 2 --nlayers 1 --emsize 32 --nhid 64 --nhead 2 --batch_size 4 --bptt 64 --valid-examples 8".split()

every_page = pytest.mark.parametrize("page", PAGES)


@functools.cache
def tree(page):
    """A page as docutils understands it; a warning is an exception."""
    core = pytest.importorskip("docutils.core")
    return core.publish_doctree(TEXTS[page], settings_overrides={"halt_level": 2, "report_level": 2})


def attributes(page, *names):
    """The values of these attributes of all elements of a page."""
    elements = [node for node in tree(page).findall() if hasattr(node, "attributes")]
    return [node[name] for node in elements for name in names if name in node]


@every_page
def test_it_passes_docutils_without_a_warning(page):
    assert tree(page)["title"]


@every_page
def test_its_links_and_pictures_lead_to_what_the_repository_has(page):
    for target in attributes(page, "refuri", "uri"):
        path, _, heading = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        found = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        assert found.is_file() and found.is_relative_to(ROOT), f"{target}: no such file"
        if heading:
            identifiers = attributes(found.relative_to(ROOT).as_posix(), "ids")
            assert any(heading in some for some in identifiers), f"{target}: no such heading"


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(TEXTS["README.rst"].splitlines()) <= 250
    assert set(PAGES[1:]) <= set(attributes("README.rst", "refuri"))


def test_the_commands_of_the_predecessors_are_told_as_written():
    assert set(PREDECESSORS) <= set(COMMANDS)


def test_the_map_names_every_wing_and_every_top_level_module():
    house = TEXTS["README.rst"].split("\nThe house\n")[1].split("::\n")[1].split("\n\nData flows")[0]
    assert set(re.findall(r"(?<![\w/])\w+\.py", house)) == {path.name for path in ROOT.glob("*.py")}
    wings = {"docs", "slurm", "pretrained", *(path.parent.name for path in ROOT.glob("*/*.py"))}
    assert set(re.findall(r"^    (\w+)/", house, re.MULTILINE)) == wings


def test_the_list_of_files_names_every_module():
    modules = [*ROOT.glob("*.py"), *(path for wing in WINGS for path in (ROOT / wing).glob("*.py"))]
    named = re.findall(r"^[\w/]+\.py(?= )", TEXTS["docs/house.rst"], re.MULTILINE)
    assert {path.relative_to(ROOT).as_posix() for path in modules if path.name != "__init__.py"} == set(named)


@pytest.mark.parametrize("script", [
    "mlm_task.py", "ns_task.py", "qa_task.py", "race_task.py", "demo.py", "report.py", "data.py prepare", "tune.py race",
    "metrics.py squad", "metrics.py race", "checkpoint.py embed",
])  # fmt: skip
def test_some_page_tells_of_every_flag(run_script, script):
    pages = "\n".join(TEXTS.values()).replace("_", "-")
    told = run_script(*script.split(), "--help").stdout
    flags = {name.replace("_", "-") for name in re.findall(r"^ +(?:-\w, )?(--[\w-]+)", told, re.MULTILINE)}
    assert not {name for name in flags - {"--help"} if not re.search(rf"(?<![\w-]){name}(?![\w-])", pages)}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "SECURITY.md"])
def test_the_modules_that_it_names_are_there(page):
    named = re.findall(r"(?<![\w/.])(?:\w+/)*\w+\.py\b", (ROOT / page).read_text())
    assert not {name for name in named if not (ROOT / name).is_file()}


def of_sample(words):
    """Does this command train on the embedded data set and keep the model as its task's own?"""
    return not {"--dataset", "--save", "--evaluate", "--predict", "--ask", "--fill"} & set(words)


@every_page
def test_no_command_replaces_a_model_of_real_text_by_a_toy(page):
    trained = set()
    for words in (shlex.split(line.strip()[2:]) for line in TEXTS[page].splitlines() if line.strip().startswith("$ ")):
        script = next((word for word in words if word in OVERWRITES), None)
        assert script not in trained or not of_sample(words), " ".join(words)
        if script and "--dataset" in words and not {"--save", "--evaluate", "--predict"} & set(words):
            trained.add(script)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: the scripts and wings, small data under data/, and an srun that runs what follows its options."""
    folder = tmp_path_factory.mktemp("readme")
    for path in [*ROOT.glob("*.py"), ROOT / "demo.html"]:
        shutil.copy(path, folder)
    for wing in (*WINGS, "pretrained"):
        shutil.copytree(ROOT / wing, folder / wing, ignore=shutil.ignore_patterns("__pycache__"))
    data = folder / "data"
    (data / "books").mkdir(parents=True)
    stories = [story.text for story in sample.stories("valid", 300, "readme")]
    for number in range(30):
        (data / "books" / f"{number}.txt").write_text("\n\n".join(stories[10 * number : 10 * number + 10]))
    with tarfile.open(folder / "texts.tar.gz", "w:gz") as archive:
        archive.add(data / "books", "books")
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
    script = next((word for word in words if word.endswith(".py")), None)  # none: python -m
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
def test_the_command_of_a_page_runs_as_written_after_those_before_it(folder, command, commands):
    environment = {
        **os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "BERT_CACHE": str(folder / "cache"),
        "BERT_DATA": str(folder / "data"), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path[1:]),
    }  # fmt: skip
    words = with_small_budget(command)
    words = [word for part in words for word in (sorted(map(str, folder.glob(part))) if "*" in part else [part])]
    if "demo.py" in words:  # serves until it is told to stop
        process, _ = open_page([*words, "--port", "0"], cwd=folder, env=environment)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    elif words[0] == "python" and words[1].endswith(".py") and words[1] != "tune.py":
        process = commands.run([folder / words[1], *words[2:]], folder, environment)
        output, errors = process.stdout, process.stderr
    else:
        process = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        output, errors = process.stdout, process.stderr
    assert process.returncode == 0, output + errors
    assert "Traceback" not in errors
