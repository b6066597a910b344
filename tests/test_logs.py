"""What a run leaves beside its result."""

import pytest

from training.logs import draw_losses


@pytest.mark.parametrize("steps, drawn", [([], False), ([10], False), ([10, 20], True)])
def test_a_picture_of_the_loss_wants_two_points_of_a_curve(tmp_path, steps, drawn):
    pytest.importorskip("matplotlib")
    history = [(step, "train", {"loss": 3.0}) for step in steps] + [(20, "valid", {"loss": 2.0, "f1": 50.0})]
    draw_losses(history, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").exists() == drawn
    assert not drawn or (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
