"""When a run validates, and on how much: a tenth of its minutes at most."""

from types import SimpleNamespace

import pytest

from training.ranks import Ranks
from training.schedule import Schedule
from training.states import State


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("training.schedule.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def run(clock, minutes, step_seconds, example_seconds, wanted=300, batch_size=16):
    """The progress at each validation, the examples of each, and the seconds that all took."""
    args = SimpleNamespace(minutes=minutes, steps=None, epochs=None, valid_examples=wanted, batch_size=batch_size)
    schedule, state, told, spent = Schedule(args, 1000, Ranks()), State(), [], 0.0
    while schedule.progress(state) < 1.0:
        clock.now += step_seconds
        state.step += 1
        if schedule.validation_due(progress := schedule.progress(state), state):
            state.valid_examples = state.valid_examples or schedule.affordable(state)
            seconds = state.valid_examples * example_seconds
            clock.now += seconds
            spent += seconds
            schedule.validated(state, progress, seconds)
            told.append(progress)
    return told, state.valid_examples, spent


def test_where_validations_cost_little_there_are_five_of_all_the_examples(clock):
    told, examples, _ = run(clock, minutes=10, step_seconds=0.5, example_seconds=0.01)
    assert told == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], abs=0.01) and examples == 300


@pytest.mark.parametrize("minutes", [1, 5, 30])
@pytest.mark.parametrize("example_seconds", [0.02, 0.1, 0.15])
def test_validations_take_a_tenth_of_the_minutes_or_are_one_of_the_fewest_examples(clock, minutes, example_seconds):
    told, examples, spent = run(clock, minutes, 48 * example_seconds, example_seconds)  # a step: 16 forward and back
    assert told[-1] >= 1.0 - 1e-9
    assert spent <= 0.1 * 60 * minutes * 1.05 or (len(told) <= 2 and examples == 50)


def test_where_scoring_takes_longer_than_the_steps_let_expect_it_is_done_less_often(clock):
    """Training reads one window of an article, scoring all of them."""
    told, examples, _ = run(clock, minutes=5, step_seconds=5.0, example_seconds=0.4)
    assert examples == 57 and len(told) == 2 and told[-1] == 1.0


def test_the_last_validation_is_at_the_end_whatever_the_rounding(clock):
    for steps in range(3, 60):
        told, *_ = run(clock, minutes=1, step_seconds=60 / steps, example_seconds=1e-6)
        assert told[-1] == 1.0, steps


def due_steps(clock, first, last, state):
    """At which of the steps from ``first`` to ``last``, which are all of the budget's end, a run validates."""
    args = SimpleNamespace(minutes=None, steps=last, epochs=None, valid_examples=300, batch_size=16)
    schedule, due = Schedule(args, 100, Ranks()), []
    for state.step in range(first, last + 1):
        clock.now += 1000.0
        if schedule.validation_due(schedule.progress(state), state):
            assert schedule.affordable(state) == 300
            schedule.validated(state, schedule.progress(state), 1000.0)
            due.append(state.step)
    return due


def test_under_steps_it_is_five_times_whatever_they_cost(clock):
    assert due_steps(clock, 1, 10, State()) == [2, 4, 6, 8, 10]
    assert due_steps(clock, 1, 3, State()) == [1, 2, 3]


def test_under_epochs_it_is_at_the_end_of_each(clock):
    args = SimpleNamespace(minutes=None, steps=None, epochs=3, valid_examples=300, batch_size=16)
    schedule, state, due = Schedule(args, 4, Ranks()), State(), []
    for state.step in range(1, 13):
        state.epoch, state.batch = divmod(state.step, 4)
        if schedule.validation_due(schedule.progress(state), state):
            due.append(state.step)
    assert due == [4, 8, 12]


def test_a_run_whose_steps_are_raised_goes_on_validating(clock):
    state = State()
    due_steps(clock, 1, 100, state)
    assert due_steps(clock, 101, 200, state) == [120, 160, 200]


def test_a_run_whose_minutes_are_raised_goes_on_validating(clock):
    state = State(step=100, seconds=600.0, validations=5, due=1.0, minutes=10)
    for minutes, due in [(10, 1.0), (30, 1 / 3 + 2 / 15)]:
        args = SimpleNamespace(minutes=minutes, steps=None, epochs=None, valid_examples=300, batch_size=16)
        Schedule(args, 100, Ranks()).given_more(state)
        assert state.due == pytest.approx(due) and state.minutes == minutes
    assert state.validations == 0


@pytest.mark.parametrize(("minutes", "examples", "best"), [(60, 144, None), (12, 50, 61.0), (10, 50, 61.0),
                                                           (None, 300, None)])  # fmt: skip
def test_more_minutes_choose_the_model_by_more_examples_where_they_allow_it(clock, minutes, examples, best):
    """Where they do not, or are spent already, the best model is what it was. Without minutes all examples are taken."""
    state = State(step=25, seconds=600.0, validations=2, due=1.0, minutes=5, valid_examples=50, best=61.0)
    args = SimpleNamespace(minutes=minutes, steps=None if minutes else 1000, epochs=None, valid_examples=300, batch_size=16)
    Schedule(args, 100, Ranks()).given_more(state)
    assert (state.valid_examples, state.best) == (examples, best)


def test_twice_the_minutes_bring_five_validations_more_of_as_many_examples_and_keep_the_best_model(clock):
    """Where a tenth of the minutes was just enough for the first five."""
    state = State(step=100, seconds=600.0, validating=60.0, validations=5, minutes=10, valid_examples=107, best=61.0)
    args = SimpleNamespace(minutes=20, steps=None, epochs=None, valid_examples=300, batch_size=16)
    Schedule(args, 100, Ranks()).given_more(state)
    assert (state.valid_examples, state.best, state.validations) == (107, 61.0, 0)


@pytest.mark.parametrize(("there", "best"), [(40, 61.0), (100, None)])
def test_of_a_set_that_all_was_scored_of_more_minutes_change_nothing(clock, there, best):
    state = State(step=25, seconds=600.0, validations=2, due=1.0, minutes=5, valid_examples=50, best=61.0)
    args = SimpleNamespace(minutes=60, steps=None, epochs=None, valid_examples=300, batch_size=16)
    Schedule(args, 100, Ranks(), there).given_more(state)
    assert state.best == best


def test_steps_that_were_gone_back_over_do_not_make_validations_smaller(clock):
    args = SimpleNamespace(minutes=60, steps=None, epochs=None, valid_examples=3000, batch_size=16)
    schedule = Schedule(args, 1000, Ranks())
    assert schedule.affordable(State(step=9, seconds=609.0, lost=600.0)) == schedule.affordable(State(step=9, seconds=9.0))


def test_a_run_by_steps_that_goes_on_by_minutes_validates_as_one_by_minutes(clock):
    state = State(step=100, seconds=600.0, validations=5)
    args = SimpleNamespace(minutes=20, steps=None, epochs=None, valid_examples=300, batch_size=16)
    Schedule(args, 100, Ranks()).given_more(state)
    assert state.due == pytest.approx(0.6) and state.validations == 0
