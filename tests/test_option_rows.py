"""Questions with four options: articles read to their end or shortened, and rows in the separate and the joint layout."""

import copy
import math

import numpy as np
import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st
from toys import LETTERS, options, parts, same_batches, some

import race_task
from files.mistakes import UserError
from heads import MARKER, OPTION, PASSAGE, QUESTION
from text.batches import EVALUATION, MARKED
from text.option_rows import n_grams, rouge_recall
from text.questions import Article, fill

ARTICLES = toys.articles()


# Rows


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


@pytest.mark.parametrize("layout", ["separate", "joint"])
@pytest.mark.parametrize("passage", ["truncate", "window", "select"])
@pytest.mark.parametrize("marks", ["none", "question"])
def test_what_is_shown_does_not_depend_on_which_option_is_right(places, layout, passage, marks):
    moved = copy.deepcopy(ARTICLES)
    for article in moved:
        article.answers = [(answer + 1) % 4 for answer in article.answers]
    one, other = (options(each, places, layout=layout, passage=passage, marks=marks) for each in (ARTICLES, moved))
    for epoch in (0, 1, EVALUATION):
        a, b = (data.collate(range(len(data)), epoch) for data in (one, other))
        assert (a.pop("labels") != b.pop("labels")).all() and same_batches(a, b)


@pytest.mark.parametrize("layout", ["separate", "joint"])
def test_marked_are_words_of_the_article_in_the_question_and_words_of_a_statement_in_the_article(places, layout):
    settings = {"layout": layout, "passage": "select"}
    plain, data = (options(ARTICLES, places, **settings, marks=marks) for marks in ("none", "question"))
    before, batch = (one.collate(range(len(one)), EVALUATION) for one in (plain, data))
    marked = batch["token_type_ids"] == MARKED
    assert marked.any()
    assert torch.equal(batch["token_type_ids"].where(~marked, before["token_type_ids"]), before["token_type_ids"])
    for index, (_, _, _, first) in enumerate(data.questions):
        question = torch.from_numpy(data.texts.text(first + 4).astype(int))
        rows = (batch[name][index].view(-1, marked.size(-1)) for name in ("input_ids", "parts"))
        for ids, part, mine in zip(*rows, marked[index].view(-1, marked.size(-1)), strict=True):
            read, stated = part == PASSAGE, (part == QUESTION) | (part == OPTION)
            if layout == "joint":
                stated &= (part == MARKER).cumsum(0) > 0
            assert torch.equal(mine, (read & torch.isin(ids, question)) | (stated & torch.isin(ids, ids[read])))


def test_a_question_longer_than_half_a_row_keeps_its_option(places):
    article = toys.articles(count=1, questions=1)[0]
    article.questions[0] = "what is the cat " * 40
    data = options([article], places)
    flat = {name: x.flatten(0, 1) for name, x in data.collate([0], EVALUATION).items() if getattr(x, "ndim", 0) == 3}
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


# The layouts


@pytest.mark.parametrize("layout", ["separate", "joint"])
def test_each_token_is_told_as_passage_question_or_option(places, layout):
    article = toys.articles(count=1, words=5)[0]
    data = options([article], places, 220, layout=layout)
    for index, words in ((0, "where is the cat ?"), (1, "the cat is on the .")):
        batch = data.collate([index], EVALUATION)
        ids, parts = batch["input_ids"].view(-1), batch["parts"].view(-1)
        expected = [piece for option in article.options[index] for piece in LETTERS.encode_ids(option)]
        assert ids[parts == OPTION].tolist() == expected
        assert ids[parts == PASSAGE].tolist() == LETTERS.encode_ids(article.text) * (4 if layout == "separate" else 1)
        asked = LETTERS.encode_ids(words) * 4
        if layout == "joint":  # the question itself and, where it has a blank, each option's filled one
            asked = LETTERS.encode_ids(article.questions[index]) + (asked if index else [])
        assert ids[parts == QUESTION].tolist() == asked


@pytest.mark.parametrize("layout", ["separate", "joint"])
@pytest.mark.parametrize("before, behind", [("_ ", "."), ("", " _ ."), ("the dog _ ", "?"), ("", "?")])
def test_of_a_long_statement_the_option_stays_wherever_its_blank_is(places, layout, before, behind):
    words, names = "the cat sat on the red mat in the blue garden " * 4, ["dog", "house", "river", "mat"]
    article = Article("high1.txt", "the dog sat .", [before + words + behind], [names], [0])
    batch = options([article], places, 64, layout=layout).collate([0], EVALUATION)
    expected = [piece for name in names for piece in LETTERS.encode_ids(name)]
    assert batch["input_ids"].view(-1)[batch["parts"].view(-1) == OPTION].tolist() == expected


def test_a_joint_row_is_article_question_and_four_marked_options(places):
    article = toys.articles(count=1, words=5)[0]
    batch = options([article], places, 220, layout="joint").collate([0], EVALUATION)
    cls, sep, encode = [LETTERS.cls_id], [LETTERS.sep_id], LETTERS.encode_ids
    expected = cls + encode(article.text) + sep + encode(article.questions[0]) + sep
    markers = []
    for option in article.options[0]:
        markers.append(len(expected))
        expected += cls + encode(option) + sep
    assert batch["input_ids"][0].tolist() == expected and batch["markers"][0].tolist() == markers
    assert (batch["parts"][0, markers] == MARKER).all()


# Long articles, shortened


def test_rouge_recall_is_the_share_of_the_references_n_grams():
    def recall(candidate, reference, n):
        return rouge_recall(n_grams(candidate, n), n_grams(reference, n))

    assert recall([1, 2, 3, 1], [1, 2, 1, 1], 1) == 3 / 4  # two of its three 1s, and the 2
    assert recall([1, 2, 3, 1], [1, 2, 1, 1], 2) == 1 / 3
    assert recall([], [1], 1) == recall([1], [], 1) == recall([1], [1], 2) == 0


def shortened(places, layout, room=64):
    """An article of 40 sentences, the 30th of which tells; and what the rows of its question show of it."""
    told = ["A b c d e." for _ in range(40)]
    told[29:32] = ["X y z.", "The red cat sat in the garden.", "Z y x."]
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


def test_an_article_with_room_is_read_whole(places):
    _, shown = shortened(places, "separate", room=400)
    assert shown[0].count("a b c d e .") == 37


@pytest.mark.parametrize("others", ["", "X y. "])
def test_a_sentence_longer_than_the_room_is_read_in_parts_the_telling_one_first(places, others):
    told = "a b c d e " * 20 + "the red cat sat in the garden " + "a b c d e " * 20
    article = Article("high2.txt", others + told, ["where is the red cat?"], [["garden", "river", "house", "mat"]], [0])
    data = options([article], places, 64, passage="select")
    batch = data.collate([0], EVALUATION)
    shown = batch["input_ids"][0, 0][batch["parts"][0, 0] == PASSAGE]
    assert "the red cat sat in the garden" in LETTERS.decode(shown)
    assert data.room[0] * 2 // 3 <= len(shown) <= data.room[0]
    assert np.all(np.diff(data.selected(0)) > 0)
