"""Runs of a toy in this process: losses that are not numbers, stops at any step, restarts, models that others write.

Whole commands that are killed are in test_resume.py.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import sys

import pytest
import torch
import toys
from as_on_a_gpu import take_its_way
from toys import saved

import checkpoint
import mlm_task
import utils
from files.mistakes import UserError
from model import BertConfig, MLMTask
from text.masked_blocks import MaskedBlocks
from training import flags, logs, saving, sharding, states
from training.ranks import Ranks
from training.saving import PATIENCE


@pytest.fixture
def toy(tmp_path):
    """``toy("--steps 9", bad=[3])`` trains a toy in this process; the losses of the calls in ``bad`` are not numbers, and
    in that of ``stop_at`` comes a SIGTERM."""

    def call(line, bad=(), bad_validations=(), stop_at=None):
        parser = flags.parser("toy", "A toy.", save=str(tmp_path / "toy.pt"), epochs=1, batch_size=4, bptt=16,
                              optimizer="adamw", log_dir=str(tmp_path / "runs"))  # fmt: skip
        args = parser.parse_args(["--dropout", "0", "--log-interval", "1", "--lr", "0.01", *line.split()])
        tokenizer = toys.letters()
        corpus = toys.corpus(*[[8, 9, 7] * 4] * 3)
        corpus.tokens = (corpus.tokens % 40 + 10).astype("u2")
        examples = {split: MaskedBlocks(corpus, tokenizer, 16, 1) for split in ("train", "valid", "test")}
        torch.manual_seed(1)
        model = MLMTask(BertConfig(len(tokenizer), 16, 1, 2, 32, max_position_embeddings=16, hidden_dropout_prob=0.0,
                                   attention_probs_dropout_prob=0.0))  # fmt: skip
        calls, validations = itertools.count(), itertools.count(1)

        def loss(model, batch):
            number = next(calls)
            if number == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return mlm_task.loss(model, batch) * (float("nan") if number in bad else 1.0)

        def figures(data, rows):
            made = mlm_task.figures(data, rows)
            return dict.fromkeys(made, float("nan")) if next(validations) in bad_validations else made

        task = utils.Task("toy", model, tokenizer, examples, loss, mlm_task.rows, figures, mlm_task.summary)
        code = utils.run(task, args, Ranks())
        result = tmp_path / "runs/result.json"
        return code, json.loads(result.read_text()) if result.exists() else None

    return call


def test_a_run_goes_on_under_another_name_of_its_model(toy, tmp_path):
    toy("--steps 3")
    assert toy(f"--steps 3 --resume --save {tmp_path}/other.pt")[1]["steps"] == 3  # over: no validation writes it
    assert (tmp_path / "other.pt").read_bytes() == (tmp_path / "toy.pt").read_bytes()
    (tmp_path / "other.pt").unlink()
    assert toy("--steps 6 --resume")[0] == 0  # from toy.pt, which is there


def test_a_best_model_that_is_gone_is_told_at_once_or_made_up_for(toy, tmp_path, capsys):
    toy("--steps 3")
    (tmp_path / "toy.pt").unlink()
    with pytest.raises(UserError, match=r"toy\.pt: the run is over, and its best model is not there; .*raise the budget"):
        toy("--steps 3 --resume")
    assert toy("--steps 6 --resume")[0] == 0 and (tmp_path / "toy.pt").exists()
    assert "the next validation writes" in capsys.readouterr().out


def test_a_model_that_another_run_has_saved_since_is_not_taken_for_the_best_one(toy, tmp_path, capsys):
    toy("--steps 3")
    (tmp_path / "toy.pt").write_bytes(b"another run's")
    with pytest.raises(UserError, match="its best model is not there"):
        toy("--steps 3 --resume")
    assert toy("--steps 6 --resume")[0] == 0
    assert "no longer the best model so far; the next validation writes" in capsys.readouterr().out


def test_what_another_run_saves_meanwhile_is_not_scored(toy, tmp_path, monkeypatch):
    close = logs.Logs.close
    monkeypatch.setattr(logs.Logs, "close", lambda *args: close(*args) or (tmp_path / "toy.pt").write_bytes(b"another"))
    with pytest.raises(UserError, match=r"toy\.pt: not what this run has saved there"):
        toy("--steps 3")


def test_a_run_that_goes_on_with_a_budget_already_spent_validates_what_it_has(toy, tmp_path, capsys):
    assert toy("--steps 90", stop_at=4)[0] == 75
    capsys.readouterr()
    (tmp_path / "toy.pt").unlink(missing_ok=True)  # no matter, then
    steps = toy("--steps 5 --resume")[1]["steps"]
    assert steps < 18 and re.findall(r"step +(\d+) \| time", capsys.readouterr().out) == [str(steps)]


# Losses that are not finite


def test_what_fails_in_scoring_fails_before_the_first_step(toy, monkeypatch):
    monkeypatch.setattr(mlm_task, "rows", lambda *_: 1 / 0)
    monkeypatch.setattr(utils.Trainer, "step", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(ZeroDivisionError):
        toy("--steps 5")


def test_a_step_without_a_finite_loss_is_skipped_and_counted(toy, capsys):
    code, result = toy("--steps 9 --save-minutes 1e-9", bad=[3, 5, 6])
    assert code == 0 and result["skipped_steps"] == 3 and result["steps"] == 9
    assert "3 skipped" in capsys.readouterr().out


def test_a_last_step_without_a_finite_loss_does_not_undo_the_end(toy, tmp_path):
    assert toy("--steps 9 --save-minutes 9", bad=[8])[0] == 0
    state = saved(tmp_path / "runs")["state"]
    assert state["step"] == 9 and state["best"] is not None


def test_a_state_without_finite_losses_does_not_take_the_place_of_the_last_good_one(toy, capsys):
    """The first validation comes amid them: the run goes back to where it began, and on from there."""
    code, result = toy("--steps 40", bad=range(6, 11), bad_validations=[1])
    assert code == 0 and "going back to step 0, on with 0.3" in capsys.readouterr().out and result["steps"] == 40


def test_a_validation_that_was_cut_short_is_made_up_for(toy, monkeypatch, capsys):
    with monkeypatch.context() as cut, pytest.raises(ZeroDivisionError):
        cut.setattr(utils.Computer, "score", lambda *_: 1 / 0)
        toy("--steps 10")
    assert toy("--steps 10 --resume")[0] == 0
    output = capsys.readouterr().out
    assert "at step 2\n" in output and re.findall(r"step +(\d+) \| time", output) == ["2", "4", "6", "8", "10"]


def test_where_the_first_model_finds_no_room_the_state_is_saved_and_the_run_goes_on_from_it(toy, monkeypatch, tmp_path):
    def full(*_):
        raise RuntimeError("unexpected pos 64 vs 0")

    with monkeypatch.context() as cut:
        cut.setattr(checkpoint, "save_model", full)
        with pytest.raises(UserError, match=r"toy\.pt: the model could not be saved .*; make room, and go on with --res"):
            toy("--steps 10")
    assert saved(tmp_path / "runs")["state"]["step"] == 2
    assert toy("--steps 10 --resume")[1]["steps"] == 10


def test_after_a_restart_the_state_of_another_job_is_not_gone_on_from(toy, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    toy("--steps 3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    toy("--steps 5")
    assert "resuming from" in capsys.readouterr().out
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    toy("--steps 3")
    assert "resuming from" not in capsys.readouterr().out


def test_after_a_restart_the_state_of_another_command_of_the_job_is_not_gone_on_from(toy, monkeypatch, tmp_path, capsys):
    """As of a job that trains one model after another in one folder, and was requeued amid the first."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(sys, "argv", ["toy.py", "--lr", "0.01"])
    toy("--steps 3")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    toy("--steps 3")
    assert "resuming from" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["toy.py", "--lr", "0.02"])
    toy("--steps 3 --lr 0.02")
    assert "of another job or command" in capsys.readouterr().out
    assert saved(tmp_path / "runs")["arguments"]["lr"] == 0.02
    monkeypatch.setattr(sys, "argv", ["toy.py", "--seed", "9"])
    assert toy("--steps 3 --seed 9")[0] == 0


