"""What one rank decides or reads, all ranks are told: they never go different ways."""

import os
import signal
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import toys
from conftest import needs_proc
from test_ranks import started  # noqa: F401  a fixture

import checkpoint
import mlm_task
import utils
from files.mistakes import UserError
from model import BertConfig, MLMTask
from text.masked_blocks import MaskedBlocks
from training.ranks import Ranks, launch
from training.states import State, States

slow = pytest.mark.slow


def trainer(args, ranks):
    """A run of a toy that is about to begin, or to go on from the state in a folder that each rank has for itself."""
    torch.manual_seed(0)
    args = Namespace(
        parallel=args.parallel, log_dir=args.folder / f"{ranks.rank}", save=str(args.folder / "toy.pt"), optimizer="adamw",
        precision=getattr(args, "precision", "fp32"), weight_decay=0.0, batch_size=4, accumulate=1, minutes=None, steps=9,
        warmup=0.0, lr=0.01, seed=1, clip=1.0, save_minutes=10.0, resume=True, valid_examples=None,
    )  # fmt: skip
    examples = MaskedBlocks(toys.corpus(*[[8, 9, 7] * 4] * 3), toys.numbered(1000), 16, 1)
    model = MLMTask(BertConfig(1000, 16, 2, 2, 32, max_position_embeddings=16, hidden_dropout_prob=0.0,
                               attention_probs_dropout_prob=0.0))  # fmt: skip
    sets = {"train": examples, "valid": examples}
    task = utils.Task("mlm", model, toys.letters(), sets, mlm_task.loss, None, None, mlm_task.summary)
    return utils.Trainer(task, args, ranks)


def steps(run, count):
    for (micro_batches, real, _), _ in zip(run.work(), range(count), strict=False):
        run.step(micro_batches, real, 0.5)
        run.state.step += 1


def of_every_rank(function, folder, parallel):
    """What ``function(args, ranks)`` gives on each of two ranks."""
    assert launch(noted, Namespace(function=function, folder=folder, parallel=parallel, world_size=2)) == 0
    return [torch.load(folder / f"rank{rank}", weights_only=True) for rank in range(2)]


def noted(args, ranks):
    torch.save(args.function(args, ranks), args.folder / f"rank{ranks.rank}")


def test_a_step_learns_at_the_rate_that_was_lowered_when_the_run_went_back(tmp_path):
    run, found = trainer(Namespace(parallel="None", folder=tmp_path), Ranks()), []
    for run.state.lowered in (1.0, 0.3):
        steps(run, 1)
        found.append([group["lr"] for group in run.engine.optimizer.param_groups])
    assert 0 not in found[0] and found[1] == pytest.approx([0.3 * rate for rate in found[0]])


def test_what_drops_out_differs_by_step_and_rank(tmp_path):
    seeds = []
    for rank in (0, 1):
        run = trainer(Namespace(parallel="None", folder=tmp_path), Ranks())
        run.ranks.rank, loss = rank, run.task.loss
        run.task.loss = lambda model, batch, loss=loss: seeds.append(torch.initial_seed()) or loss(model, batch)
        steps(run, 3)
    assert len(seeds) == len(set(seeds)) == 6


# A save that fails


def save_the_best(args, ranks):
    """Rank 0's disk is full: what `Saving.best` says of it, where there is an older model and where there is none."""
    def full(*_):
        raise UserError("toy.pt: no room; make some")

    checkpoint.save_model = full
    saving = trainer(args, ranks).saving
    told = [saving.best(State(best=2.0), {})]
    try:
        told.append(saving.best(State(), {}))
    except UserError as error:
        told.append(str(error))
    return told


@slow
def test_all_ranks_are_told_that_the_best_model_could_not_be_saved(tmp_path):
    assert of_every_rank(save_the_best, tmp_path, "DDP") == [[False, "toy.pt: no room; make some"]] * 2


