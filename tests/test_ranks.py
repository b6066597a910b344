"""Many ranks, however they were started: one run's figures, one failure's message, Slurm's and torchrun's variables."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import toys
from conftest import ROOT, ended, needs_proc

from files.mistakes import UserError
from model import BertConfig, MLMTask
from text.questions import Article
from training import ranks, slurm, stopping
from training.optimizer import make_optimizer

slow = pytest.mark.slow
TINY = ("--nlayers 1 --emsize 32 --nhead 2 --batch-size 12 --bptt 64 --valid-examples 20 --log-interval 1 --dropout 0 "
        "--precision fp32").split()  # fmt: skip


@pytest.fixture(scope="session")
def books(tmp_path_factory):
    """A corpus whose examples no number of ranks divides, and a vocabulary."""
    folder, rng = tmp_path_factory.mktemp("books"), random.Random(1)
    for number in range(3):
        (folder / f"{number}.txt").write_text("\n\n".join(toys.text(rng, 60) for _ in range(40)))
    (folder / "vocab").write_text("\n".join(toys.letters().tokens))
    return f"--dataset {folder} --tokenizer wordpiece --vocab {folder}/vocab --cache-dir {folder}/cache"


@pytest.fixture
def train(books, run_script, tmp_path):
    """``train("name", "--steps 3")`` runs mlm_task.py with its logs in tmp_path/name; gives the finished process."""

    def call(name, flags, code=0, **environment):
        flags = [*TINY, *books.split(), "--log-dir", name, "--save", f"{name}.pt", *flags.split()]
        return run_script("mlm_task.py", *flags, code=code, OMP_NUM_THREADS="1", **environment)

    call.losses = lambda name: [
        values["loss"]
        for _, kind, values in torch.load(tmp_path / name / "state.pt", weights_only=True)["state"]["history"]
        if kind == "train"
    ]
    call.result = lambda name, file="result": json.loads((tmp_path / name / f"{file}.json").read_text())
    return call


# One run's figures


@slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_engines_and_numbers_of_ranks_give_one_curve_and_the_same_scores(train, optimizer):
    ways = {1: "", 2: "--parallel DDP --world_size 2", 4: "--parallel DDP --world_size 4",
            "ZeRO": "--parallel ZeRO --world_size 2", "FSDP": "--parallel FSDP --world_size 2"}  # fmt: skip
    if optimizer == "muon":
        del ways["FSDP"], ways[4]
    for way, flags in ways.items():
        train(str(way), f"--epochs 2 --optimizer {optimizer} {flags}")
        result = train.result(str(way))
        print(way, f"last loss {train.losses(str(way))[-1]:.7f}, test loss {result['test_loss']:.7f}, "
              f"{result['tokens_per_second']:.0f} tokens/s")  # fmt: skip
    for way, flags in ways.items():
        assert train.losses(str(way)) == pytest.approx(train.losses("1"), abs=1e-5), way
        assert train.result(str(way))["tokens"] == train.result("1")["tokens"]  # every example once an epoch
        if optimizer == "adamw":  # scoring knows none
            train(f"score{way}", f"--evaluate --bert-model 1.pt {flags}")
            assert train.result(f"score{way}", "evaluation")["test_loss"] == train.result("1")["test_loss"]


def muon_steps(rank, world, dtype, folder):
    """Three steps of Muon with the same gradients on every rank; rank 0 leaves the weights in ``folder``."""
    torch.set_num_threads(1)
    if world > 1:
        store = torch.distributed.FileStore(f"{folder}/store{world}{dtype}", world)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.manual_seed(0)
    sizes = dict(hidden_size=23, num_hidden_layers=3, num_attention_heads=1, intermediate_size=37)  # odd numbers of bytes
    model = MLMTask(BertConfig(vocab_size=50, **sizes))
    optimizer = make_optimizer(model, "muon", 0.01, dtype, shared=world > 1)
    assert optimizer.param_groups[0]["muon"] and len(optimizer.param_groups[0]["params"]) == 12
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    if rank == 0:
        torch.save(model.state_dict(), f"{folder}/{world}{dtype}")
    if world > 1:
        torch.distributed.barrier()  # a process that ends while others still speak to it may abort
        torch.distributed.destroy_process_group()


@slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_that_divide_muons_products_get_the_bits_that_one_gets(tmp_path, dtype):
    for world in (1, 2, 3):
        torch.multiprocessing.spawn(muon_steps, (world, dtype, str(tmp_path)), nprocs=world)
    one, *others = (torch.load(tmp_path / f"{world}{dtype}", weights_only=True) for world in (1, 2, 3))
    assert all(torch.equal(one[name], other[name]) for other in others for name in one)


@slow
@pytest.mark.parametrize("engine, optimizer", [("ZeRO", "muon"), ("FSDP", "adamw")])
def test_sharded_runs_resume_with_another_engine_as_well(train, tmp_path, engine, optimizer):
    flags = f"--optimizer {optimizer}"
    train("whole", f"--steps 8 {flags}")
    train("parts", f"--steps 8 {flags} --parallel {engine} --world_size 2 --save-minutes 1e-9")
    assert train.losses("parts") == pytest.approx(train.losses("whole"), abs=1e-5)
    os.replace(tmp_path / "parts/state-before.pt", tmp_path / "parts/state.pt")  # after step 8 and its validation
    saved = torch.load(tmp_path / "parts/state.pt", weights_only=True)
    whole = torch.load(tmp_path / "whole/state.pt", weights_only=True)
    for number, values in whole["optimizer"]["state"].items():
        for name, value in values.items():
            same = saved["optimizer"]["state"][number][name]
            torch.testing.assert_close(same.view_as(value), value, atol=1e-4, rtol=1e-3)
    for again, other in (("one", ""), ("two", f"--parallel {engine} --world_size 2")):
        (tmp_path / again).mkdir()
        (tmp_path / again / "state.pt").write_bytes((tmp_path / "parts/state.pt").read_bytes())
        output = train(again, f"--steps 10 {flags} --resume --save parts.pt {other}").stdout
        assert "resuming from" in output and len(train.losses(again)) == 10
    assert train.losses("one") == pytest.approx(train.losses("two"), abs=1e-5)


@slow
def test_fsdp_says_that_muon_needs_whole_matrices(train):
    error = train("a", "--steps 2 --optimizer muon --parallel FSDP --world_size 2", code=2).stderr
    assert error.startswith("error: --optimizer muon") and error.count("\n") == 1


@slow
def test_fsdp_scores_articles_of_unequal_lengths_window_by_window(run_script, tmp_path):
    rng = random.Random(2)
    articles = [Article(f"high{n}.txt", toys.text(rng, 1 + 60 * n), ["who ?"], [list("abcd")], [0]) for n in range(5)]
    for split in ("train", "dev", "test"):
        toys.write_articles(tmp_path / "RACE" / split, articles)
    (tmp_path / "vocab").write_text("\n".join(toys.letters().tokens))
    for name, flags in (("one", ""), ("two", "--parallel FSDP --world_size 2")):
        words = [*TINY, "--dataset", "RACE", "--tokenizer", "wordpiece", "--vocab", "vocab", "--bert-model", "none",
                 "--data-dir", ".", "--cache-dir", "cache", "--batch-size", "2", "--steps", "2"]  # fmt: skip
        run_script("race_task.py", *words, "--log-dir", name, "--save", f"{name}.pt", *flags.split(), OMP_NUM_THREADS="1")
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert one["test_loss"] == pytest.approx(two["test_loss"], abs=1e-5) and one["total"] == two["total"] == 5
    told = [json.loads((tmp_path / name / "settings.json").read_text()) for name in ("one", "two")]
    assert told[0]["parameters"] == told[1]["parameters"]  # of the whole model, not of a rank's part


# One failure's message


def long_run(books, folder, ranks):
    words = f"{books} --epochs 500 --parallel DDP --world_size {ranks}".split()
    return subprocess.Popen(
        [sys.executable, str(ROOT / "mlm_task.py"), *TINY, *words], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@needs_proc
@slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_takes_the_others_down(books, tmp_path, victim):
    with ended(long_run(books, tmp_path, 3)) as process:
        assert any(line.startswith("| epoch") for line in process.stdout)
        os.kill(rank_processes(process.pid)[victim], signal.SIGKILL)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 137
    assert f"error: SIGKILL ended the process of local rank {victim}" in error and "Traceback" not in error


@needs_proc
@slow
def test_a_rank_that_waits_for_ever_ends_at_a_second_sigterm(books, tmp_path):
    with ended(long_run(books, tmp_path, 2)) as process:
        assert any(line.startswith("| epoch") for line in process.stdout)
        os.kill(rank_processes(process.pid)[1], signal.SIGSTOP)  # so the other waits for it
        process.terminate()
        time.sleep(2 * stopping.AGAIN)
        assert process.poll() is None
        process.terminate()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 75 and error.count("error: a second SIGTERM: ended at once") == 1, error


def rank_processes(parent):
    """The ranks in their order: children of ``parent``, but for Python's own helper."""
    numbers = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return [number for number in numbers if "spawn_main" in Path(f"/proc/{number}/cmdline").read_text()]


