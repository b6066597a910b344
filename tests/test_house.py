"""The house: which room may import from which, how large a room may be, and what one offers to the others."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

WINGS = ("files", "text", "formats", "training")
TASKS = ("mlm_task", "ns_task", "qa_task", "race_task")
# Each may import from those on the lines before it, a wing from itself as well.
ORDER = [
    ("files", "heads", "initial", "dropout"),
    ("model", "metrics"),
    ("text",),
    ("formats",),
    ("checkpoint",),
    ("data", "training"),
    ("utils",),
    TASKS,
    ("demo", "tune", "report", "benchmarks"),
]
LEVEL = {room: number for number, rooms in enumerate(ORDER) for room in rooms}
FILES = [*ROOT.glob("*.py"), *(path for wing in (*WINGS, "benchmarks") for path in (ROOT / wing).glob("*.py"))]
TESTS = [*(ROOT / "tests").rglob("*.py")]


def name_of(path):
    """text/cache.py is text.cache, text/__init__.py is text."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in FILES}


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def imports(path):
    """(line, name of one of our files) for each import, those inside functions too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in NAMES else node.module for name in inner]
        else:
            continue
        # benchmarks import each other as scripts do, without their folder's name
        beside = [f"benchmarks.{name}" if path.parent.name == "benchmarks" and f"benchmarks.{name}" in NAMES
                  and name not in NAMES else name for name in found]  # fmt: skip
        yield from ((node.lineno, name) for name in dict.fromkeys(beside) if name in NAMES)


def importers(*modules):
    """The files that import one of these modules, or something of it."""
    return {name_of(path) for path in FILES for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
            if name and name.split(".")[0] in modules}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path):
    own = name_of(path).split(".")[0]
    for line, name in imports(path):
        room = name.split(".")[0]
        within = room == own and own in (*WINGS, "benchmarks")
        assert within or LEVEL[room] < LEVEL[own], f"{path.name}:{line}: {own} must not import {name}"


def test_no_files_import_each_other_in_a_circle():
    arrows = {name_of(path): {name for _, name in imports(path)} - {name_of(path)} for path in FILES}
    while free := [name for name, theirs in arrows.items() if not theirs & set(arrows)]:
        for name in free:
            del arrows[name]
    assert not arrows, f"in a circle, or above one: {sorted(arrows)}"


def test_the_network_and_the_scores_stand_almost_alone():
    """For whoever takes one of these files away, as the README says."""
    network = {"model", "heads", "initial", "dropout"}
    assert {name for room in network for _, name in imports(ROOT / f"{room}.py")} <= network
    assert {name.split(".")[0] for _, name in imports(ROOT / "metrics.py")} <= {"files"}


def test_the_network_needs_torch_alone():
    """numpy, by which dropout.py is faster on CPUs, may be missing."""
    code = """
import sys
sys.modules["numpy"] = None
import torch, model
x = model.MLMTask(model.BertConfig(50, 32, 1, 2))(torch.ones(2, 8, dtype=torch.int64))
assert x.shape == (2, 8, 50)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)


def test_text_knows_neither_network_nor_scores():
    rooms = {name.split(".")[0] for path in (ROOT / "text").glob("*.py") for _, name in imports(path)}
    assert rooms <= {"text", "files", "heads"}


def test_the_libraries_of_vocabularies_are_imported_in_one_file():
    found = importers("torchtext", "sentencepiece")
    assert {name for name in found if not name.startswith("benchmarks")} == {"text.subwords"}


def test_no_pickle_of_a_stranger_is_run():
    """What is read is read by classes of our own (SECURITY.md); cache.py's are its own process's."""
    calls = {(name_of(path), ast.unparse(node.func)) for path in FILES for node in ast.walk(tree_of(path))
             if isinstance(node, ast.Call)}  # fmt: skip
    wanted = ("torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler")
    assert {call for call in calls if call[1] in wanted} == {("text.cache", "pickle.loads")}
    assert importers("pickle", "marshal", "shelve") == {"text.cache", "files.torch_zip", "formats.torchtext_files"}
    assert not [path for path in FILES for node in ast.walk(tree_of(path))
                if isinstance(node, ast.keyword) and node.arg == "allow_pickle"]  # fmt: skip


