"""FSDP: a model that is cut up trains, scores and is saved as a whole one."""

from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_agreement import of_every_rank, steps, trainer
from test_ranks import books, train  # noqa: F401  fixtures

import utils
from model import BertConfig
from text import batches
from training import sharding
from training.memory import micro_batches
from training.ranks import Ranks
from training.states import State

slow = pytest.mark.slow


class Numbers:
    """Stands in for examples: a batch is their numbers."""

    lengths = None

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def collate(self, indices, epoch):
        return {"input_ids": torch.tensor(indices)[:, None], "labels": torch.tensor(indices)}


@pytest.mark.parametrize("count, batch_size, accumulate, world",
                         [(45, 14, 2, 2), (45, 14, 4, 3), (5, 4, 3, 2), (9, 8, 2, 4)])  # fmt: skip
def test_each_rank_has_as_many_micro_batches_and_each_example_counts_once(count, batch_size, accumulate, world):
    def epoch_of(rank):
        args = SimpleNamespace(batch_size=batch_size, seed=1, accumulate=accumulate)
        run = SimpleNamespace(state=State(), args=args, data=Numbers(count), ranks=Ranks(rank, world))
        steps = len(batches.epoch_batches(count, batch_size, 1, 0, None))
        return [step for step, _ in zip(utils.Trainer.work(run), range(steps), strict=False)]

    seen = []
    for ranks in zip(*map(epoch_of, range(world)), strict=True):
        assert len({len(parts) for parts, _, _ in ranks}) == 1
        for parts, counts, _ in ranks:
            real = parts[: len(counts)]
            assert counts == [(len(batch["labels"]),) * 2 for batch in real]
            seen += [number for batch in real for number in batch["labels"].tolist()]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("rows_each, lengths, world, parts", [
    (1, [512] * 64, 1, 39), (4, [512] * 16, 1, 39), (4, [512] * 16, 2, 20), (1, [128] * 64, 1, 5), (1, [128] * 8, 1, 1),
    (1, None, 1, 1),
])  # fmt: skip
def test_a_step_on_the_cpu_is_cut_by_what_its_rows_keep(rows_each, lengths, world, parts):
    """12 layers of 384 with 12 heads keep 0.66 GB of a row of 512 tokens and 78 MB of one of 128."""
    data = SimpleNamespace(lengths=lengths and np.array(lengths), rows_each=rows_each, longest=16)
    assert micro_batches(BertConfig(100, 384, 12, 12, 1536), data, np.arange(len(lengths or [0])), world) == parts


@slow
def test_micro_batches_of_a_last_batch_that_ranks_cannot_share_evenly(train):  # noqa: F811
    for name, flags in (("one", ""), ("two", "--parallel FSDP --world_size 2 --accumulate 2")):
        train(name, f"--epochs 1 --batch-size 17 --optimizer adamw {flags}", timeout=240)
    assert train.losses("two") == pytest.approx(train.losses("one"), abs=1e-5)


# Who holds what


def asked(args, ranks):
    """What FSDP is given, and where the copies are then."""
    from torch.distributed import fsdp

    whole, seen = fsdp.FullyShardedDataParallel, {}
    moved = torch.nn.Module.to

    def cut(model, **options):
        seen.update(options, devices={p.device.type for p in model.parameters()}, parameters=list(model.parameters()))
        return whole(model, **options)

    def to(module, *places):
        seen.setdefault("moved", []).append(type(module).__name__)
        return moved(module, *places)

    fsdp.FullyShardedDataParallel, torch.nn.Module.to = cut, to
    args.precision = "bf16"
    engine = trainer(args, ranks).engine
    mixed = seen["mixed_precision"]
    return {"moved": seen.get("moved", []), "built on": list(seen["devices"]), "device": str(seen["device_id"]),
            "types": [str(mixed.param_dtype), str(mixed.reduce_dtype)],
            "shell": engine.shell and [str(p.device) for p in list(engine.shell.parameters())[:1]]}  # fmt: skip