LAUNCHED = """
import sys, time
sys.path.insert(0, {root!r})
from argparse import Namespace
from files.mistakes import UserError, run_main
from training.ranks import launch

def work(args, ranks):
    ranks.gather(None)
{work}
    ranks.gather(None)

if __name__ == "__main__":
    run_main(lambda: launch(work, Namespace(parallel="DDP", {options})))
"""


@pytest.fixture
def started(tmp_path):
    """``started(work, world_size=2)``: a script whose ranks do these lines between two gathers, and its process."""
    processes = contextlib.ExitStack()

    def start(work, **options):
        lines, words = textwrap.indent(work, "    "), ", ".join(f"{name}={value}" for name, value in options.items())
        (tmp_path / "script.py").write_text(LAUNCHED.format(root=str(ROOT), work=lines, options=words))
        return processes.enter_context(ended(subprocess.Popen(
            [sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )))  # fmt: skip

    with processes:
        yield start


@slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_bug_in_one_rank_shows_its_traceback_only(started, rank):
    process = started(f"if ranks.rank == {rank}:\n    raise ZeroDivisionError('found')", world_size=3)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1 and errors.count("Traceback") == 1
    assert f"error: rank {rank} of 3" in errors and "ZeroDivisionError: found" in errors


@slow
@pytest.mark.parametrize("rank, mistake, line", [
    (0, "UserError('a: b; c')", "a: b; c"), (2, "UserError('a: b; c')", "a: b; c"),
    (2, "OSError(28, 'No space', 'out')", "out: No space; free space, or write elsewhere"),
    (2, "RuntimeError('DefaultCPUAllocator: full')", f"rank 2 of 3 on {socket.gethostname()}: no memory is left "
     "(DefaultCPUAllocator: full); free some, or of a task raise --accumulate, or lower --bptt or --batch_size"),
])  # fmt: skip
def test_a_mistake_in_one_rank_is_one_line(started, rank, mistake, line):
    process = started(f"if ranks.rank == {rank}:\n    raise {mistake}", world_size=3)
    _, errors = process.communicate(timeout=240)
    lines = [line for line in errors.splitlines() if "has lost another rank" not in line]
    assert process.returncode == 2 and lines == [f"error: {line}"]


@slow
def test_ctrl_c_ends_ranks_that_do_not_train(started):
    work = "sys.stdout.write('at work\\n')  # in one piece: print writes the end of the line by itself"
    process = started(f"{work}\nsys.stdout.flush()\ntime.sleep(60)", world_size=2)
    for _ in range(2):
        assert process.stdout.readline() == "at work\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == stopping.INTERRUPTED and errors == ""


class Ending:
    """A process that ends with a code after so many looks at it."""

    def __init__(self, looks, code):
        self.looks, self.code = looks, code
        self.sentinel, end = os.pipe()
        os.close(end)  # as at a process's end, shortly before the system tells its code

    @property
    def exitcode(self):
        self.looks -= 1
        return self.code if self.looks < 0 else None

    def is_alive(self):
        return self.exitcode is None


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("second", range(5))
def test_the_code_of_ranks_that_end_at_any_moment_is_told(first, second):
    for code in (0, stopping.INTERRUPTED):
        ending = [Ending(looks, code) for looks in (first, second)]
        assert ranks.wait_for(ending) == code
        for process in ending:
            os.close(process.sentinel)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_signal_that_ends_a_rank_is_128_and_its_number(number, capsys):
    ending = Ending(0, -number)
    assert ranks.wait_for([ending]) == 128 + number
    assert capsys.readouterr().err.startswith(f"error: {number.name} ended the process of local rank 0")
    os.close(ending.sentinel)


@slow
def test_a_rank_that_waits_too_long_for_another_says_so_and_ends_the_run(started):
    process = started("if ranks.rank == 1:\n    time.sleep(600)", world_size=2, timeout_minutes=0.3)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1 and errors.count("\n") == 1
    told = r"error: rank 0 of 2 on .* has waited for another rank for 0.3 minutes;.* with more --timeout-minutes\n"
    assert re.fullmatch(told, errors)


# torchrun


@needs_proc
@slow
def test_torchrun_starts_the_ranks_and_its_restarts_go_on(books, tmp_path):
    """Rank 0 is killed while it writes its third state, and torchrun starts both ranks anew.

    Every start writes two states fewer, so the third one ends. Not with --standalone, which restarts nothing (torch 2.3).
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "9",
               "--master-port", str(ranks.free_port()), str(ROOT / "mlm_task.py"), *TINY, *books.split(),
               *"--steps 5 --parallel DDP --save-minutes 1e-9".split()]  # fmt: skip
    deadly = {"KILL": "fsync 5 state", "PYTHONPATH": str(ROOT / "tests" / "killer")}
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300,
                             env={**os.environ, "OMP_NUM_THREADS": "1", **deadly})  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    assert "resuming from runs/mlm/state.pt at step" in process.stdout and "End of training" in process.stdout


# Slurm's variables


@pytest.mark.parametrize("names, first", [
    ("n1", "n1"), ("n[1-2]", "n1"), ("gpu[03-07,11],login", "gpu03"), ("a,b[1-2]", "a"), ("r[1-2]c[08-16]", "r1c08"),
    ("n[7,9]-ib", "n7-ib"),
])  # fmt: skip
def test_the_first_node_of_a_list(names, first):
    assert slurm.first_node(names) == first


@pytest.mark.parametrize("counts, numbers", [("2", [2]), ("2(x3),1", [2, 2, 2, 1]), ("4,2(x2)", [4, 2, 2])])
def test_the_tasks_of_each_node(counts, numbers):
    assert [slurm.tasks_of_node(counts, node) for node in range(len(numbers))] == numbers


@pytest.fixture
def srun(monkeypatch):
    """Sets the variables of a task, as Slurm 22.05 was seen to set them."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MASTER_", "LOCAL_RANK"))]:
        monkeypatch.delenv(name)

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name if name.startswith("MASTER") else f"SLURM_{name}", str(value))

    put(JOB_ID=71, STEP_ID=0, STEP_NUM_TASKS=4, STEP_NUM_NODES=2, STEP_NODELIST="localhost,b", STEP_TASKS_PER_NODE="3,1",
        PROCID=3, LOCALID=0, NODEID=1)  # fmt: skip
    return put


