"""The jobs of slurm/ and other starters: what becomes of a job that ends, and flags that contradict who has started it."""

import os
import subprocess
from argparse import Namespace

import pytest
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


def test_a_number_of_processes_that_torchrun_has_not_started_is_refused(monkeypatch):
    for name, value in {"LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    args = Namespace(parallel="DDP", world_size=4)
    refused(lambda: ranks.launch(None, args), "--world_size 4: torchrun has started 2 processes here; omit it")
