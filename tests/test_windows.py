"""What batches.py promises of questions: every one kept, long texts read to their end, answers as slices of the text."""

import math
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

import qa_task
import race_task
from files.mistakes import UserError
from heads import PASSAGE
from metrics import squad_scores
from text import answers
from text.batches import EVALUATION
from text.option_rows import OptionRows, rouge_recall
from text.places import Places
from text.question_windows import QuestionWindows
from text.questions import Article, Question, SquadSet, fill

torch.set_num_threads(1)  # products as small as these are slower with more
LETTERS = toys.letters()
some = settings(deadline=None, max_examples=25)
QUESTIONS = toys.squad(contexts=5)
ARTICLES = toys.articles()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    return Places(folder, folder / "cache")


def windows(squad, places, max_length=48, stride=12):
    return QuestionWindows(squad, LETTERS, places, max_length, stride)


def options(articles, places, max_length=64, **settings):
    return OptionRows(articles, LETTERS, places, max_length, 1, **settings)


sizes = st.tuples(st.integers(0, 10**6), st.integers(16, 90), st.integers(1, 60))


def parts(batch, row):
    """The tokens of a row's two parts, without [CLS] and [SEP]."""
    ids, types = batch["input_ids"][row], batch["token_type_ids"][row]
    used = ids[: int(batch["attention_mask"][row].sum())]
    first, second = (used[types[: len(used)] == part].tolist() for part in (0, 1))
    assert first[0] == LETTERS.cls_id and first[-1] == second[-1] == LETTERS.sep_id
    return first[1:-1], second[:-1]


# Questions on a passage


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
    if stride + longest <= max_length // 2 - 3:  # some window holds any answer
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


def test_no_answer_counts_as_likely_as_in_the_window_where_it_is_least(places):
    data = windows(toys.squad(contexts=1, questions=1), places, max_length=40)
    assert len(data) > 2
    rows = [(window, (0.0, (float(window == 1), 3.0 * window), [(1.0, -window, 0, 0)])) for window in range(len(data))]
    end = int(data.texts.text_spans(0)[0, 1])
    assert answers.candidates(data, rows)[0] == ((0.0, 0.0), [(1.0, -w, 0, end) for w in range(len(data))])


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


TEXT = "A heading\n\nMr. Fox saw a red\ncat. It slept!  Who \"knew\"? Nobody did.\n\nThe end."


@pytest.mark.parametrize("part, sentence", [
    ("red\ncat", "Mr. Fox saw a red cat."), ("Mr", "Mr. Fox saw a red cat."), ("slept", "It slept!"),
    ("slept!  Who", 'It slept! Who "knew"?'), ("did.", "Nobody did."), ("heading", "A heading"), ("end", "The end."),
])  # fmt: skip
def test_an_answer_is_shown_in_its_sentence(part, sentence):
    start = TEXT.index(part)
    assert qa_task.sentence_around(TEXT, start, start + len(part)) == sentence


def test_an_empty_context_gives_an_empty_answer(places):
    squad = SquadSet(["", "the cat"], [Question("a", "who ?", 0, "", []), Question("b", "who ?", 1, "", [])], True)
    texts, _ = answered(windows(squad, places))
    assert texts["a"] == "" and texts["b"] in "the cat"


# Questions with four options


@pytest.mark.parametrize("question, option, statement", [
    ("The cat is _ .", "red", "The cat is red ."), ("The cat is ____.", "red", "The cat is red ."),
    ("_ is red.", "The cat", "The cat is red."), ("Who ?", "The cat", "Who ? The cat"),
    ("It is _ .", r"a \1 thing", r"It is a \1 thing ."),
])  # fmt: skip
def test_the_blank_is_filled_by_the_option(question, option, statement):
    assert fill(question, option) == statement


@pytest.mark.parametrize("passage", ["truncate", "window"])
def test_the_article_gives_way_and_not_the_question(places, passage):
    data = options(ARTICLES, places, passage=passage)
    batch = data.collate(range(len(data)), 0)
    flat = {name: batch[name].flatten(0, 1) for name in ("input_ids", "token_type_ids", "attention_mask")}
    assert flat["input_ids"].shape == (4 * len(data), 64)
    for index, (article, number, _, _) in enumerate(data.questions):
        whole = LETTERS.encode_ids(article.text)
        for option in range(4):
            shown, asked = parts(flat, 4 * index + option)
            assert asked == LETTERS.encode_ids(fill(article.questions[number], article.options[number][option]))
            assert any(whole[i : i + len(shown)] == shown for i in range(len(whole))) and len(shown) >= 20
            assert passage == "window" or shown == whole[: len(shown)]
        assert batch["labels"][index] == article.answers[number]
    assert (data.lengths <= 64).all()


@some
@given(st.integers(0, 10**6), st.integers(24, 200))
def test_windows_cover_the_article_to_its_end(places, seed, max_length):
    data = options(toys.articles(seed, count=2), places, max_length)
    for index in range(len(data)):
        size, room, starts = int(data.sizes[index]), int(data.room[index]), data.starts(index)
        shown = set().union(*(range(start, min(start + room, size)) for start in starts))
        assert shown == set(range(size)) and len(set(starts)) == len(starts) and max(starts) + room <= max(size, room)


