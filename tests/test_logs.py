"""What a run leaves beside its result."""

from types import SimpleNamespace

import pytest

from training.logs import Logs, draw_losses
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
