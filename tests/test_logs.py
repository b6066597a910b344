"""What a run leaves beside its result."""

import sys
from types import SimpleNamespace

import pytest
import torch

from files.mistakes import UserError
from training.logs import Logs, draw_losses, settings
from training.states import State


@pytest.mark.parametrize("steps, drawn", [([], False), ([10], False), ([10, 20], True)])
def test_a_picture_of_the_loss_wants_two_points_of_a_curve(tmp_path, steps, drawn):
    pytest.importorskip("matplotlib")
    history = [(step, "train", {"loss": 3.0}) for step in steps] + [(20, "valid", {"loss": 2.0, "f1": 50.0})]
    draw_losses(history, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").exists() == drawn
    assert not drawn or (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_disk_without_room_for_the_history_does_not_end_the_run(tmp_path, monkeypatch):
    said = []

    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.logs.write_json", full)
    Logs.write_history(SimpleNamespace(folder=tmp_path, say=said.append), State())
    assert said == [f"warning: {tmp_path / 'history.json'} stays as it was (No space left on device); the run goes on"]


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """The logs of a run, with a line every 4 steps, and ``clock.time``, the seconds that it sees."""
    clock = SimpleNamespace(time=100.0)
    monkeypatch.setattr("training.logs.time.monotonic", lambda: clock.time)
    args = SimpleNamespace(log_dir=tmp_path, log_interval=4, dataset="Sample")
    schedule = SimpleNamespace(batches_per_epoch=10, seconds=lambda state: 1.0)
    made = Logs("mlm", lambda part, figures: "", args, SimpleNamespace(first=True, device=torch.device("cpu")), schedule)
    made.bar, made.said = SimpleNamespace(n=0, update=lambda _: None, disable=True), []
    made.say = made.said.append
    return made, clock


def test_the_first_rate_after_a_stop_is_of_the_steps_since(logs, capsys):
    made, clock = logs
    state = State(step=3, batch=3, recent=[(2.0, 1, 100)] * 3)
    made.restart(state)
    clock.time += 0.5
    for step in range(4, 9):
        made.note(state, (6.0, 1, 100))
        state.step = state.batch = step
        made.step(state, 0.5, 1e-3, 1.0)
        clock.time += 0.25
    (_, _, first), (_, _, second) = state.history
    assert first["loss"] == 3.0 and first["tokens_per_second"] == 200  # the loss is of all four steps
    assert second["loss"] == 6.0 and second["tokens_per_second"] == 400
    assert ["ms/batch 500.00" in line for line in capsys.readouterr().out.splitlines()] == [True, False]


def test_a_board_that_cannot_be_written_is_told_of_once_and_left(logs, tmp_path):
    made, _ = logs

    def full(*_):
        raise OSError(28, "No space left on device")

    made.board = SimpleNamespace(add_scalar=full)
    state = State()
    made.record(state, "train", {"loss": 1.0, "lr": 0.1})
    made.record(state, "train", {"loss": 1.0})
    assert made.said == [f"warning: {tmp_path}: nothing more for TensorBoard (No space left on device); the run goes on"]
    assert len(state.history) == 2


def test_a_picture_that_cannot_be_written_does_not_end_the_run(logs, tmp_path, monkeypatch):
    made, _ = logs

    def refuse(*_):
        raise UserError("loss.png: cannot be written")

    monkeypatch.setattr("training.logs.draw_losses", refuse)
    made.close(State())
    assert (tmp_path / "history.json").exists()


def test_settings_name_each_of_several_data_sets():
    told = settings("mlm", SimpleNamespace(dataset=["BookCorpus", "SQuAD1"], lr=0.1, words=["a"], no_test=False), 9)
    assert told == {"task": "mlm", "dataset": "BookCorpus, SQuAD1", "lr": 0.1, "parameters": 9}


@pytest.mark.parametrize(("missing", "told"), [
    (["matplotlib"], "no loss.png, without pip install matplotlib"),
    (["tensorboard", "torch.utils.tensorboard"], "nothing for TensorBoard, without pip install tensorboard"),
])  # fmt: skip
def test_what_is_left_out_without_a_library_is_told_with_its_name(logs, monkeypatch, capsys, missing, told):
    for name in ("matplotlib", "tensorboard"):
        pytest.importorskip(name)
    made, _ = logs
    monkeypatch.setattr("files.mistakes.TOLD", set())
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    made.schedule.steps, made.ranks.rank = 10, 0
    made.open(State(), 1000)
    assert capsys.readouterr().err == f"note: {told}\n"
