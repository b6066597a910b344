"""What wants a GPU: the tests of the way through a step, on a device whose waits can be seen. Elsewhere they skip."""

import copy

import pytest
import torch
from test_gpu_path import TASKS, steps, trainer

from training.ranks import Ranks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
every_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture
def gpu(monkeypatch):
    """Ranks are on the first GPU unless they say otherwise."""
    made = Ranks.__init__
    monkeypatch.setattr(Ranks, "__init__", lambda self, rank=0, world=1, device=None: made(
        self, rank, world, device or torch.device("cuda", 0)))  # fmt: skip


@every_task
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_gpu_is_not_waited_for_within_a_step(gpu, places, tmp_path, task, precision):
    run = steps(trainer(task, places, tmp_path, precision=precision), 2)
    micro_batches, counts, _ = next(run.work())
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.step(micro_batches, counts, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run.read_steps()
    assert run.state.bad == 0


@every_task
def test_gpu_gives_the_losses_of_the_cpu(places, tmp_path, task, request):
    on_cpu = steps(trainer(task, places, tmp_path), 4)
    request.getfixturevalue("gpu")
    run = steps(trainer(task, places, tmp_path), 4)
    run.read_steps()
    for one, other in zip(run.state.recent, on_cpu.state.recent, strict=True):
        assert one == pytest.approx(other, rel=1e-2)


@pytest.mark.parametrize("task", ["mlm", "qa", "race of three or four, dcmn"])
def test_gpu_compiles_layers_that_compute_the_same(gpu, places, tmp_path, task):
    plain, compiled = (steps(trainer(task, places, tmp_path, compile=wanted), 4) for wanted in ("off", "on"))
    for run in (plain, compiled):
        run.read_steps()
    for one, other in zip(compiled.state.recent, plain.state.recent, strict=True):
        assert one == pytest.approx(other, rel=1e-2)


def test_gpu_goes_on_from_a_state_of_the_cpu(places, tmp_path, request):
    on_cpu = steps(trainer("mlm", places, tmp_path), 2)
    saved = copy.deepcopy(on_cpu.engine.content())
    steps(on_cpu, 2)
    request.getfixturevalue("gpu")
    run = trainer("mlm", places, tmp_path)
    run.engine.load(saved)
    run.state.step = 2
    steps(run, 2)
    run.read_steps()
    assert run.state.bad == 0
    for one, other in zip(run.state.recent, on_cpu.state.recent[2:], strict=True):
        assert one == pytest.approx(other, rel=1e-2)
