"""Windows of a passage: every question is kept, every token is read, and answers are found as slices of the text."""

import numpy as np
import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st
from toys import LETTERS, parts, some, windows

from files.mistakes import UserError
from text.batches import EVALUATION, MARKED
from text.questions import Question, SquadSet

QUESTIONS = toys.squad(contexts=5)
sizes = st.tuples(st.integers(0, 10**6), st.integers(16, 90), st.integers(1, 60))


@some
@given(sizes)
def test_windows_show_every_question_and_every_token_of_its_context(places, size):
    seed, max_length, stride = size
    squad = toys.squad(seed, contexts=2, words=60)
    squad.questions[0].text = "what is the cat " * 40  # longer than a row
    data = windows(squad, places, max_length, stride)
    for number, question in enumerate(squad.questions):
        mine = np.flatnonzero(data.windows[:, 0] == number)
        shown = [set(range(first, first + count)) for _, first, count in data.windows[mine]]
        assert set.union(*shown) == set(range(len(data.texts.text(question.context))))
        asked, whole = data.question_tokens(mine[0]).tolist(), LETTERS.encode_ids(question.text)
        assert asked == whole[: max_length // 2]
    assert data.lengths.max() <= max_length


def test_a_row_is_question_then_context_as_bert_wants_it(places):
    data = windows(QUESTIONS, places)
    batch = data.collate(range(len(data)), EVALUATION)
    assert batch["input_ids"].shape[1] <= 48
    assert batch["attention_mask"].sum(1).tolist() == data.lengths.tolist()
    for row, (number, first, count) in enumerate(data.windows):
        question = QUESTIONS.questions[number]
        context = LETTERS.encode_ids(QUESTIONS.contexts[question.context])[first : first + count]
        assert parts(batch, row) == (LETTERS.encode_ids(question.text)[:24], context)


@some
@given(sizes)
def test_marked_are_the_tokens_of_a_context_that_stand_in_the_question(places, size):
    seed, max_length, stride = size
    squad = toys.squad(seed, contexts=2, words=60)
    plain, data = (windows(squad, places, max_length, stride, marks=marks) for marks in ("none", "question"))
    before, batch = (one.collate(range(len(one)), 0) for one in (plain, data))
    marked = batch.pop("token_type_ids") == MARKED
    kinds = before.pop("token_type_ids")
    assert all(torch.equal(batch[name], before[name]) for name in batch)
    for row, length in enumerate(data.lengths):
        base, ids = data.context_start(row), batch["input_ids"][row].tolist()
        asked = set(ids[1 : base - 1])
        wanted = [base <= place < length - 1 and ids[place] in asked for place in range(len(ids))]
        assert marked[row].tolist() == wanted
        assert kinds[row].tolist() == [int(base <= place < length) for place in range(len(ids))]


def test_what_is_hidden_is_not_marked(places):
    data = windows(QUESTIONS, places, marks="question", show="question")
    assert data.collate(range(len(data)), 0)["token_type_ids"].max() < MARKED


def test_windows_of_a_context_overlap_by_what_the_stride_leaves(places):
    data = windows(QUESTIONS, places, max_length=60, stride=10)
    for one, other in zip(data.windows, data.windows[1:], strict=False):
        if one[0] == other[0]:
            assert other[1] == one[1] + 10
    with pytest.raises(UserError, match="--stride 0"):
        windows(QUESTIONS, places, stride=0)


@some
@given(sizes)
def test_answers_are_found_again_as_slices_of_the_text(places, size):
    seed, max_length, stride = size
    squad = toys.squad(seed, contexts=2, words=60)
    data = windows(squad, places, max_length, stride)
    batch, found = data.collate(range(len(data)), 0), set()
    for row, (number, first, count) in enumerate(data.windows):
        question = squad.questions[number]
        start, end = int(batch["start"][row]), int(batch["end"][row])
        if start == 0:
            tokens = data.answer_tokens(question)
            assert end == 0 and (tokens is None or tokens[0] < first or tokens[1] >= first + count)
            continue
        spans, shift = data.texts.text_spans(question.context), first - data.context_start(row)
        text = squad.contexts[question.context][spans[start + shift, 0] : spans[end + shift, 1]]
        assert text == question.answers[0][0]
        found.add(number)
    longest = max(len(LETTERS.encode_ids(q.answers[0][0])) if q.answers else 0 for q in squad.questions)
    room = max_length - 3 - max_length // 2  # for the context, beside the longest question
    if min(stride, room // 2) + longest <= room:  # some window holds any answer
        assert found == {number for number, q in enumerate(squad.questions) if q.answers}


def test_questions_without_an_answer_point_at_the_first_token(places):
    data = windows(QUESTIONS, places)
    impossible = [w for w, (number, _, _) in enumerate(data.windows) if not QUESTIONS.questions[number].answers]
    batch = data.collate(impossible, 0)
    assert impossible and not batch["start"].any() and not batch["end"].any()


def test_an_answer_within_a_token_is_covered_by_it(places):
    squad = SquadSet(["a river, garden."], [Question("q", "what ?", 0, "", [("iver, gard", 3)])], False)
    data = windows(squad, places)
    batch = data.collate([0], 0)
    spans, shift = data.texts.text_spans(0), data.context_start(0)
    covered = squad.contexts[0][spans[batch["start"][0] - shift, 0] : spans[batch["end"][0] - shift, 1]]
    assert covered == "river, garden"


@some
@given(sizes)
def test_each_context_token_is_best_in_exactly_one_window(places, size):
    seed, max_length, stride = size
    squad = toys.squad(seed, contexts=1, words=40, questions=2)
    data = windows(squad, places, max_length, stride)
    best = {}
    for window, (number, first, _) in enumerate(data.windows):
        for token in first + np.flatnonzero(data.best_context(window)):
            best.setdefault((int(number), int(token)), []).append(window)
    length = len(data.texts.text(0))
    assert sorted(best) == [(number, token) for number in range(len(squad.questions)) for token in range(length)]
    assert all(len(winners) == 1 for winners in best.values())
    for (number, token), (winner,) in best.items():  # no other window shows more on the poorer side
        contexts = {w: min(token - first, first + count - 1 - token) + 0.01 * count
                    for w, (n, first, count) in enumerate(data.windows) if n == number and first <= token < first + count}
        assert contexts[winner] == max(contexts.values())


def test_a_stride_longer_than_a_window_leaves_no_answer_between_two(places):
    asked = [Question(f"q{n}", "who ?", 0, "", [("cat", 4 * n)]) for n in range(60)]
    data = windows(SquadSet(["cat " * 60], asked, False), places, max_length=24, stride=24)
    starts = data.collate(range(len(data)), 0)["start"].numpy()
    assert {int(number) for number, start in zip(data.windows[:, 0], starts, strict=True) if start} == set(range(60))


def test_validation_on_a_part_takes_whole_questions(places):
    whole = windows(QUESTIONS, places)
    for limit in (1, 7, 30, len(whole), 10**6):
        part, count = windows(QUESTIONS, places).spread(limit), np.bincount(whole.windows[:, 0])
        numbers = np.unique(part.windows[:, 0])
        assert len(part) <= limit or len(numbers) == 1
        assert np.bincount(part.windows[:, 0], minlength=len(count))[numbers].tolist() == count[numbers].tolist()
        kept = np.isin(whole.windows[:, 0], numbers)
        assert (part.windows == whole.windows[kept]).all() and (part.lengths == whole.lengths[kept]).all()
        for ours, theirs in enumerate(np.flatnonzero(kept)):
            assert (part.best_context(ours) == whole.best_context(theirs)).all()
            assert (part.question_tokens(ours) == whole.question_tokens(theirs)).all()
    assert len(windows(QUESTIONS, places).spread(30)) > 15 and len(part) == len(whole)