def test_files_are_written_whole_or_not_at_all():
    """By `atomic_write`, or into a folder that gets its name when it is full (`atomic_folder`, `build_once`), or as a part
    that is renamed; locks, the mark of a cache and a log that grows have nothing to lose."""
    def writes(call):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        modes = map(ast.unparse, (*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")))
        return name in ("write_text", "write_bytes") or (name == "open" and re.search("'[wax]", " ".join(modes)))

    found = {name_of(path) for path in FILES if path.parent.name != "benchmarks" for node in ast.walk(tree_of(path))
             if isinstance(node, ast.Call) and writes(node)}  # fmt: skip
    assert found == {"files.archives", "files.downloads", "text.cache", "text.sample", "text.vocabularies",
                     "formats.vocabularies", "data", "training.beginning", "tune"}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_import_inside_a_function_is_there_for_start_up_time_and_says_so(path):
    """What is optional, and so missing on some machines, is imported where it is used without a word."""
    lines = path.read_text().splitlines()
    inner = [node for function in ast.walk(tree_of(path)) if isinstance(function, ast.FunctionDef)
             for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    for node in inner:
        module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        if module.split(".")[0] in LEVEL or module in ("torch", "numpy", "tqdm"):
            assert "start-up" in lines[node.lineno - 1], f"{path.name}:{node.lineno}"


def test_nothing_is_committed_that_gitignore_leaves_out():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    process = subprocess.run("git ls-files -ci --exclude-standard".split(), cwd=ROOT, capture_output=True, text=True)
    if process.returncode:
        pytest.skip(f"git does not look into it: {process.stderr}")
    assert process.stdout == ""


def test_at_the_top_lies_what_one_runs_or_reads_first_and_no_more():
    top = {path.stem for path in ROOT.glob("*.py")}
    assert top == {room for rooms in ORDER for room in rooms} - {*WINGS, "benchmarks"}
    assert len(top) <= 15


@pytest.mark.parametrize("wing", WINGS)
def test_each_wing_says_who_may_import_whom(wing):
    assert "imports from" in re.sub(r"\bimport\b", "imports", ast.get_docstring(tree_of(ROOT / wing / "__init__.py")))


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_has_over_500_lines_and_no_class_over_200(path):
    assert len(path.read_text().splitlines()) <= 500
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 200, node.name


def offered():
    """(path, function or class) that another room of the house uses."""
    used = {}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module in NAMES:
                used.setdefault(node.module, set()).update(alias.name for alias in node.names)
        modules = {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in ast.walk(tree_of(path))
                   if isinstance(node, ast.ImportFrom) for alias in node.names
                   if f"{node.module}.{alias.name}" in NAMES}  # fmt: skip
        modules |= {alias.name: alias.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.Import)
                    for alias in node.names if alias.name in NAMES}  # fmt: skip
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                used.setdefault(modules[node.value.id], set()).add(node.attr)
    for path in FILES:
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in used.get(name_of(path), ()):
                yield path, node


@pytest.mark.parametrize("path, node", list(offered()), ids=lambda x: name_of(x) if isinstance(x, Path) else x.name)
def test_what_a_room_offers_to_others_says_what_it_is(path, node):
    assert ast.get_docstring(node) or node.end_lineno - node.lineno < 3


def untyped(function):
    """Parameters without a type, "return" among them where what comes back has none; a method's first one needs none."""
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
             if a is not None and a.annotation is None and a.arg not in ("self", "cls", "_")]  # fmt: skip
    return names + ["return"] * (function.returns is None and function.name != "__init__")


@pytest.mark.parametrize("path, node", list(offered()), ids=lambda x: name_of(x) if isinstance(x, Path) else x.name)
def test_what_a_room_offers_to_others_carries_types(path, node):
    if "benchmarks" in path.parts:
        pytest.skip("benchmarks are scripts")
    functions = [node] if isinstance(node, ast.FunctionDef) else [
        inner for inner in node.body if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")]  # fmt: skip
    missing = {function.name: names for function in functions if (names := untyped(function))}
    if isinstance(node, ast.ClassDef):  # its methods that only it calls need none
        elsewhere = "\n".join(other.read_text() for other in FILES if other != path)
        missing = {name: names for name, names in missing.items() if re.search(rf"\.{name}\(", elsewhere)}
    assert not missing, f"{path.name}: {missing}"
