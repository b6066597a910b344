"""What is looked at before a run begins: places that cannot be written, and a folder in which another run is at work."""

import fcntl
import os
import signal
import subprocess
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
from conftest import ROOT, wait_until

from files.mistakes import UserError
from files.writing import check_writable
from training import beginning
from training.ranks import Ranks


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file.txt").write_text("what there is")
    return tmp_path


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(beginning, "DYING", 0)
    monkeypatch.setattr(beginning, "LOST", 0)


# Places


@pytest.mark.parametrize("task", ["mlm", "ns", "qa", "race"])
def test_what_is_read_is_not_overwritten(run_script, folder, task):
    flags = "--predict file.txt --output ./file.txt --bert-model gone.pt"
    error = run_script(f"{task}_task.py", *flags.split(), code=2).stderr
    assert error == "error: file.txt: is what is read, and would be overwritten; name another --output\n"
    assert (folder / "file.txt").read_text() == "what there is"


@pytest.mark.parametrize("path, reason", [
    ("file.txt/model.pt", "Not a directory"), ("", "is a folder"), ("x" * 300, "File name too long"),
    ("/proc/nowhere/model.pt", "cannot be written"),
])  # fmt: skip
def test_a_place_that_cannot_be_written_is_one_line(folder, path, reason):
    with pytest.raises(UserError, match=reason) as error:
        check_writable(folder / path)
    assert "\n" not in str(error.value)


def test_trying_a_place_changes_and_leaves_nothing(folder):
    for path in ("file.txt", "new.pt", "new/folder/model.pt"):
        check_writable(folder / path)
    assert [path.name for path in folder.iterdir()] == ["file.txt"] and (folder / "file.txt").read_text() == "what there is"


@pytest.mark.parametrize("task, flags, named", [
    ("mlm", "--save file.txt/x.pt --dataset nowhere", "file.txt/x.pt"),
    ("mlm", "--log-dir file.txt --dataset nowhere", "file.txt"),
    ("qa", "--predict gone.json --output file.txt/x.json --bert-model gone.pt", "file.txt/x.json"),
    ("ns", "--evaluate --log-dir file.txt --bert-model gone.pt", "file.txt/evaluation.json"),
    ("race", "--predict gone --output file.txt/x.json --bert-model gone.pt", "file.txt/x.json"),
])  # fmt: skip
def test_what_a_run_will_write_is_tried_before_anything_is_loaded(run_script, folder, task, flags, named):
    error = run_script(f"{task}_task.py", *flags.split(), code=2).stderr
    assert error.startswith(f"error: {named}: cannot be written (") and error.count("\n") == 1


# One run in a folder


def train(folder, **flags):
    """A run in this folder that only looks whether it may begin."""
    usual = dict(log_dir=str(folder / "run"), save=str(folder / "x.pt"), evaluate=False, predict=None, precision="fp32",
                 parallel="None", optimizer="adamw", compile="auto", dataset="RACE", checkpoint=None,
                 bert_model=None)  # fmt: skip
    return beginning.in_its_place(lambda args, ranks: "begun")(Namespace(**{**usual, **flags}), Ranks())


def test_a_second_run_in_a_folder_is_told_in_one_line_and_may_begin_when_the_first_has_ended(folder, impatient):
    with beginning.alone(folder / "run"):
        with pytest.raises(UserError, match=r"^--log-dir .*run: another run is at work there .*choose another folder$"):
            train(folder)
        with beginning.alone(folder / "other"):
            pass
    assert train(folder) == "begun"


def test_two_runs_do_not_save_their_models_as_one_file(folder, impatient):
    with beginning.only_writer(folder / "x.pt"):
        with pytest.raises(UserError, match=r"^--save .*x.pt: another run writes it .*choose another name$"):
            train(folder)
        assert train(folder, save=str(folder / "y.pt")) == "begun"
    assert train(folder) == "begun"


@pytest.mark.parametrize("flags, told", [
    (dict(dataset="Sample"), False), (dict(bert_model="m.pt"), False), (dict(dataset="Sample", bert_model="none"), False),
    (dict(dataset="Sample", bert_model="m.pt"), True), (dict(dataset="Sample", checkpoint="m.pt"), True),
    (dict(dataset="Sample", bert_model="m.pt", evaluate=True), False),
])  # fmt: skip
def test_a_model_that_goes_on_with_the_embedded_set_is_told(folder, monkeypatch, capsys, flags, told):
    monkeypatch.setattr("files.mistakes.TOLD", set())
    monkeypatch.chdir(folder)
    (folder / "m.pt").touch()
    assert train(folder, **flags) == "begun"
    assert ("note: training on Sample, the embedded data set" in capsys.readouterr().err) is told