@slow
def test_the_whole_model_is_in_no_rank_but_in_the_memory_of_rank_0s_cpu(tmp_path):
    one, two = of_every_rank(asked, tmp_path, "FSDP")
    assert one.pop("shell") == ["cpu"] and two.pop("shell") is None
    assert one == two == {"moved": [], "built on": ["cpu"], "device": "cpu",
                          "types": ["torch.bfloat16", "torch.float32"]}  # fmt: skip


def saved_piece_by_piece(args, ranks):
    """The optimizer's state as it is gathered, and as all pieces at once give it."""
    def too_much(*_):
        raise AssertionError("all pieces at once")

    run = trainer(args, ranks)
    steps(run, 2)
    own = run.engine.optimizer.state_dict()["state"]
    pieces = ranks.gather({number: values["exp_avg"] for number, values in own.items()})
    dist.gather_object = too_much
    found = run.engine.content()["optimizer"]["state"]
    numbers = sorted(set().union(*pieces))
    whole = {number: torch.cat([part[number] for part in pieces if number in part]) for number in numbers}
    if not ranks.first:
        return [all(value is None for name, value in values.items() if name != "step") for values in found.values()]
    return [torch.equal(found[number]["exp_avg"], whole[number]) and float(found[number]["step"]) == 2 for number in whole]


def test_a_state_of_zero_moves_between_gpu_and_cpu():
    """ZeRO's groups hold also what its optimizer was made with, which says whether the steps are a GPU's."""
    own = {**dict.fromkeys(sharding.SETTINGS, 0.5), "params": [0], "queued": False}
    assert sharding.alike({**own, "queued": True}, own) and not sharding.alike({**own, "lr": "high"}, own)


@slow
def test_the_optimizers_state_is_gathered_piece_by_piece_on_rank_0(tmp_path):
    one, two = of_every_rank(saved_piece_by_piece, tmp_path, "FSDP")
    assert len(one) == len(two) > 10 and all(one) and all(two)


def clipped(args, ranks):
    """The norm of some gradients, as it was before they were cut to a norm of 0.1 at most, and as it is then."""
    parallel = trainer(args, ranks).engine.parallel
    ids = torch.arange(4)[None] + 5
    parallel(ids, positions=ids > 0).float().square().sum().backward()
    return [float(sharding.clip(parallel, largest)) for largest in (0.1, 100.0, 100.0)]


@slow
@pytest.mark.parametrize("parallel", ["DDP", "FSDP"])
def test_gradients_are_cut_to_the_norm_that_is_asked_for(tmp_path, parallel):
    alone = clipped(Namespace(folder=tmp_path, parallel="None"), Ranks())
    assert alone[0] > 1 and alone[1:] == pytest.approx([0.1, 0.1], rel=1e-4)
    assert of_every_rank(clipped, tmp_path, parallel) == [pytest.approx(alone, rel=1e-4)] * 2


def in_bf16(args, ranks):
    """The losses of some steps, what the model then says of a batch, and its weights."""
    args.precision = "bf16"
    run = trainer(args, ranks)
    steps(run, 4)
    batch = run.data.collate([0, 1], -1)
    with torch.no_grad(), run.compute.autocast():
        said = run.engine.parallel.eval()(batch["input_ids"], attention_mask=batch["attention_mask"])
    return [[summed / count for summed, count, _ in run.state.recent], said, run.engine.content()["model"]]


@slow
def test_bf16_trains_as_on_one_rank_and_scores_the_very_same(tmp_path):
    losses, said, weights = of_every_rank(in_bf16, tmp_path, "FSDP")[0]
    run = trainer(Namespace(folder=tmp_path, parallel="None", precision="bf16"), Ranks())
    steps(run, 4)
    assert losses == pytest.approx([summed / count for summed, count, _ in run.state.recent], abs=0.05)
    run.task.model.load_state_dict(weights)
    batch = run.data.collate([0, 1], -1)
    with torch.no_grad(), run.compute.autocast():
        alone = run.task.model.eval()(batch["input_ids"], attention_mask=batch["attention_mask"])
    assert torch.equal(said, alone) and weights["bias"].dtype == torch.float32
