"""Runs that survive: kill -9 at any moment, signals, damaged files, full disks. What a toy can tell: test_toy_runs.py.

Tiny models on toy text and toy questions; a resumed run must end with the weights of one that nothing disturbed.
"""

import contextlib
import copy
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys

import pytest
import torch
import toys
from conftest import ROOT, ended, needs_proc
from toys import saved

from training import sharding
from training.optimizer import make_optimizer
from training.ranks import Ranks

slow = pytest.mark.slow
TINY = "--nlayers 1 --emsize 32 --nhead 2 --batch-size 8 --bptt 64 --valid-examples 20 --log-interval 1".split()
MODELS = {"mlm": "mlm_bert.pt", "qa": "qa_model.pt"}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Text, questions, a vocabulary, and a cache for all runs. Gives the flags of each task."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(1)
    (folder / "books").mkdir()
    for number in range(3):
        (folder / "books" / f"{number}.txt").write_text("\n\n".join(toys.text(rng, 60) for _ in range(70)))
    (folder / "squad").mkdir()
    for split, seed in (("train", 1), ("dev", 2)):
        content = toys.as_json(toys.squad(seed, contexts=30))
        (folder / "squad" / f"{split}-v2.0.json").write_text(json.dumps({"version": "v2.0", **content}))
    (folder / "vocab.txt").write_text("\n".join(toys.letters().tokens))
    shared = f"--cache-dir {folder}/cache --dropout 0.1 --vocab {folder}/vocab.txt"
    return {
        "mlm": f"{shared} --dataset {folder}/books --tokenizer wordpiece",
        "qa": f"{shared} --dataset SQuAD2 --data-dir {folder} --tokenizer wordpiece --bert-model none --stride 16",
    }


@pytest.fixture
def command(data):
    """``command("mlm", "--steps 3")``: script and flags, and the environment to run them in."""

    def words(task, flags, **environment):
        return [str(ROOT / f"{task}_task.py"), *TINY, *data[task].split(), *flags.split()], {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests" / "killer"), **environment}  # fmt: skip

    return words


@pytest.fixture
def start(command, tmp_path):
    """``start("mlm", "--steps 3")`` starts the script in an empty folder, as the leader of a process group."""
    processes = contextlib.ExitStack()

    def call(task, flags, folder=tmp_path, environment=None, **options):
        words, environment = command(task, flags, **environment or {})
        return processes.enter_context(ended(subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True, **options,
        )))  # fmt: skip

    with processes:
        yield call


@pytest.fixture
def run(command, commands, tmp_path):
    """Run to the end; gives the output."""

    def call(task, flags, code=0, folder=tmp_path):
        words, environment = command(task, flags)
        done = commands.run(words, folder, environment, timeout=120)
        output = done.stdout + done.stderr
        assert done.returncode == code, output
        return output

    return call


def after_lines(process, count, number, whole_group=True):
    """Send a signal once ``count`` steps are told. Gives exit code and output."""
    lines, left = [], count
    for line in process.stdout:
        lines.append(line)
        left -= line.startswith("| epoch")
        if left == 0:
            (os.killpg if whole_group else os.kill)(process.pid, number)
            break
    lines += process.stdout.read()
    return process.wait(timeout=180), "".join(lines)


def bytes_that_differ(one, other):
    """Between the tensors of two state or model files, and in what they hold beside times."""
    one, other, count = torch.load(one, weights_only=True), torch.load(other, weights_only=True), 0
    for part in ("model", "body", "head"):
        assert one.get(part, {}).keys() == other.get(part, {}).keys()
        for name, tensor in one.get(part, {}).items():
            count += int((tensor.numpy().view("u1") != other[part][name].numpy().view("u1")).sum())
    if "optimizer" in one:
        for number, values in one["optimizer"]["state"].items():
            for name, value in values.items():
                count += int((value != other["optimizer"]["state"][number][name]).sum())
        losses = [[(step, values["loss"]) for step, _, values in content["state"]["history"]] for content in (one, other)]
        assert losses[0] == losses[1]
    return count


