"""The way of a GPU through a step of training, taken on the CPU: the host waits for nothing, the numbers are the same."""

from argparse import Namespace

import pytest
import torch
import toys
from as_on_a_gpu import Calls, take_its_way
from toys import LONG

import mlm_task
import ns_task
import qa_task
import race_task
import utils
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from training import sharding
from training.ranks import Ranks

CORPUS = toys.corpus(*LONG)


def mixed():
    """Articles whose questions have three or four options."""
    articles = toys.articles()
    for article in articles[::2]:
        article.options = [options[:3] for options in article.options]
        article.answers = [min(answer, 2) for answer in article.answers]
    return articles


TASKS = {
    "mlm": (MLMTask, 9000, {}, lambda p: toys.blocks(CORPUS), mlm_task, "muon"),
    "ns": (NextSentenceTask, 9000, {}, lambda p: toys.pairs(CORPUS), ns_task, "muon"),
    "qa": (QuestionAnswerTask, 0, {}, lambda p: toys.windows(toys.squad(contexts=3), p), qa_task, "adamw"),
    "race": (RaceTask, 0, {}, lambda p: toys.options(toys.articles(), p), race_task, "adamw"),
    "race of three or four, dcmn": (RaceTask, 0, dict(head="dcmn", compare_options=True),
                                    lambda p: toys.options(mixed(), p), race_task, "adamw"),
    "race of three or four, joint, duma": (RaceTask, 0, dict(head="duma"),
                                           lambda p: toys.options(mixed(), p, layout="joint"), race_task, "adamw"),
}  # fmt: skip
every_task = pytest.mark.parametrize("task", TASKS)


def trainer(task, places, folder, **changes):
    cls, words, settings, examples, script, optimizer = TASKS[task]
    torch.manual_seed(0)
    model = cls(BertConfig(words or len(toys.LETTERS), 16, 2, 2, 32, max_position_embeddings=128, **settings,
                           hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))  # fmt: skip
    args = Namespace(
        parallel="None", log_dir=folder, save=str(folder / "toy.pt"), optimizer=optimizer, precision="fp32",
        weight_decay=0.01, batch_size=6, accumulate=2, minutes=None, steps=9, warmup=0.0, lr=0.01, seed=1, clip=1.0,
        save_minutes=10.0, valid_examples=None, log_interval=3, compile="off",
    )  # fmt: skip
    args = Namespace(**{**vars(args), **changes})
    named = utils.Task(task.split()[0], model, toys.LETTERS, {"train": examples(places)}, script.loss, None, None, None)
    return utils.Trainer(named, args, Ranks())


def steps(run, count):
    for (micro_batches, counts, _), _ in zip(run.work(), range(count), strict=False):
        run.step(micro_batches, counts, 0.5)
        run.state.step += 1
    return run


@every_task
def test_the_host_waits_for_nothing_in_a_step(places, tmp_path, monkeypatch, task):
    take_its_way(monkeypatch)
    run = steps(trainer(task, places, tmp_path), 1)
    micro_batches, counts, _ = next(run.work())
    with Calls() as calls:
        run.step(micro_batches, counts, 0.5)
    assert not calls.reads and sum(calls.count.values()) > 100
    with Calls() as calls:
        run.step(micro_batches, counts, 0.5)
        float(run.engine.model.classifier.bias.sum() if task != "mlm" else run.engine.model.bias.sum())
    assert calls.reads == {"aten::_local_scalar_dense": 1}  # it would be seen


@every_task
def test_the_way_of_a_gpu_gives_the_numbers_of_a_cpu(places, tmp_path, monkeypatch, task):
    on_cpu = steps(trainer(task, places, tmp_path), 4)
    take_its_way(monkeypatch)
    monkeypatch.setattr(sharding, "half_precision", lambda device: torch.float32)  # Muon's products there
    run = steps(trainer(task, places, tmp_path), 4)
    assert len(run.unread) == 1 and len(run.state.recent) == 3  # the last one may be at work
    run.read_steps()
    for one, other in zip(run.state.recent, on_cpu.state.recent, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    for one, other in zip(run.engine.model.parameters(), on_cpu.engine.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_a_step_without_a_finite_loss_changes_nothing_and_is_counted_one_step_later(places, tmp_path, monkeypatch):
    take_its_way(monkeypatch)
    run = steps(trainer("mlm", places, tmp_path), 2)
    weights, averages = ({name: value.clone() for name, value in values.items()} for values in
                         (run.engine.model.state_dict(), numbered(run)))  # fmt: skip
    loss = run.task.loss
    run.task.loss = lambda model, batch: loss(model, batch) * float("nan")
    steps(run, 1)
    assert run.state.bad == 0
    assert all(torch.equal(value, weights[name]) for name, value in run.engine.model.state_dict().items())
    assert all(torch.equal(value, averages[name]) for name, value in numbered(run).items())
    run.task.loss = loss
    steps(run, 1)
    assert (run.state.bad, run.state.skipped) == (1, 1)
    run.read_steps()
    assert (run.state.bad, run.state.skipped) == (0, 1)
    assert not any(torch.equal(p, weights[name]) for name, p in run.engine.model.named_parameters() if p.dim() == 2)


def numbered(run):
    """All that the optimizer keeps, but for Muon's steps, which nobody reads."""
    return {(number, name): value for number, values in run.engine.optimizer.state_dict()["state"].items()
            for name, value in values.items() if "momentum" not in values or name != "step"}  # fmt: skip
