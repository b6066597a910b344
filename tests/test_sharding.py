"""FSDP: a model that is cut up trains, scores and is saved as a whole one."""

from types import SimpleNamespace

import pytest
from test_ranks import books, train  # noqa: F401  fixtures

import utils
from text import batches
from training.ranks import Ranks
from training.states import State

slow = pytest.mark.slow


class Numbers:
    """Stands in for examples: a batch is the list of their numbers."""

    lengths = None

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def collate(self, indices, epoch):
        return {"indices": None, "numbers": list(indices)}


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
        assert len({len(micro_batches) for micro_batches, _, _ in ranks}) == 1
        for micro_batches, real, _ in ranks:
            seen += [number for batch in micro_batches[:real] for number in batch["numbers"]]
    assert sorted(seen) == list(range(count))


@slow
def test_micro_batches_of_a_last_batch_that_ranks_cannot_share_evenly(train):  # noqa: F811
    for name, flags in (("one", ""), ("two", "--parallel FSDP --world_size 2 --accumulate 2")):
        train(name, f"--epochs 1 --batch-size 17 --optimizer adamw {flags}", timeout=60)
    assert train.losses("two") == pytest.approx(train.losses("one"), abs=1e-5)
