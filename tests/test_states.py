"""States of runs: whole or noticed, the last two kept, and gone on from by the same run only."""

import argparse
import hashlib
import io
import os
import pickle
import threading
from types import SimpleNamespace

import fuzz_models
import pytest
import torch
from toys import refused

from files import torch_zip
from files.mistakes import UserError
from training import sharding, states


def step_of(path):
    return torch.load(path, weights_only=True)["state"]["step"]


def content(step, finished=False, size=1000):
    return {"state": {"step": step, "finished": finished}, "model": {"weight": torch.full((size,), float(step))}}


@pytest.fixture
def kept(tmp_path):
    """States of a folder, and what they told."""
    told = []
    return states.States(tmp_path, told.append), told


def test_the_last_two_are_kept_and_the_newest_is_read(kept):
    own, told = kept
    assert own.load() is None
    for step in range(4):
        own.save(content(step), wait=step == 3)
    assert own.load()["state"]["step"] == 3 and not told
    assert step_of(own.folder / "state-before.pt") == 2


def test_what_changes_after_a_save_began_is_not_in_it(kept):
    own, _ = kept
    state = content(1)
    own.save(state)
    state["model"]["weight"].fill_(7)
    own.wait()
    assert own.load()["model"]["weight"][0] == 1


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_changed_bit_is_noticed_and_the_state_before_is_used(kept, place):
    own, told = kept
    own.save(content(1), wait=True)
    own.save(content(2), wait=True)
    whole = bytearray(own.newest.read_bytes())
    whole[{"first": 0, "middle": len(whole) // 2, "last": -1}[place]] ^= 1
    own.newest.write_bytes(whole)
    assert own.load()["state"]["step"] == 1 and "state.pt is damaged" in told[0]
    own.clear_damaged()
    own.save(content(3), wait=True)
    assert step_of(own.folder / "state-before.pt") == 1  # not the damaged one


@pytest.mark.parametrize("left", [0, 10, 500])
def test_a_file_cut_short_is_noticed(kept, left):
    own, _ = kept
    own.save(content(1), wait=True)
    own.newest.write_bytes(own.newest.read_bytes()[:left])
    with pytest.raises(UserError, match="no other state is whole"):
        own.load()


def test_between_two_renamings_the_state_before_serves(kept):
    own, _ = kept
    own.save(content(1), wait=True)
    os.replace(own.newest, own.before)
    assert own.load()["state"]["step"] == 1


def test_a_new_run_keeps_what_an_unfinished_one_left(kept):
    own, told = kept
    for step in (1, 2):
        own.save(content(step), wait=True)
        own.set_aside()
    assert own.load() is None and f"rename that to {own.newest} and add --resume" in told[0]
    assert [step_of(own.folder / f"earlier-{n}.pt") for n in (1, 2)] == [1, 2]


def test_what_cannot_be_read_but_is_whole_is_kept_as_well(kept, monkeypatch):
    own, told = kept
    own.save(content(1), wait=True)
    monkeypatch.setattr(torch_zip, "as_tensors", lambda *_: 1 / 0)  # as a later version's might be, or one that is too long
    own.set_aside()
    assert (own.folder / "earlier-1.pt").exists() and "at step ?: kept as" in told[0]


def test_a_folder_that_looks_half_written_stands_in_nobodys_way(kept):
    own, _ = kept
    (own.folder / "export.tmp12").mkdir()
    (own.folder / "state.pt.tmp12").write_text("half")
    own.remove_unfinished()
    assert [path.name for path in own.folder.iterdir()] == ["export.tmp12"]


def test_a_new_run_takes_the_place_of_a_finished_one(kept):
    own, told = kept
    own.save(content(1, finished=True), wait=True)
    for name in ("result.json", "examples.json", "history.json", "loss.png", "events.out.tfevents.9.me", "evaluation.json"):
        (own.folder / name).write_text("[]")
    own.set_aside()
    assert not told and [path.name for path in own.folder.iterdir()] == ["evaluation.json"]  # of a model file of its own


def test_a_save_that_fails_is_told_and_leaves_the_older_state(kept, monkeypatch):
    own, told = kept
    own.save(content(1), wait=True)
    monkeypatch.setattr(os, "fsync", full_disk)
    own.save(content(2), wait=True)
    monkeypatch.undo()
    assert "step 2 could not be saved (No space left on device)" in told[0] and "state.pt stays" in told[0]
    assert own.load()["state"]["step"] == 1 and not list(own.folder.glob("*.tmp*"))


def full_disk(_):
    raise OSError(28, os.strerror(28))


def test_saving_happens_beside_the_training(kept, monkeypatch):
    own, _ = kept
    may_write = threading.Event()
    monkeypatch.setattr(torch, "save", lambda *_: may_write.wait(30))
    own.save(content(1))  # returns before it is written
    assert not own.newest.exists()
    may_write.set()
    own.wait()
    assert own.newest.exists()


# Which run goes on from which


def check(**changes):
    args = dict(seed=1, batch_size=8, lr=0.1, minutes=None, mask_frac=0.3, log_dir="a", bert_model="a/one.pt",
                checkpoint=None)  # fmt: skip
    state = {"path": "a/state.pt", "task": "mlm", "arguments": states.kept_arguments(SimpleNamespace(**args)),
             "sizes": {"hidden_size": 32}, "examples": 10, "vocabulary": "words"}  # fmt: skip
    task, sizes = changes.pop("task", "mlm"), {"hidden_size": changes.pop("width", 32)}
    examples, words = changes.pop("examples", 10), changes.pop("vocabulary", "words")
    states.check_same_run(state, task, sizes, SimpleNamespace(**{**args, **changes}), examples, words)


@pytest.mark.parametrize("changes, told", [
    (dict(seed=2), "--seed 2: the run in a/state.pt has 1;"), (dict(batch_size=4), "--batch-size 4: .* has 8;"),
    (dict(mask_frac=0.15), "--mask-frac 0.15: .* has 0.3;"), (dict(task="ns"), "belongs to another task"),
    (dict(bert_model="x/other.pt"), "--bert-model other.pt: the run in a/state.pt began by --bert-model one.pt;"),
    (dict(bert_model=None), "--bert-model none: .* began by"),
    (dict(checkpoint="one.pt"), "--checkpoint one.pt: .* began by --bert-model one.pt"),
    (dict(width=64), "hidden_size 32, now 64"), (dict(examples=9), "made with 10 training examples, now there are 9"),
    (dict(vocabulary="others"), "made with another vocabulary"),
], ids=str)  # fmt: skip
def test_a_state_of_another_run_is_refused_by_name_and_both_values(changes, told):
    with pytest.raises(UserError, match=told) as error:
        check(**changes)
    assert "\n" not in str(error.value)


def test_learning_rate_budget_and_places_may_change():
    check(lr=0.01, minutes=5.0, log_dir="b", bert_model="elsewhere/one.pt")


def test_another_model_of_the_same_name_is_another_run_and_a_moved_one_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a/one.pt").touch()
    check(bert_model="b/one.pt")  # which is not there: others tell
    (tmp_path / "b/one.pt").touch()
    with pytest.raises(UserError, match=r"one\.pt in b: the run in a/state.pt began by that in .*/a; resume with that"):
        check(bert_model="b/one.pt")
    check(bert_model=str(tmp_path / "a/one.pt"))
    (tmp_path / "a/one.pt").unlink()
    check(bert_model="b/one.pt")


FREE = """lr clip warmup epochs steps minutes save_minutes log_interval accumulate precision compile deterministic parallel
    world_size timeout_minutes data_dir cache_dir log_dir save""".split()


@pytest.mark.parametrize("name", FREE)
def test_what_the_page_says_may_change_may(name):
    """docs/clusters.rst."""
    before, now = (SimpleNamespace(**{"lr": 0.1, "bert_model": None, "checkpoint": None, name: value}) for value in (1, 2))
    state = {"path": "a/state.pt", "task": "mlm", "arguments": states.kept_arguments(before), "sizes": {}, "examples": 1}
    states.check_same_run(state, "mlm", {}, now, 1, "words")


# Damage that no checksum tells


def test_a_state_of_another_layout_or_optimizer_is_one_line(tmp_path):
    fuzz_models.good_state(tmp_path)
    good = torch.load(tmp_path / "state.pt", weights_only=True)

    def read(edit):
        saved = {**good, "state": dict(good["state"]), "optimizer": pickle.loads(pickle.dumps(good["optimizer"]))}
        edit(saved)
        stream = io.BytesIO()
        torch.save(saved, stream)
        (tmp_path / "state.pt").write_bytes(stream.getvalue() + hashlib.sha256(stream.getvalue()).digest())
        saved, args = states.States(tmp_path, print).load(), argparse.Namespace(lr=0.1, seed=0)
        states.check_layout(saved)
        states.check_same_run(saved, "mlm", {"hidden_size": 16}, args, 5, "words")
        return fuzz_models.restored(fuzz_models.trainer(), saved)

    read(lambda saved: None)
    for edit in (
        lambda saved: saved.pop("task"), lambda saved: saved.update(examples="x"),
        lambda saved: saved["state"].pop("step"),
        lambda saved: saved["state"].update(step="x"), lambda saved: saved["state"].update(recent=[1]),
        lambda saved: saved.update(model={}), lambda saved: saved["optimizer"]["state"].update({0: {"step": "x"}}),
        lambda saved: saved["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda saved: saved["optimizer"]["state"][0].pop("exp_avg"),
        lambda saved: saved["optimizer"]["param_groups"].pop(),
        lambda saved: saved["optimizer"]["param_groups"][0].update(amsgrad=True),
        lambda saved: saved["optimizer"]["param_groups"][0].update(params=[[]]),
    ):  # fmt: skip
        refused(lambda edit=edit: read(edit), "state.pt", "remove it")
    assert not sharding.belongs({}, [], 0)