@pytest.mark.parametrize("flags, named", [
    (dict(optimizer="muon"), "--optimizer muon"), (dict(compile="on"), "--compile on"),
    (dict(precision="fp16"), "--precision fp16"),
])  # fmt: skip
def test_flags_that_exclude_each_other_are_told_before_anything_is_loaded(monkeypatch, flags, named):
    monkeypatch.setattr(Ranks, "sum", lambda ranks, *values: values)
    args = Namespace(**{**dict(parallel="FSDP", optimizer="adamw", compile="auto", precision="fp32"), **flags})
    with pytest.raises(UserError, match=named):
        beginning.in_its_place(lambda args, ranks: "begun")(args, Ranks(1, 2))


HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from files.locks import hold
stream = open({path!r}, "a")
print(hold(stream), flush=True)
time.sleep(100)
"""


def test_the_lock_dies_with_its_process(folder, impatient):
    (folder / "run").mkdir()
    script = HOLDER.format(root=str(ROOT), path=str(folder / "run/lock"))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    with pytest.raises(UserError, match="another run is at work"):
        train(folder)
    process.kill()
    process.wait()
    assert train(folder) == "begun"


WORKS = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from text.vocabularies import _in_a_process
from training.beginning import alone

def work(path):
    Path(path).touch()
    time.sleep(30)

with alone(Path({path!r})):
    _in_a_process(work, {path!r} + "/begun")
"""


def test_what_a_killed_run_has_begun_does_not_hold_its_locks(folder, impatient):
    script = WORKS.format(root=str(ROOT), path=str(folder / "run"))
    process = subprocess.Popen([sys.executable, "-c", script])
    wait_until((folder / "run/begun").exists)
    with pytest.raises(UserError, match="another run is at work"):
        train(folder)
    process.kill()
    process.wait()
    assert train(folder) == "begun"


def test_a_run_waits_a_moment_for_one_that_is_dying(folder, monkeypatch):
    monkeypatch.setattr(beginning, "DYING", 60)
    (folder / "run").mkdir()
    stream = open(folder / "run/lock", "a")  # noqa: SIM115
    fcntl.flock(stream, fcntl.LOCK_EX)
    signal.signal(signal.SIGALRM, lambda *_: stream.close())
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        assert train(folder) == "begun"
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_a_folder_whose_lock_is_handed_on_is_the_runs_own(folder, impatient, monkeypatch):
    with beginning.alone(folder / "run"):
        monkeypatch.setenv(beginning.HANDED_ON, str(folder / "run"))
        assert train(folder) == "begun"


@pytest.mark.parametrize("missing", ["no fcntl", "no locks"])
def test_where_there_are_no_locks_a_run_begins_without(folder, impatient, monkeypatch, missing):
    if missing == "no fcntl":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    with beginning.alone(folder / "run"):
        assert train(folder) == "begun"


def no_locks(*_):
    raise OSError(37, os.strerror(37))


def test_only_the_first_rank_looks(folder, impatient):
    with beginning.alone(folder / "run"):
        args = Namespace(log_dir=str(folder / "run"), precision="fp32", parallel="DDP")
        assert beginning.in_its_place(lambda args, ranks: "begun")(args, Ranks(1, 2)) == "begun"


@pytest.mark.parametrize("changes, told", [
    ({}, ""), ({"batch_size": 1}, "of 2 ranks some have nothing to do"), ({"epochs": 2}, ""),
    ({"epochs": 2, "number": 12}, "200 examples: 12 steps in 2 epochs"), ({"steps": 12, "number": 12}, ""),
    ({"epochs": 2, "number": 12, "checkpoint": "m.pt"}, ""),
])  # fmt: skip
def test_sizes_that_are_hardly_meant_are_told(capsys, changes, told):
    given = {"batch_size": 16, "epochs": None, "steps": None, "checkpoint": None, "number": 1000, **changes}
    number = given.pop("number")
    beginning.tell_of_sizes(Namespace(**given), 200, number, SimpleNamespace(world=2, queued=False))
    error = capsys.readouterr().err
    assert told in error and bool(told) == bool(error)


def test_gpus_that_get_a_few_rows_each_are_told(capsys):
    args = Namespace(batch_size=16, epochs=None, steps=None, checkpoint=None)
    beginning.tell_of_sizes(args, 10**6, None, SimpleNamespace(world=16, queued=True))
    assert "is of all 16 GPUs together" in capsys.readouterr().err