def test_one_task_for_each_rank(srun):
    place = slurm.place()
    assert slurm.tasks() == (4, 2) and place["MASTER_ADDR"] == "localhost"
    assert [int(place[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")] == [3, 4, 0, 1]


def test_all_tasks_of_a_step_meet_at_one_port_that_other_jobs_and_steps_do_not_use(srun):
    ports = set()
    for job in range(50):
        for step in range(3):
            srun(JOB_ID=1000 + job, STEP_ID=step)
            ports.add(slurm.address()["MASTER_PORT"])
    assert len(ports) == 150 and all(1024 < int(port) < 32768 for port in ports)


def test_a_batch_script_without_srun_is_one_task(srun, monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert slurm.tasks() == (1, 1)


def test_ones_own_address_comes_first(srun):
    srun(MASTER_ADDR="127.0.0.1", MASTER_PORT=4321)
    assert slurm.address() == {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "4321"}


def test_a_node_whose_name_does_not_resolve_is_told(srun, monkeypatch):
    def fail(*_):
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(UserError, match="localhost does not resolve here; set MASTER_ADDR"):
        slurm.address()


def test_several_processes_of_a_run_without_parallel_are_refused(srun):
    with pytest.raises(UserError, match=r"4 processes were started.* add --parallel DDP"):
        ranks.launch(None, Namespace(parallel="None", world_size=None))
    with pytest.raises(UserError, match=re.escape("--world_size 2: srun has started a task for each of 4 ranks")):
        ranks.launch(None, Namespace(parallel="DDP", world_size=2))


@pytest.mark.parametrize("job", ["pretrain.sbatch", "finetune.sbatch qa_task.py"])
def test_a_job_hands_its_cores_on_to_its_tasks(srun, tmp_path, job):
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$SRUN_CPUS_PER_TASK cores: $*"\n')
    (tmp_path / "srun").chmod(0o755)
    srun(CPUS_PER_TASK=7, JOB_NAME="name", SUBMIT_DIR=tmp_path)
    path, *words = job.split()
    output = subprocess.run(["bash", ROOT / "slurm" / path, *words], cwd=tmp_path, capture_output=True, text=True,
                            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})  # fmt: skip
    assert output.returncode == 0 and output.stdout.startswith("7 cores: --kill-on-bad-exit=1 python"), output


NODE = """
import sys
sys.path.insert(0, {root!r})
from argparse import Namespace
import torch
from files.mistakes import run_main
from training import ranks

def place(args, own):
    import os
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    found = own.gather([int(os.environ[name]) for name in names])
    if own.first:
        print(found)

if __name__ == "__main__":
    gpus = {gpus}
    if gpus:
        torch.cuda.device_count = lambda: gpus
    run_main(lambda: ranks.launch(place, Namespace(parallel="DDP", world_size={here}, timeout_minutes=3)))
"""


@pytest.fixture
def on_nodes(srun, tmp_path):
    """``on_nodes((ranks, GPUs), ...)`` runs a task on each of as many nodes, as srun does; gives (code, output) of each."""

    def run(*nodes):
        srun(STEP_NUM_TASKS=len(nodes), STEP_NUM_NODES=len(nodes), MASTER_ADDR="127.0.0.1", MASTER_PORT=ranks.free_port())
        started = []
        for number, (here, gpus) in enumerate(nodes):
            (tmp_path / f"{number}.py").write_text(NODE.format(root=str(ROOT), here=here, gpus=gpus))
            started.append(subprocess.Popen(
                [sys.executable, f"{number}.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "SLURM_NODEID": str(number), "OMP_NUM_THREADS": "1"},
            ))  # fmt: skip
        try:
            return [(process.communicate(timeout=240)[0], process.returncode)[::-1] for process in started]
        finally:
            for process in started:
                process.kill()

    return run


@slow
def test_nodes_with_different_numbers_of_gpus_count_them_together(on_nodes):
    first, *others = on_nodes((2, 0), (1, 0), (2, 0))
    assert first == (0, "[[0, 5, 0, 2], [1, 5, 1, 2], [2, 5, 0, 1], [3, 5, 0, 2], [4, 5, 1, 2]]\n")
    assert others == [(0, "")] * 2


@slow
def test_a_node_without_gpus_among_others_is_named(on_nodes):
    told = f"error: {socket.gethostname()}: no GPU there, but on other nodes of this step; leave that node out\n"
    assert on_nodes((1, 1), (None, 0)) == [(2, told)] * 2


@slow
def test_nodes_that_do_not_meet_say_where(srun):
    port = ranks.free_port()
    srun(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, STEP_NUM_TASKS=2)
    with pytest.raises(UserError, match=rf": the 2 nodes of this step did not meet at 127.0.0.1, port {port} \(.*\); see"):
        ranks.launch(None, Namespace(parallel="DDP", world_size=1, timeout_minutes=0.02))


def test_a_launcher_that_tells_the_local_rank_alone_has_started_one_process(run):
    run("mlm", "--steps 1 --no-test", LOCAL_RANK="0")


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restart_is_seen(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    assert not ranks.restarted()
    monkeypatch.setenv(name, "0")
    assert not ranks.restarted()
    monkeypatch.setenv(name, "2")
    assert ranks.restarted()