# kill -9


KILLS = ["fsync 1 state", "replace 2 state", "replace 3 state", "fsync 3 state", "replace 1 {model}", "lines 2", "lines 1"]


@needs_proc
@slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("task", MODELS)
def test_a_run_killed_again_and_again_ends_with_the_very_weights(start, run, tmp_path, task, ranks):
    flags = f"--steps 16 --save-minutes 1e-9 --seed 3 {f'--parallel DDP --world_size {ranks}' if ranks > 1 else ''}"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    run(task, flags, folder=whole)
    deaths = 0
    for kill in KILLS[::ranks]:  # in the middle of writing or renaming a file, or in the middle of a step
        point = kill.format(model=MODELS[task])
        environment = {} if kill.startswith("lines") else {"KILL": point}
        process = start(task, f"{flags} --resume", folder=killed, environment=environment)
        if environment:
            output, _ = process.communicate(timeout=180)
            code = process.returncode
        else:
            code, output = after_lines(process, int(kill.split()[1]), signal.SIGKILL)
        assert code in (-9, 137), output  # 137: of a rank, told by the process that started it
        deaths += 1
    run(task, f"{flags} --resume", folder=killed)
    differ = [bytes_that_differ(whole / name, killed / name) for name in (MODELS[task], f"runs/{task}/state.pt")]
    results = [json.loads((folder / "runs" / task / "result.json").read_text()) for folder in (whole, killed)]
    for result in results:
        for name in ("seconds", "validation_seconds", "tokens_per_second", "peak_memory_bytes"):
            del result[name]
    assert results[0] == results[1]
    assert not list(killed.rglob("*.tmp*"))
    print(f"{task}, {ranks} rank(s): {deaths} kills, {deaths} survived, bytes that differ: {sum(differ)}")
    assert differ == [0, 0]


# Signals


@slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_after_a_step_with_all_saved(start, run, tmp_path, number, code, ranks):
    flags = f"--steps 400 {f'--parallel DDP --world_size {ranks}' if ranks > 1 else ''}"
    left, output = after_lines(start("mlm", flags), 3, number, whole_group=number == signal.SIGINT)
    assert left == code, output
    told = re.search(r"stopped at step (\d+); go on with the same command and --resume", output)
    assert told and int(told[1]) == saved(tmp_path / "runs/mlm")["state"]["step"]
    assert output.count("stopped") == 1 and "Traceback" not in output and "leaked" not in output


@slow
def test_a_finished_run_that_goes_on_stops_as_any_other(start, run, tmp_path):
    run("mlm", "--steps 2")
    left, output = after_lines(start("mlm", "--steps 400 --resume"), 3, signal.SIGTERM)
    told = re.search(r"stopped at step (\d+); go on with the same command and --resume", output)
    assert left == 75 and told, output
    state = saved(tmp_path / "runs/mlm")["state"]
    assert state["step"] == int(told[1]) > 2 and not state["finished"]


# A full disk


@slow
def test_a_disk_that_fills_up_does_not_end_the_run(run, start, tmp_path):
    def limit():  # writing beyond this fails in the middle of torch.save; the first state, without moments, is smaller
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    run("mlm", "--steps 1 --optimizer adamw --log-dir warm-up")
    process = start("mlm", "--steps 6 --optimizer adamw", preexec_fn=limit)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert re.search(r"warning: the state of step 2 could not be saved \(.*\); the one in .* stays; the run", output)
    assert "End of training" in output and saved(tmp_path / "runs/mlm")["state"]["step"] == 0


# Flags


@pytest.fixture
def optimizer():
    """One that has a state."""
    layer = torch.nn.Linear(2, 3)
    layer.weight.grad, layer.bias.grad = torch.ones(3, 2), torch.ones(3)
    made = make_optimizer(layer, "adamw", 0.01)
    made.step()
    return layer, made