def test_a_restart_that_another_ranks_torchrun_has_counted_resumes_as_well(toy, monkeypatch, capsys):
    line = "--steps 9 --no-test"
    monkeypatch.setattr("sys.argv", ["toy.py", *line.split()])
    toy(line, stop_at=4)
    monkeypatch.setattr("training.saving.restarted", lambda: False)
    monkeypatch.setattr(Ranks, "sum", lambda self, *values: [value + (type(value) is int) for value in values])
    with contextlib.suppress(Exception):  # all that is summed is wrong now
        toy(line)
    assert "resuming from" in capsys.readouterr().out


def test_torchruns_restart_does_not_go_on_from_what_another_torchrun_left(toy, monkeypatch, capsys):
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("GROUP_WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    toy("--steps 3")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    toy("--steps 5")
    assert "resuming from" in capsys.readouterr().out
    monkeypatch.setattr(os, "getppid", lambda: -1)  # nobody's
    toy("--steps 5")
    assert "resuming from" not in capsys.readouterr().out


@pytest.fixture
def scaled(monkeypatch):
    """fp16's scaler, as if this were a GPU; gradients overflow until its scale has come down a little."""
    monkeypatch.setattr(sharding, "make_scaler", lambda *_, **__: torch.amp.GradScaler("cpu", 2.0**127, 2.0, 0.7))


def test_steps_that_overflow_in_fp16_are_skipped_and_counted_and_no_reason_to_go_back(toy, scaled, tmp_path, capsys):
    code, result = toy("--steps 20 --save-minutes 1e-9")
    told, state = capsys.readouterr().out, saved(tmp_path / "runs")
    assert code == 0 and result["steps"] == 20 and result["skipped_steps"] > PATIENCE
    assert f"{result['skipped_steps']} skipped" in told and "going back" not in told
    trained = max(int(values["step"]) for values in state["optimizer"]["state"].values())
    assert result["skipped_steps"] + trained == 20 and state["scaler"]["scale"] < 2.0**127


def test_a_run_goes_on_in_fp16_from_a_state_of_another_precision(toy, request):
    toy("--steps 3")
    request.getfixturevalue("scaled")
    assert toy("--steps 20 --resume")[1]["steps"] == 20


def test_what_a_run_has_gone_back_over_does_not_count_in_its_speed(toy, tmp_path):
    _, result = toy("--steps 20 --save-minutes 1e-9", bad=range(7, 12))
    state = saved(tmp_path / "runs")["state"]
    assert state["lost"] > 0
    seconds = state["seconds"] - state["validating"] - state["lost"]
    assert result["tokens_per_second"] == pytest.approx(result["tokens"] / seconds, rel=0.01)


def test_a_run_that_was_stopped_before_its_scores_is_not_over(toy, monkeypatch, tmp_path, capsys):
    """The same command without --resume keeps its state; once there are scores, it does not."""
    with monkeypatch.context() as cut, pytest.raises(ZeroDivisionError):
        cut.setattr(utils, "score_test", lambda *_: 1 / 0)
        toy("--steps 5")
    assert toy("--steps 5")[0] == 0 and "unfinished run, at step 5: kept as" in capsys.readouterr().out
    assert (tmp_path / "runs/earlier-1.pt").exists()
    assert toy("--steps 5")[0] == 0 and "unfinished" not in capsys.readouterr().out


def test_the_best_model_of_an_unfinished_run_is_kept_with_its_state(toy, monkeypatch, tmp_path, capsys):
    with monkeypatch.context() as cut, pytest.raises(ZeroDivisionError):
        cut.setattr(utils, "score_test", lambda *_: 1 / 0)
        toy("--steps 5")
    best = (tmp_path / "toy.pt").read_bytes()
    toy("--steps 3")
    assert "toy.pt: the best model of the unfinished run, and this one writes it; kept as" in capsys.readouterr().out
    assert (tmp_path / "toy-before-1.pt").read_bytes() == best != (tmp_path / "toy.pt").read_bytes()
    (tmp_path / "toy-before-1.pt").replace(tmp_path / "toy.pt")  # and on, as is told
    (tmp_path / "runs/earlier-1.pt").replace(tmp_path / "runs/state.pt")
    assert toy("--steps 5 --resume")[0] == 0


def test_a_run_that_goes_on_from_another_folder_finds_its_best_model(toy, monkeypatch, tmp_path):
    for folder, more in (("a", ""), ("b", "--resume")):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        assert toy(f"--steps 3 --save toy.pt {more}")[0] == 0
    assert (tmp_path / "b/toy.pt").read_bytes() == (tmp_path / "a/toy.pt").read_bytes()


def test_a_signal_while_the_last_state_is_written_is_obeyed(toy, monkeypatch):
    save = saving.Saving.state

    def told_to_stop(self, state, wait=False):
        save(self, state, wait)
        if wait and state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(saving.Saving, "state", told_to_stop)
    monkeypatch.setattr(utils, "score_test", lambda *_: 1 / 0)
    assert toy("--steps 5")[0] == 75


@pytest.mark.parametrize("flags, earlier", [("", True), ("--no-test", False)], ids=["with scores", "without"])
def test_a_signal_amid_the_scores_leaves_what_goes_on(toy, monkeypatch, tmp_path, capsys, flags, earlier):
    """Where no scores were wanted there is nothing to go on with."""
    left = []
    monkeypatch.setattr(os, "_exit", left.append)

    def score(tasks, args, ranks):
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError

    with monkeypatch.context() as cut, contextlib.suppress(ZeroDivisionError):
        cut.setattr(utils, "score_test", score)
        toy(f"--steps 5 {flags}")
    assert ("stopped before the last scores" in capsys.readouterr().out) == earlier == (left == [75])
    toy("--steps 5")
    assert (tmp_path / "runs/earlier-1.pt").exists() == earlier


def test_a_stop_whose_state_finds_no_room_says_so(toy, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "Hashed", full)
    assert toy("--steps 9", stop_at=4)[0] == 75
    told = capsys.readouterr().out
    assert "stopped at step 6, which could not be saved: make room; go on with the same command and --resume" in told


def test_five_in_a_row_and_the_run_goes_back_with_a_lower_rate(toy, tmp_path, capsys):
    code, result = toy("--steps 20 --save-minutes 1e-9", bad=range(7, 12))
    assert code == 0 and result["skipped_steps"] == 5 and result["steps"] == 20
    assert "up to step 12: going back to step 7, on with 0.3 of the learning rate" in capsys.readouterr().out
    assert saved(tmp_path / "runs")["state"]["lowered"] == 0.3


def test_on_a_gpu_the_run_goes_back_one_step_later(toy, tmp_path, capsys, monkeypatch):
    take_its_way(monkeypatch)
    code, result = toy("--steps 20 --log-interval 50", bad=range(8, 13))
    assert code == 0 and result["skipped_steps"] == 5 and result["steps"] == 20
    assert "up to step 14: going back to step 8, on with 0.3 of the learning rate" in capsys.readouterr().out
    assert saved(tmp_path / "runs")["state"]["lowered"] == 0.3


def test_on_a_gpu_steps_that_overflow_are_skipped_as_on_a_cpu(toy, scaled, tmp_path, monkeypatch):
    on_cpu = toy("--steps 20")[1]["skipped_steps"]
    take_its_way(monkeypatch)
    code, result = toy("--steps 20 --log-interval 50")
    state = saved(tmp_path / "runs")
    assert code == 0 and result["skipped_steps"] == on_cpu > PATIENCE and len(state["state"]["recent"]) == 20
    trained = {int(values["step"]) for values in state["optimizer"]["state"].values()}
    assert trained == {20 - on_cpu} and state["scaler"]["scale"] < 2.0**127


def test_the_second_time_it_stops_and_a_lower_rate_goes_on(toy):
    again = r"no finite loss in 5 steps in a row, up to step 12, again.*--resume .*a lower --lr \(it was 0\.003\)"
    with pytest.raises(UserError, match=again):
        toy("--steps 20 --save-minutes 1e-9", bad=[*range(7, 12), *range(12, 17)])
    code, result = toy("--steps 20 --save-minutes 1e-9 --resume --lr 0.001")
    assert code == 0 and result["steps"] == 20


def test_a_validation_without_a_finite_score_does_not_stand_in_the_way_of_later_ones(toy, tmp_path):
    assert toy("--steps 10", bad_validations=[1])[0] == 0
    assert (tmp_path / "toy.pt").exists()


def test_a_run_without_any_finite_score_says_that_there_is_no_model(toy):
    with pytest.raises(UserError, match="no validation gave a finite score"):
        toy("--steps 3", bad_validations=range(1, 9))


def test_two_budgets_are_one_too_many(toy):
    with pytest.raises(UserError, match=r"^--steps 3 and --minutes 2: two budgets; leave one out$"):
        toy("--steps 3 --minutes 2")
