"""tune.py: trials that end well, badly and not at all, in one process or several; the last one with the real script.

Most of them run a stub in place of race_task.py, which writes what a run would write.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import toys
from conftest import ROOT, wait_until

import tune
from checkpoint import save_model
from files.mistakes import UserError
from model import BertConfig, RaceTask

optuna = pytest.importorskip("optuna")

STUB = '''
import json, os, pathlib, signal, sys, time
words = [part for word in sys.argv[1:] for part in word.split("=")]
flags = dict(zip(words[::2], words[1::2]))
folder = pathlib.Path(flags["--log-dir"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
def play(accuracies, pause=0.02):
    path = folder / "history.json"
    history = json.loads(path.read_text()) if path.exists() else []
    for step in range(len(history), len(accuracies)):
        time.sleep(pause)
        history.append([step, "valid", {"loss": 1.0, "accuracy": accuracies[step]}])
        path.with_suffix(".new").write_text(json.dumps(history))
        path.with_suffix(".new").rename(path)
        (folder / "model.pt").write_text("weights")
        (folder / "state.pt").write_text("state")
number, rate = int(folder.name), float(flags["--lr"])
'''
WRAPPER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import tune
tune.race_task.__file__ = {stub!r}
tune.run_main(tune.main)
"""
COMMON = "--bert-model none --size tiny".split()


@pytest.fixture
def study(tmp_path, monkeypatch):
    """``study(body, flags)`` runs tune.py in this process with a stub of this body; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    def call(body, trials, *flags, task_flags=()):
        (tmp_path / "stub.py").write_text(STUB + body)
        monkeypatch.setattr(tune.race_task, "__file__", str(tmp_path / "stub.py"))
        monkeypatch.setattr(sys, "argv", ["tune.py", "race", "--trials", str(trials), *flags, "--", *COMMON, *task_flags])
        return tune.main()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def process(tmp_path):
    """``process(body, trials)`` starts tune.py in a process of its own, and group, with a stub of this body."""
    started = []

    def start(body, trials, **variables):
        (tmp_path / "stub.py").write_text(STUB + body)
        (tmp_path / "wrapper.py").write_text(
            WRAPPER.format(root=str(ROOT), tests=str(ROOT / "tests"), stub=str(tmp_path / "stub.py"))
        )
        command = [sys.executable, "wrapper.py", "race", "--trials", str(trials), "--", *COMMON]
        started.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        env={**os.environ, **variables}))  # fmt: skip
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def trials(folder):
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/tune.db")
    return optuna.load_study(study_name="race", storage=storage).trials


def states(folder):
    return [trial.state.name for trial in trials(folder)]


def is_left(folder):
    """Does neither tune.py nor a run hold the trial's lock any more?"""
    lock = tune.claim(folder)
    if lock:
        lock.close()
    return lock is not None


def test_the_best_trial_by_its_best_validation_ends_the_output_as_a_command_and_keeps_its_weights(study, tmp_path, capsys):
    assert study("play([25.0, 40.0 + number % 3, 30.0])", 5) == 0
    lines = capsys.readouterr().out.splitlines()
    values = [trial.value for trial in trials(tmp_path)]
    assert values == [40.0, 41.0, 42.0, 40.0, 41.0]
    assert "best: trial 2, accuracy 42 " in lines[-2]
    *command, = shlex.split(lines[-1])
    assert command[0] == "python" and command[2:6] == COMMON
    flags = dict(zip(command[2::2], command[3::2], strict=True))
    params = trials(tmp_path)[2].params
    assert flags["--head"] == params.pop("head")
    assert {name: float(flags[f"--{name}"]) for name in params} == pytest.approx(params, rel=0.01)
    assert [path.parent.name for path in sorted(tmp_path.rglob("*.pt"))] == ["00002"]
    assert (tmp_path / "runs/tune/race/00002/model.pt").exists()
    table = [line.split() for line in lines if line[:6].strip().isdigit()]
    assert [row[0] for row in table] == ["2", "1", "4", "0", "3"]


def test_the_first_trial_has_the_flags_of_the_task_and_given_ones_stay(study, tmp_path):
    study("play([1.0])", 2, task_flags=("--warmup=0.2", "--batch-size", "7"))
    first, second = (trial.params for trial in trials(tmp_path))
    assert first == {"lr": pytest.approx(4e-4), "dropout": 0.0, "head": "dcmn"}
    assert set(second) == set(first) and second["lr"] != first["lr"]