def validate(args, ranks):
    """Rank 1 alone has a score that looks better, as by another order of sums; who saves the model?"""
    run = trainer(args, ranks)
    asked = []
    run.logs.validation = run.saving.state = lambda *_, **__: None
    run.saving.best = lambda *_: asked.append(True)
    run.compute.score = lambda *_: {"loss": 2.0 - 1e-9 * ranks.rank}
    run.state.best = 2.0
    run.validate(0.5)
    return asked


def write_where_there_is_no_room(args, ranks):
    ranks.told(lambda: (_ for _ in ()).throw(OSError(28, "No space", "out")))


@slow
def test_a_full_disk_that_rank_0_finds_is_one_line_of_all_ranks(capfd):
    assert launch(write_where_there_is_no_room, Namespace(parallel="DDP", world_size=3)) == 2
    assert capfd.readouterr().err == "error: out: No space; free space, or write elsewhere\n"


@needs_proc
@slow
def test_ctrl_c_that_comes_while_the_ranks_import_is_not_lost(started):  # noqa: F811
    process = started("time.sleep(60)", world_size=2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while sum(b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children.read_text().split()) < 2:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 130


@slow
def test_whether_a_score_is_better_is_for_rank_0_to_say(tmp_path):
    assert of_every_rank(validate, tmp_path, "DDP") == [[], []]


@pytest.mark.parametrize(("figure", "best"), [("loss", 40.0), ("f1", 60.0)])
def test_the_model_of_the_best_validation_is_kept(tmp_path, figure, best):
    run = trainer(Namespace(parallel="None", folder=tmp_path), Ranks())
    run.task.best, run.logs.validation = figure, lambda *_: None
    for value in (50.0, 60.0, 40.0, 45.0):
        torch.nn.init.constant_(run.engine.model.bias, value)
        run.compute.score = lambda *_, value=value: {"loss": 1.0, figure: value}
        run.validate(0.5)
    assert run.state.best == best
    assert torch.load(tmp_path / "toy.pt", weights_only=True)["head"]["bias"].unique().tolist() == [best]


# Ranks that see other files


def go_on(args, ranks):
    """Where is a run that has begun? On rank 0 also with its weights and averages."""
    run = trainer(args, ranks)
    step, content = run.saving.begin().step, run.engine.content()
    return [step, content["model"], content["optimizer"]["state"]] if ranks.first else [step]


@slow
@pytest.mark.parametrize("parallel", ["DDP", "FSDP"])
def test_all_ranks_go_on_from_the_state_that_rank_0_sees(tmp_path, parallel):
    run = trainer(Namespace(folder=tmp_path, parallel="None"), Ranks())
    for folder in ("1", "0"):  # rank 1 sees an older one
        run.saving.states = States(tmp_path / folder, print)
        steps(run, 2)
        run.saving.state(run.state, wait=True)
    (step, weights, averages), (other,) = of_every_rank(go_on, tmp_path, parallel)
    assert step == other == 4
    own = run.engine.content()
    assert all(torch.equal(weights[name], weight) for name, weight in own["model"].items())
    for number, values in own["optimizer"]["state"].items():
        assert all(torch.equal(averages[number][name].view_as(value), value) for name, value in values.items())




def twice(args, ranks):
    """The weights and averages after four steps, and those of a run that goes on after two of them."""
    found = []
    for _ in range(2):  # the second begins where the first has saved
        run = trainer(args, ranks)
        run.state = run.saving.begin()
        while run.state.step < 4:
            if run.state.step == 2 and not found:
                run.saving.state(run.state, wait=True)
            steps(run, 1)
            run.state.epoch, run.state.batch = 0, run.state.step
        content = run.engine.content()
        ranks.gather(None)
        found.append([content["model"], content["optimizer"].get("state", {})] if ranks.first else None)
    return found


@slow
@pytest.mark.parametrize("parallel", ["DDP", "ZeRO", "FSDP"])
def test_a_run_that_is_sent_its_state_goes_on_with_the_very_bits(tmp_path, parallel):
    (one, averages), (other, theirs) = of_every_rank(twice, tmp_path, parallel)[0]
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    assert averages and all(torch.equal(value, theirs[number][name])
                            for number, values in averages.items() for name, value in values.items())  # fmt: skip