@pytest.mark.parametrize("newer", [{}, {"a_setting_to_come": True}], ids=["older", "newer"])
def test_the_optimizer_of_another_version_of_torch_is_taken_over(optimizer, newer):
    """A version adds settings of its own to the groups and drops others; ours are in all of them."""
    layer, own = optimizer
    state, names = copy.deepcopy(own.state_dict()), [set(group) for group in own.param_groups]
    for group in state["param_groups"]:
        del group["foreach"]
        group.update(newer, eps=1e-5)
    sharding.load_optimizer(layer, own, state, Ranks())
    assert [group["eps"] for group in own.param_groups] == [1e-5] * 3
    assert [set(group) for group in own.param_groups] == names
    layer.weight.grad = torch.ones(3, 2)
    own.step()
    assert own.state[layer.weight]["step"] == 2
    for name in ("betas", "muon"):
        damaged = copy.deepcopy(state)
        del damaged["param_groups"][0][name]
        with pytest.raises(ValueError, match="not that of this run"):
            sharding.load_optimizer(layer, own, damaged, Ranks())


@slow
@pytest.mark.parametrize("ranks", ["", "--parallel DDP --world_size 2"], ids=["one rank", "two ranks"])
def test_a_second_run_in_the_folder_is_told_and_a_killed_one_resumes_at_once(start, run, ranks):
    first = start("mlm", f"--steps 4000 {ranks}")
    assert any(line.startswith("| epoch") for line in first.stdout)
    if not ranks:  # once is enough: it waits a while, for those who are at work may be dying
        told = run("mlm", "--steps 3", code=2)
        assert re.fullmatch(r"error: --log-dir runs/mlm: another run is at work there .*choose another folder\n", told)
    first.kill()  # who started the ranks, which look once a second
    assert "resuming from" in run("mlm", f"--steps 3 --resume {ranks}")


@slow
def test_resuming_needs_the_flags_of_the_run(run, tmp_path):
    assert "nothing to resume" in run("mlm", "--steps 2 --resume")
    assert "--seed 9: the run in" in run("mlm", "--steps 2 --resume --seed 9", code=2)
    assert "belongs to a model of hidden_size 32, now 64" in run("mlm", "--steps 2 --resume --emsize 64", code=2)
    assert "End of training" in run("mlm", "--steps 4 --resume")
    assert saved(tmp_path / "runs/mlm")["state"]["step"] == 4


@slow
def test_a_refused_resume_leaves_the_vocabulary_that_is_there(run, tmp_path):
    (tmp_path / "other.txt").write_text("\n".join(toys.letters().tokens[:-1]))
    run("mlm", "--steps 2")
    before = (tmp_path / "bert_vocab.pt").read_bytes()
    run("mlm", "--steps 4 --vocab other.txt --resume", code=2)
    assert (tmp_path / "bert_vocab.pt").read_bytes() == before


@slow
@pytest.mark.parametrize("flags", ["", "--parallel DDP --world_size 2"], ids=["one rank", "two ranks"])
def test_a_run_without_finite_losses_goes_back_once_and_then_stops(run, tmp_path, flags):
    output = run("mlm", f"--steps 40 --lr 1e30 --optimizer adamw --precision fp32 {flags}", code=2)
    assert len(re.findall(r"^no finite loss in 5 steps .*: going back to step 0, on with 0.3", output, re.MULTILINE)) == 1
    again = r"^error: no finite loss in 5 .*, again.* --resume --optimizer adamw and a lower --lr"
    assert len(re.findall(again, output, re.MULTILINE)) == 1
    assert "Traceback" not in output and "Terminating" not in output and "leaked" not in output
    state = saved(tmp_path / "runs/mlm")
    assert state["state"]["lowered"] == 0.3 and all(weight.isfinite().all() for weight in state["model"].values())
