"""From logits to answers: the best spans, n-best lists, no answer, and several models as one, by hand and by a search."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LETTERS, log_softmax, windows

import qa_task
from metrics import squad_scores
from text import answers
from text.batches import EVALUATION
from text.questions import Question, SquadSet

some = settings(deadline=None, max_examples=25)
QUESTIONS = toys.squad(contexts=5)


# The answers of windows


def oracle(data, batch, sure=10.0):
    """A model that knows the answers: its logits point at them."""

    def model(**_):
        start, end = torch.zeros(batch["input_ids"].shape), torch.zeros(batch["input_ids"].shape)
        for row in range(len(start)):
            start[row, batch["start"][row]] = end[row, batch["end"][row]] = sure
        return start, end

    return model


def answered(data, n_best=5, longest=30):
    """What qa_task makes of an oracle's logits, four windows at a time."""
    rows = []
    for indices in np.array_split(np.arange(len(data)), -(-len(data) // 4)):
        batch = data.collate(indices, EVALUATION)
        found = qa_task.make_rows(n_best, longest)(oracle(data, batch), batch, data, indices)
        rows.extend(zip(indices.tolist(), found, strict=True))
    return answers.best_answers(data, answers.candidates(data, rows))


def test_an_oracle_scores_100_through_windows(places):
    data = windows(toys.squad(3, contexts=8), places, max_length=80, stride=20)
    texts, odds = answered(data)
    scores = squad_scores(qa_task.as_squad(data, texts), texts, odds, 0.5)
    assert scores["exact"] == scores["f1"] == 100 and scores["total"] == len(data.squad.questions)
    assert all((odds[q.id] > 0.5) == (not q.answers) for q in data.squad.questions)


def test_every_answer_stands_in_its_context(places):
    data = windows(QUESTIONS, places)
    batch = data.collate(range(len(data)), EVALUATION)
    logits = torch.randn(2, *batch["input_ids"].shape, generator=torch.Generator().manual_seed(1))
    rows = qa_task.make_rows(5, 4)(lambda **_: tuple(logits), batch, data, range(len(data)))
    texts, odds = answers.best_answers(data, answers.candidates(data, list(enumerate(rows))))
    assert set(texts) == set(odds) == {question.id for question in QUESTIONS.questions}
    for question in QUESTIONS.questions:
        text = texts[question.id]
        assert text and text in QUESTIONS.contexts[question.context]
        assert len(LETTERS.encode_ids(text)) <= 4 and 0 <= odds[question.id] <= 1


def test_a_span_begins_where_its_window_shows_the_most_context(places):
    data = windows(QUESTIONS, places)
    batch = data.collate(range(len(data)), EVALUATION)
    start, end = torch.randn(2, *batch["input_ids"].shape, generator=torch.Generator().manual_seed(2))
    rows = qa_task.make_rows(3, 5)(lambda **_: (start, end), batch, data, range(len(data)))
    for window, (_, null, spans) in enumerate(rows):
        assert null == (start[window, 0].item(), end[window, 0].item())
        best, shift = data.best_context(window), data.context_start(window) - data.windows[window, 1]
        for begin, finish, first, last in spans:
            assert best[first - data.windows[window, 1]] and first <= last < first + 5
            assert (begin, finish) == (start[window, first + shift].item(), end[window, last + shift].item())


def test_no_answer_counts_as_likely_as_in_the_window_where_it_is_least(places):
    data = windows(toys.squad(contexts=1, questions=1), places, max_length=40)
    assert len(data) > 2
    rows = [(window, (0.0, (float(window == 1), 3.0 * window), [(1.0, -window, 0, 0)])) for window in range(len(data))]
    end = int(data.texts.text_spans(0)[0, 1])
    assert answers.candidates(data, rows)[0] == ((0.0, 0.0), [(1.0, -w, 0, end) for w in range(len(data))])


def test_an_empty_context_gives_an_empty_answer(places):
    squad = SquadSet(["", "the cat"], [Question("a", "who ?", 0, "", []), Question("b", "who ?", 1, "", [])], True)
    texts, _ = answered(windows(squad, places))
    assert texts["a"] == "" and texts["b"] in "the cat"


# The formulas


@some
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
def test_the_best_spans_are_those_of_a_search_through_all(seed, length, n_best, longest):
    """Logits are whole numbers, so that many spans are as good as others, and some places are closed."""
    drawn = torch.randint(-4, 5, (2, 3, length), generator=torch.Generator().manual_seed(seed)).float()
    begins, ends = drawn.masked_fill(drawn == -4, -math.inf)
    scores, firsts, lasts = (found.tolist() for found in answers.best_spans(begins, ends, n_best, longest))
    for row in range(3):
        every = [(begins[row, i] + ends[row, j]).item() for i in range(length) for j in range(i, min(i + longest, length))]
        wanted = sorted((score for score in every if score > -math.inf), reverse=True)[:n_best]
        found = [span for span in zip(scores[row], firsts[row], lasts[row], strict=True) if span[0] > -math.inf]
        assert [score for score, _, _ in found] == wanted and len(set(found)) == len(found)
        for score, first, last in found:
            assert score == begins[row, first] + ends[row, last] and first <= last < first + longest


def listed(spans, null=(0.0, 0.0), n_best=20, may_withhold=False, context="the cat sat on the mat"):
    """The n-best list of one question, from spans as (start logit, end logit, first and last word)."""

    question, words = Question("q", "who ?", 0, "", []), [match.span() for match in re.finditer(r"\w+", context)]
    data = SimpleNamespace(squad=SquadSet([context], [question], may_withhold))
    spans = [(begin, finish, words[first][0], words[last][1]) for begin, finish, first, last in spans]
    return answers.n_best_answers(data, question, null, spans, n_best, may_withhold)


def test_an_n_best_list_shares_out_the_probability_and_names_a_text_once():
    spans = [(3.0, 1.0, 0, 0), (2.0, 1.0, 1, 2), (1.0, 1.0, 4, 4), (0.0, 1.0, 3, 3)]  # words 0 and 4: "the"
    found = listed(spans)
    assert [entry["text"] for entry in found] == ["the", "cat sat", "on"]
    assert [(entry["start_logit"], entry["end_logit"]) for entry in found] == [(3.0, 1.0), (2.0, 1.0), (0.0, 1.0)]
    total = math.exp(4) + math.exp(3) + math.exp(1)
    assert [entry["probability"] for entry in found] == pytest.approx([math.exp(n) / total for n in (4, 3, 1)])
    assert [entry["text"] for entry in listed(spans, n_best=2)] == ["the", "cat sat"]


def test_no_answer_is_in_the_n_best_list_where_answers_may_be_withheld():
    spans = [(3.0, 1.0, 0, 0), (2.0, 1.0, 1, 2)]
    found = listed(spans, null=(1.5, 2.0), n_best=2, may_withhold=True)
    assert [entry["text"] for entry in found] == ["the", "", "cat sat"]
    assert found[1]["start_logit"] == 1.5 and sum(entry["probability"] for entry in found) == pytest.approx(1)
    nothing = [{"text": "", "probability": 1.0, "start_logit": 1.5, "end_logit": 2.0}]
    assert listed([], (1.5, 2.0)) == listed([], (1.5, 2.0), may_withhold=True) == nothing


def test_null_odds_are_the_probability_of_no_answer_against_the_best_span():
    assert answers.null_odds((1.0, 1.0), [(2.0, 0.0, 5, 6), (0.0, 0.0, 1, 1)]) == 0.5
    assert answers.null_odds((1.0, 2.0), [(1.0, 1.0, 5, 6)]) == pytest.approx(1 / (1 + math.exp(-1)))
    assert answers.null_odds((-1e4, -1e4), [(1e4, 1e4, 0, 0)]) < 1e-300 and answers.null_odds((0.0, 0.0), []) == 1.0


def test_the_threshold_of_a_sure_model_is_halfway_between_what_it_gives_and_what_it_withholds():
    """Its odds are next to 0 or to 1: an answer of 1e-6 would be withheld above 1e-9, the best threshold of these."""
    assert answers.between(1e-9, [1e-12, 1e-9, 1 - 1e-9]) == pytest.approx(0.5)
    assert answers.between(0.4, [1e-12, 0.4]) == pytest.approx(0.999, abs=5e-4)  # nothing was withheld
    assert 1e-9 < answers.between(1e-9, [1e-12, 1e-9, 1.0]) < 1
    assert answers.between(0.0, [1e-12, 0.5]) == 0.0  # all is withheld


@some
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.data())
def test_the_halfway_threshold_withholds_the_same_answers(odds, data):
    best = data.draw(st.sampled_from([0.0, *odds]))
    halfway = answers.between(best, odds)
    assert [one > halfway for one in odds] == [one > best for one in odds]


# Several models as one


def together(members, thresholds):
    """By text/answers.py, from the candidates and the threshold of each model."""
    return answers.together([answers.Found(found, threshold, 0.0)
                             for found, threshold in zip(members, thresholds, strict=True)])  # fmt: skip


@pytest.fixture
def two():
    """Candidates of two models for one question, spans as (start logit, end logit, first, last character)."""
    first = {0: ((1.0, 1.0), [(3.0, 1.0, 0, 3), (1.0, 0.5, 4, 7), (-1.0, 0.0, 8, 9)])}
    second = {0: ((0.0, 0.0), [(9.0, 2.0, 4, 7), (4.0, 4.0, 0, 7)])}
    return [first, second]


def test_a_span_scores_the_mean_of_its_log_probabilities_and_an_unlisted_one_as_the_last_listed(two):
    found = together(two, [None, None])
    (null, spans), = found.candidates.values()
    one, two = log_softmax(4.0, 1.5, -1.0, 2.0), log_softmax(11.0, 8.0, 0.0)  # the last is no answer
    expected = {(0, 3): one[0] + two[1], (4, 7): one[1] + two[0], (8, 9): one[2] + two[1], (0, 7): one[2] + two[1]}
    assert {span[2:]: sum(span[:2]) for span in spans} == pytest.approx({k: v / 2 for k, v in expected.items()})
    assert [span[2:] for span in spans] == [(4, 7), (0, 3), (0, 7), (8, 9)]  # equal ones by their places
    assert found.threshold is None
    assert answers.null_odds(null, spans) == pytest.approx(answers.logistic(((2 - 4) + (0 - 11)) / 2))


def test_null_odds_and_threshold_are_means_of_logits_over_the_models_that_hold_a_threshold(two):
    (null, spans), = together(two, [0.9, None]).candidates.values()
    assert answers.null_odds(null, spans) == pytest.approx(answers.logistic(2 - 4))
    assert together(two, [0.9, None]).threshold == pytest.approx(0.9)
    assert together(two, [0.9, 0.2]).threshold == pytest.approx(0.6)  # odds 9 and 1/4, their geometric mean 3/2
    assert together(two, [0.0, 0.5]).threshold < 1e-100  # one withholds everything
    assert together(two, [1.0, 0.5]).threshold == 1.0


def test_a_model_that_reads_no_token_of_a_context_takes_no_part_in_its_spans(two):
    (null, spans), = together([two[0], {0: ((5.0, 5.0), [])}], [None, None]).candidates.values()
    assert [span[2:] for span in spans] == [span[2:] for span in two[0][0][1]] and sum(spans[0][:2]) < 0
    (null, spans), = together([{0: ((5.0, 5.0), [])}] * 2, [None, None]).candidates.values()
    assert spans == [] and answers.null_odds(null, spans) == 1.0


def test_the_n_best_list_of_an_ensemble_names_no_answer_by_its_null_odds(two):
    (null, spans), = together(two, [0.5, 0.5]).candidates.values()
    question = Question("q", "who ?", 0, "", [])
    data = SimpleNamespace(squad=SquadSet(["abcdefghi"], [question], True))
    listed = {entry["text"]: entry["probability"]
              for entry in answers.n_best_answers(data, question, null, spans, 20, True)}  # fmt: skip
    assert sum(listed.values()) == pytest.approx(1)
    assert listed[""] / (listed[""] + listed["efg"]) == pytest.approx(answers.null_odds(null, spans))
