"""The jobs of slurm/ and other starters: what becomes of a job that ends, and flags that contradict who has started it."""

import os
import subprocess
from argparse import Namespace
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from toys import refused

from training import ranks

JOBS = ["pretrain.sbatch", "finetune.sbatch qa_task.py"]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("code, state, requeued", [
    (75, "RUNNING PreemptTime=None", True), (75, "RUNNING PreemptTime=2026-11-28T12:00:00", True),
    (143, "RUNNING PreemptTime=2026-11-28T12:00:00", True),  # told before it trained
    (143, "RUNNING PreemptTime=None", False),  # srun ends the tasks that wait, where one has failed
    (75, "CANCELLED PreemptTime=None", False), (0, "RUNNING PreemptTime=None", False),
    (1, "RUNNING PreemptTime=None", False), (137, "RUNNING PreemptTime=None", False),
])  # fmt: skip
def test_a_job_is_requeued_if_it_is_preempted_and_not_if_it_fails_or_is_cancelled(tmp_path, job, code, state, requeued):
    said = f"[ $1 = show ] && echo 'JobState={state}' || {{ touch requeued; exit 1; }}"
    programs = {"srun": f"exit {code}", "scontrol": said}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    script, *words = job.split()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NAME": "name", "SLURM_JOB_ID": "1",
                   "SLURM_SUBMIT_DIR": str(tmp_path)}  # fmt: skip
    done = subprocess.run(["bash", ROOT / "slurm" / script, *words], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == code and (tmp_path / "requeued").exists() == requeued


@pytest.mark.parametrize("job", JOBS)
def test_a_task_of_an_array_requeues_itself_alone(tmp_path, job):
    said = '[ $1 = show ] && echo JobState=RUNNING; echo "$@" >> calls; [ $1 = show ]'
    for name, line in {"srun": "exit 75", "scontrol": said}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    script, *words = job.split()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NAME": "name", "SLURM_JOB_ID": "1",
                   "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "3", "SLURM_SUBMIT_DIR": str(tmp_path)}  # fmt: skip
    subprocess.run(["bash", ROOT / "slurm" / script, *words], cwd=tmp_path, env=environment, capture_output=True)
    assert (tmp_path / "calls").read_text() == "show job 1_3\nrequeue 1_3\n"


@pytest.fixture
def task(monkeypatch):
    """In a task of srun's, of several on two nodes; ``task(name=value)`` says more, None that it is not there."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MASTER_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ranks, "run_rank", lambda *_: "a rank")
    monkeypatch.setattr(ranks, "start_ranks", lambda *_: "starts ranks")

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    put(SLURM_JOB_ID=71, SLURM_STEP_ID=0, SLURM_STEP_NUM_TASKS=2, SLURM_STEP_NUM_NODES=2, SLURM_PROCID=1, SLURM_LOCALID=0,
        SLURM_NODEID=1, SLURM_STEP_NODELIST="localhost,b", SLURM_STEP_TASKS_PER_NODE="1(x2)")  # fmt: skip
    return put


def test_a_container_that_names_a_task_as_torchrun_would_still_starts_a_rank_for_each_gpu(task):
    """enroot's hook for images with PyTorch sets these of Slurm's numbers."""
    task(RANK=1, WORLD_SIZE=2, LOCAL_RANK=0)
    assert ranks.launch(None, Namespace(parallel="DDP", world_size=None)) == "starts ranks"
    task(LOCAL_WORLD_SIZE=1)  # which torchrun says
    assert ranks.launch(None, Namespace(parallel="DDP", world_size=None)) == "a rank"


def test_in_a_shell_of_several_tasks_the_remedy_is_a_step_of_one(task):
    args = Namespace(parallel="None", world_size=None)
    refused(lambda: ranks.launch(None, args), "2 processes were started", "srun --overlap --ntasks=1")


def test_a_task_takes_no_more_threads_than_it_has_cores(task, monkeypatch):
    task(SLURM_STEP_NUM_TASKS=4, SLURM_CPUS_PER_TASK=16)
    for cores, threads in ((1, 1), (64, 16)):
        monkeypatch.setattr(ranks.cache, "cores", lambda cores=cores: cores)
        assert ranks.threads() == threads


def test_a_node_whose_gpus_do_not_work_is_named():
    for kinds, named in (([("cuda", "a"), ("cpu", "b")], "b"), ([("cpu", "a"), ("cuda", "b")], "a")):
        some = SimpleNamespace(device=torch.device("cpu"), gather=lambda _, kinds=kinds: kinds)
        refused(lambda some=some: ranks.check_alike(some), f"{named}: no GPU there, but on other nodes of this run")
    for kind in ("cpu", "cuda"):
        ranks.check_alike(SimpleNamespace(device=torch.device("cpu"), gather=lambda _, kind=kind: [(kind, "a")] * 2))


@pytest.mark.parametrize("torchruns, restarts, newer, told", [
    (2, 3, True, True), (1, 3, True, False), (2, 0, True, False), (2, 3, False, False),
])  # fmt: skip
def test_restarts_of_several_torchruns_that_fail_are_told(task, monkeypatch, capsys, torchruns, restarts, newer, told):
    monkeypatch.setattr("files.mistakes.TOLD", set())
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.13.0" if newer else "2.3.1"))
    store = torch.distributed.HashStore()
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    task(GROUP_WORLD_SIZE=torchruns, TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_MAX_RESTARTS=restarts,
         TORCHELASTIC_RESTART_COUNT=0, RANK=0)  # fmt: skip
    ranks.meeting_store(0, 2, timedelta(minutes=1))
    assert ("take --rdzv-backend c10d" in capsys.readouterr().err) is told


def test_a_number_of_processes_that_torchrun_has_not_started_is_refused(monkeypatch):
    for name, value in {"LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    args = Namespace(parallel="DDP", world_size=4)
    refused(lambda: ranks.launch(None, args), "--world_size 4: torchrun has started 2 processes here; omit it")