def test_a_question_longer_than_half_a_row_keeps_its_option(places):
    article = toys.articles(count=1, questions=1)[0]
    article.questions[0] = "what is the cat " * 40
    data = options([article], places)
    flat = {name: x.flatten(0, 1) for name, x in data.collate([0], EVALUATION).items() if x.dim() == 3}
    for option in range(4):
        shown, asked = parts(flat, option)
        assert len(asked) == 32 and LETTERS.decode(asked).endswith(article.options[0][option]) and len(shown) == 64 - 3 - 32


def test_training_reads_one_window_at_random_and_scoring_all(places):
    data = options(ARTICLES, places)
    seen = {tuple(data.collate([0], epoch)["input_ids"][0, 0].tolist()) for epoch in range(300)}
    assert len(seen) == len(data.starts(0)) > 2
    assert data.collate([0], 0)["question"].tolist() == [0]
    scored = data.collate([0, 3], EVALUATION)
    assert scored["question"].tolist() == [0] * len(data.starts(0)) + [1] * len(data.starts(3))
    assert len(scored["labels"]) == len(scored["input_ids"]) == len(scored["question"])


def test_an_option_scores_as_high_as_its_best_window(places):
    data = options(ARTICLES, places)
    batch = data.collate([0, 3], EVALUATION)
    logits, given = torch.randn(len(batch["question"]), 4), []

    def model(input_ids, **_):
        given.append(input_ids)
        place = sum(map(len, given[:-1]))
        return logits[place : place + len(input_ids)]

    got = race_task.rows(model, batch, data, [0, 3])
    for owner in (0, 1):
        assert got[owner] == logits[batch["question"] == owner].amax(0).tolist()
    assert torch.equal(torch.cat(given), batch["input_ids"])
    assert max(map(len, given)) == 2  # as many windows at a time as there are questions, however long the articles


def test_answers_come_in_the_order_of_the_questions(places):
    data = options(ARTICLES, places)
    rows = [(index, [float(option == index % 4) for option in range(4)]) for index in range(len(data))]
    chosen = race_task.choices(data, rows)
    assert list(chosen) == [article.id for article in ARTICLES]
    assert [letter for letters in chosen.values() for letter in letters] == ["ABCD"[i % 4] for i in range(len(data))]
    right = [(index, [float(option == article.answers[number]) for option in range(4)])
             for index, (article, number, _, _) in enumerate(data.questions)]  # fmt: skip
    assert race_task.figures(data, right) == {"loss": pytest.approx(math.log(math.e + 3) - 1), "accuracy": 100.0,
                                              "middle_accuracy": 100.0, "high_accuracy": 100.0, "total": 10}  # fmt: skip


def test_no_questions_is_one_clear_line(places):
    with pytest.raises(UserError, match="no questions"):
        options([], places)


@pytest.mark.parametrize("make", [lambda p: windows(QUESTIONS, p), lambda p: options(ARTICLES, p)], ids=["qa", "race"])
def test_a_batch_of_questions_is_a_pure_function_of_its_numbers(places, make):
    data, fresh = make(places), make(places)
    indices = random.Random(0).sample(range(len(data)), 4)
    for epoch in (0, 2, EVALUATION):
        data.collate([1], epoch)
        one, other = data.collate(indices, epoch), fresh.collate(np.array(indices), epoch)
        assert all(torch.equal(one[name], other[name]) for name in one)


# Long articles, shortened


def test_rouge_recall_is_the_share_of_the_references_n_grams():
    assert rouge_recall([1, 2, 3, 1], [1, 2, 1, 1], 1) == 3 / 4  # two of its three 1s, and the 2
    assert rouge_recall([1, 2, 3, 1], [1, 2, 1, 1], 2) == 1 / 3
    assert rouge_recall([], [1], 1) == rouge_recall([1], [], 1) == rouge_recall([1], [1], 2) == 0


def shortened(places, layout, room=64):
    """An article of 40 sentences, the 30th of which tells; and what the rows of its question show of it."""
    told = ["a b c d e." for _ in range(40)]
    told[29:32] = ["x y z.", "the red cat sat in the garden.", "z y x."]
    article = Article("high1.txt", " ".join(told), ["where is the red cat?"], [["garden", "river", "house", "mat"]], [0])
    data = options([article], places, room, passage="select", layout=layout)
    batch = data.collate([0], EVALUATION)
    ids, which = (batch[name].view(-1, batch[name].shape[-1]) for name in ("input_ids", "parts"))
    return data, [LETTERS.decode(row[part == PASSAGE]) for row, part in zip(ids, which, strict=True)]


@pytest.mark.parametrize("layout", ["separate", "joint"])
def test_the_sentences_that_the_question_is_about_are_kept_with_their_neighbours_in_their_order(places, layout):
    data, shown = shortened(places, layout)
    assert len(set(shown)) == 1  # the same for all options
    assert "x y z . the red cat sat in the garden . z y x ." in shown[0]
    assert len(data) == 1 and data.lengths[0] <= (64 if layout == "separate" else 128)
    assert LETTERS.encode(shown[0]).ids and len(LETTERS.encode(shown[0]).ids) <= data.room[0]


def test_an_article_with_room_is_read_whole_and_one_long_sentence_is_cut(places):
    data, shown = shortened(places, "separate", room=400)
    assert shown[0].count("a b c d e .") == 37
    article = Article("high2.txt", "a b c d e " * 40, ["who?"], [["x", "y", "z", "a"]], [0])
    data = options([article], places, 64, passage="select")
    batch = data.collate([0], EVALUATION)
    assert (batch["parts"][0, 0] == PASSAGE).sum() == data.room[0]