def test_the_head_of_a_whole_model_is_not_searched(tmp_path):
    save_model(tmp_path / "model.pt", RaceTask(BertConfig(len(toys.letters()), 8, 1, 1, head="duma")), toys.letters())
    for flag, heads in (("--checkpoint", None), ("--bert-model", "dcmn")):
        args = tune.race_task.arguments([flag, str(tmp_path / "model.pt")])
        assert tune.search_space("race", args, set())[1].get("head") == heads


def test_what_the_minutes_decided_is_said_to_the_trials_and_a_head_that_is_said_is_not_searched(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["--bert-model", "none", "--minutes", "5"]
    assert tune.decided("qa", tune.task_arguments("qa", words), words) == [*words, "--optimizer", "muon"]
    trained = ["--checkpoint", "race_model.pt", *words[2:]]  # the model says how it reads
    assert tune.decided("race", tune.task_arguments("race", trained), trained) == trained
    words += ["--compare-options"]
    args = tune.task_arguments("race", words)
    assert tune.decided("race", args, words) == [*words, "--bptt", "128"]
    assert "head" not in tune.search_space("race", args, tune.given_flags(words))[0]


def test_a_bad_trial_is_stopped(study, tmp_path, capsys):
    study("play([60.0] * 3) if number < 5 else play([50.0] * 200, 0.5)", 6)
    assert states(tmp_path) == ["COMPLETE"] * 5 + ["PRUNED"]
    assert 2 <= len(trials(tmp_path)[5].intermediate_values) < 20
    assert re.search(r"trial 5: stopped after validation \d+, accuracy 50 ", capsys.readouterr().out)


def test_a_run_that_fails_costs_one_trial_and_is_named(study, tmp_path, capsys):
    study("if number == 1: sys.exit('error: no memory')\nif number == 2: os.kill(os.getpid(), 9)\nplay([50.0])", 4)
    assert states(tmp_path) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    output = capsys.readouterr().out
    assert "trial 1: failed, exit code 1: error: no memory; see runs/tune/race/00001/log.txt" in output
    assert "trial 2: failed, ended by SIGKILL" in output and "2 failed (trial 1, trial 2)" in output


def test_a_run_without_a_finite_score_has_failed(study, tmp_path):
    study("play([float('nan')] if number else [50.0])", 2)
    assert states(tmp_path) == ["COMPLETE", "FAIL"]


def test_when_all_fail_it_stops(study, tmp_path):
    with pytest.raises(UserError, match=r"3 trials failed.*00002/log\.txt"):
        study("sys.exit(2)", 10)
    assert states(tmp_path) == ["FAIL"] * 3


def test_trials_are_counted_over_all_runs_and_another_study_is_not_mixed_in(study, tmp_path, capsys):
    study("play([50.0])", 2)
    study("sys.exit(1)", 2)  # nothing left to do
    assert "2 trials: 2 came to their end" in capsys.readouterr().out
    study("play([60.0])", 3)
    assert [trial.value for trial in trials(tmp_path)] == [50.0, 50.0, 60.0]
    with pytest.raises(UserError, match="the study race has flags"):
        study("play([50.0])", 4, task_flags=("--steps", "9"))
    with pytest.raises(UserError, match="the study race has log_dir"):
        study("play([50.0])", 4, "--log-dir", "elsewhere")
    with pytest.raises(UserError, match="holds the trials of another study"):
        study("play([50.0])", 4, "--storage", "sqlite:///other.db")


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on_with_the_same_trials(process, tmp_path):
    body = "play([50.0 + number] * 4, 0.5 if number == 2 else 0.02)"
    first = process(body, 5)
    wait_until(lambda: (tmp_path / "runs/tune/race/00002/history.json").exists())
    first.kill()
    first.communicate()
    before = trials(tmp_path)
    assert [trial.state.name for trial in before] == ["COMPLETE"] * 2 + ["RUNNING"]
    output, _ = (second := process(body, 5)).communicate()
    assert second.returncode == 0, output
    after = trials(tmp_path)
    assert [trial.state.name for trial in after] == ["COMPLETE"] * 5
    assert [trial.params for trial in after[:3]] == [trial.params for trial in before]
    assert "trial 2 was interrupted; it goes on" in output and "best: trial 4" in output
    assert after[2].intermediate_values == dict.fromkeys(range(4), 52.0)


@pytest.mark.slow
def test_two_tasks_of_slurm_share_a_study_and_a_trial_is_only_run_once(process, tmp_path):
    body = """
if any(name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE") for name in os.environ): sys.exit(1)
(folder / f"run-{os.getpid()}").touch()
play([50.0 + number] * 2, 0.2)
"""
    place = dict(SLURM_STEP_NUM_TASKS="2", SLURM_STEP_ID="0", RANK="1", WORLD_SIZE="2")
    both = [process(body, 7, SLURM_PROCID=str(number), **place) for number in range(2)]
    outputs = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], outputs
    assert states(tmp_path) == ["COMPLETE"] * 7
    assert all(len(list(folder.glob("run-*"))) == 1 for folder in (tmp_path / "runs/tune/race").glob("0*"))
    assert any("7 trials: 7 came to their end" in output and "best: trial 6" in output for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_told_to_stop_it_stops_the_run_and_leaves_the_trial_to_the_next(process, study, tmp_path, number, code):
    one = process("play([50.0] * 50, 0.1)", 2)
    wait_until(lambda: (tmp_path / "runs/tune/race/00000/history.json").exists())
    one.send_signal(number)
    output, _ = one.communicate(timeout=30)
    assert one.returncode == code and "stopped with 0 of 2 trials; go on with the same command" in output
    assert study("play([50.0] * 3)", 2) == 0
    assert states(tmp_path) == ["COMPLETE"] * 2


@pytest.mark.parametrize(("words", "message"), [
    (["race", "--storage", "tune.db"], "--storage tune.db: not a URL; write sqlite:///tune.db"),
    (["race", "--storage", "sqlite:////gone/tune.db", "--", "--bert-model", "none"], "--storage sqlite:////gone/tune.db: "),
    (["race", "--storage", "mysql+gone://x/y", "--", "--bert-model", "none"], "--storage mysql\\+gone://x/y: "),
    (["race", "--log-dir", "/dev/null/x", "--", "--bert-model", "none"], "--log-dir /dev/null/x: cannot be written"),
    (["race", "--", "--save", "x.pt"], "--save after --: each trial has its own"),
    (["race", "--", "--bert-model", "gone.pt"], "gone.pt: no such file; name another by --bert-model"),
    (["race", "--", "--bert-model", "none", "--evaluate"], "--evaluate after --"),
])  # fmt: skip
def test_a_mistake_is_one_line(monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tune.py", *words])
    with pytest.raises(UserError, match=message) as error:
        tune.main()
    assert "\n" not in str(error.value)


def test_an_unknown_flag_of_the_task_is_told_before_any_trial(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tune.py", "race", "--", "--emsiz", "3"])
    with pytest.raises(SystemExit) as stop:
        tune.main()
    assert stop.value.code == 2 and "did you mean --emsize?" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_without_optuna_one_line_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(sys, "argv", ["tune.py", "race", "--", "--bert-model", "none"])
    with pytest.raises(UserError, match=r"^tune\.py needs optuna; install it with: pip install optuna$"):
        tune.main()


@pytest.mark.slow
def test_real_trials_resume_after_kill_9_and_the_command_printed_repeats_the_best(run_script, tmp_path):
    for split in ("train", "dev", "test"):
        toys.write_articles(tmp_path / "set" / split, toys.articles(count=12, words=40))
    (tmp_path / "vocab.txt").write_text("\n".join(toys.letters().tokens))
    words = "--dataset set --vocab vocab.txt --bert-model none --nlayers 1 --emsize 32 --bptt 64 --steps 5"
    command = ["tune.py", "race", "--trials", "2", "--", *words.split()]
    first = subprocess.Popen([sys.executable, str(ROOT / command[0]), *command[1:]], cwd=tmp_path)
    try:
        wait_until(lambda: (tmp_path / "runs/tune/race/00001/history.json").exists(), 240)
    finally:
        first.kill()
        first.wait()
    wait_until(lambda: is_left(tmp_path / "runs/tune/race/00001"), 240)  # the run is told to leave, and saves its state
    assert states(tmp_path)[0] == "COMPLETE" and states(tmp_path)[1] in ("RUNNING", "COMPLETE")
    output = run_script(*command, cwd=tmp_path).stdout
    done = trials(tmp_path)
    assert [trial.state.name for trial in done] == ["COMPLETE"] * 2
    assert all(len(trial.intermediate_values) == 5 for trial in done)
    assert not list((tmp_path / "runs/tune").rglob("result.json"))  # the test split was not looked at
    best = max(done, key=lambda trial: trial.value)
    shutil.rmtree(tmp_path / "runs/tune")
    repeated = shlex.split(output.splitlines()[-1])
    assert f"best: trial {best.number}" in output
    run_script("race_task.py", *repeated[2:], cwd=tmp_path)
    history = json.loads((tmp_path / "runs/race/history.json").read_text())
    assert [values["accuracy"] for _, kind, values in history if kind == "valid"] == list(best.intermediate_values.values())
