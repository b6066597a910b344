"""On a real Slurm: the README's srun lines, tasks as ranks, a job that is requeued and goes on, scancel.

`make test-slurm` runs this inside with_slurm.sh. Every run is small and on the CPU, also where the command asks for GPUs.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from test_readme import COMMANDS, folder, with_small_budget  # noqa: F401  folder is a fixture

SRUN = [command for command in COMMANDS if command.startswith("srun")]
MODEL = "--nlayers 1 --emsize 32 --nhead 2 --batch-size 8 --bptt 64 --valid-examples 20 --log-interval 1 --precision fp32"
TASK = f"python mlm_task.py {MODEL} --dataset BookCorpus --vocab-size 300"


@pytest.fixture
def shell(folder):  # noqa: F811
    """``shell("srun ...")`` runs a command in a user's folder; gives its output."""
    environment = {
        **os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "BERT_CACHE": str(folder / "cache"), "BERT_DATA": str(folder / "data"),
    }  # fmt: skip

    def run(command, code=0, timeout=120):
        process = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True,
                                 timeout=timeout)  # fmt: skip
        assert process.returncode == code, process.stdout + process.stderr
        return process.stdout + process.stderr

    run.start = lambda command: subprocess.Popen(
        command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return run


def losses(folder):  # noqa: F811
    history = torch.load(folder / "state.pt", weights_only=True)["state"]["history"]
    return [values["loss"] for _, kind, values in history if kind == "train"]


def figures(folder, file="result.json"):  # noqa: F811
    result = json.loads((folder / file).read_text())
    return {name: value for name, value in result.items() if name.startswith("test_")}


def wait_until(true, seconds=60):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, subprocess.run(["squeue"], capture_output=True, text=True).stdout
        time.sleep(0.2)


@pytest.mark.parametrize("command", SRUN)
def test_the_line_of_the_readme_runs_as_written(shell, command):
    words = shlex.join(with_small_budget(command))
    output = shell(f"script --quiet --return --command {shlex.quote(words)} /dev/null")  # --pty wants a terminal
    assert any(word in output for word in ("End of training", "test  ", "best: trial"))  # what each says at its end


WAYS = {
    "one task": "srun --ntasks=1 {task}",
    "two tasks": "srun --ntasks=2 {task} --parallel DDP",
    "two nodes": "srun --nodes=2 --ntasks-per-node=1 {task} --parallel DDP",
    "two nodes of two": "srun --nodes=2 --ntasks-per-node=1 {task} --parallel DDP --world_size 2",
    "two nodes of two tasks": "srun --nodes=2 --ntasks-per-node=2 {task} --parallel DDP",
    "torchrun": "srun --ntasks=1 torchrun --nproc-per-node 2 --standalone {program} --parallel DDP",
}


@pytest.mark.parametrize("way", WAYS)
def test_tasks_are_ranks_and_change_no_figure(shell, folder, way):  # noqa: F811
    log = way.replace(" ", "-")
    task = f"{TASK} --steps 4 --save {log}.pt --log-dir {log}"
    output = shell(WAYS[way].format(task=task, program=task.removeprefix("python ")))
    assert output.count("End of training") == 1
    assert losses(folder / log) == pytest.approx(losses(folder / "one-task"), abs=1e-5)
    print(f"{way}: losses {losses(folder / log)}")
    save = "one-task.pt"  # evaluation of one and the same model
    shell(f"{WAYS[way].format(task=f'{TASK} --evaluate --bert-model {save} --log-dir again', program='')}"
          if way != "torchrun" else "true")  # fmt: skip
    if way != "torchrun":
        assert figures(folder / "again", "evaluation.json") == figures(folder / "one-task")


def test_several_tasks_without_parallel_are_refused(shell):
    output = shell(f"srun --ntasks=2 {TASK} --steps 2", code=2)
    assert "2 processes were started" in output and "Traceback" not in output


def test_tasks_share_the_preparing_and_give_the_very_cache(shell, folder):  # noqa: F811
    command = "python data.py prepare --dataset BookCorpus --vocab-size 300 --cache-dir"
    shell(f"{command} alone && srun --ntasks=3 {command} together")
    assert trees(folder / "alone") == trees(folder / "together")


def trees(folder):  # noqa: F811
    assert list(folder.rglob("*.bin"))
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.bin"))}


BATCH = ("sbatch --parsable --nodes=2 --cpus-per-task=2 --time=10 --job-name={name} --output={name}.out "
         "slurm/pretrain.sbatch {flags}")  # fmt: skip
LONG = f"{MODEL} --dataset BookCorpus --vocab-size 300 --dropout 0.1 --epochs 5"


@pytest.mark.parametrize("name, told", [
    ("script-told", "--signal=USR1 --batch"),  # what --signal=B:USR1@360 does before the time limit
    ("tasks-told", "--signal=TERM"),  # to the tasks alone, as preemption with a grace time does
])  # fmt: skip
def test_a_job_that_is_to_make_room_is_requeued_and_goes_on(shell, folder, name, told):  # noqa: F811
    (folder / "slurm").mkdir(exist_ok=True)
    (folder / "slurm" / "pretrain.sbatch").write_text((ROOT / "slurm" / "pretrain.sbatch").read_text())
    shell(f"srun --nodes=2 --ntasks-per-node=1 python mlm_task.py {LONG} --parallel DDP --save whole.pt --log-dir whole")
    job = shell(BATCH.format(name=name, flags=f"{LONG} --save {name}.pt")).strip()
    log = folder / f"{name}.out"
    wait_until(lambda: log.exists() and "| epoch   2" in log.read_text())
    shell(f"scancel {told} {job}")
    wait_until(lambda: "requeued" in log.read_text())
    wait_until(lambda: "resuming from" in log.read_text() or "End of training" in log.read_text(), 90)
    wait_until(lambda: not shell(f"squeue --noheader --jobs={job} 2>/dev/null || true").strip(), 90)
    output = log.read_text()
    print(*re.findall(r"^(?:stopped|told to|resuming|\| End).*", output, re.MULTILINE), sep="\n")
    assert re.search(r"stopped at step \d+.*resuming from .* at step [1-9].*End of training", output, re.DOTALL), output
    assert losses(folder / "runs" / name) == losses(folder / "whole")
    assert figures(folder / "runs" / name) == figures(folder / "whole")


def test_fine_tuning_has_a_job_too(shell, folder):  # noqa: F811
    (folder / "slurm").mkdir(exist_ok=True)
    (folder / "slurm" / "finetune.sbatch").write_text((ROOT / "slurm" / "finetune.sbatch").read_text())
    shell("sbatch --wait --ntasks-per-node=2 --gres=gpu:2 --cpus-per-task=1 --time=10 --job-name=choices "
          f"--output=choices.out slurm/finetune.sbatch race_task.py {MODEL} --bert-model none --steps 4 --save choices.pt")
    output = (folder / "choices.out").read_text()
    print(*re.findall(r"^\| End.*", output, re.MULTILINE), sep="\n")
    assert output.count("End of training") == 1 and (folder / "runs" / "choices" / "result.json").exists()


def test_scancel_leaves_a_state_to_go_on_from(shell, folder):  # noqa: F811
    task = f"{TASK} --epochs 200 --parallel DDP --log-dir cancelled --save cancelled.pt"
    process = shell.start(f"srun --job-name=cancelled --ntasks=2 {task}")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "| epoch   1 |     3/" in line:
            shell("scancel --name=cancelled")
            break
    output = "".join([*lines, *process.stdout])
    process.wait(timeout=60)
    print(re.search("stopped at step.*", output)[0])
    step = torch.load(folder / "cancelled" / "state.pt", weights_only=True)["state"]["step"]
    assert f"stopped at step {step}; go on with the same command and --resume" in output
    assert f"at step {step}" in shell(f"srun --ntasks=2 {task} --resume --epochs 1")
