"""Questions with two options, five or any number, side by side: each is scored as if alone, from the file to the page."""

import json
import random

import pytest
import torch
import toys
from test_heads import both_layouts, every_head, loud
from toys import options, refused

import demo
import metrics
import race_task
import report
from checkpoint import save_model
from model import BertConfig, RaceTask
from text.batches import EVALUATION
from text.questions import Article, load_race
from training.ranks import Ranks

COUNTS = (2, 5, 4, 3)


def mixed(*counts):
    """Two questions an article, one of them with a blank, with these numbers of options."""
    rng = random.Random(7)
    made = [[f"{rng.choice(toys.WORDS)} {letter}" for letter in "vwxyz"[:count]] for count in counts]
    asked = ["where is the cat ?", "the cat is on the _ ."]
    return [
        Article(f"high{first}.txt", toys.text(rng, 12 + 10 * first), asked, made[first : first + 2],
                [len(choice) - 1 for choice in made[first : first + 2]])
        for first in range(0, len(counts), 2)
    ]  # fmt: skip


def found(model, data, indices):
    with torch.no_grad():
        return race_task.rows(model, data.collate(indices, EVALUATION), data, indices)


@every_head
@both_layouts
def test_a_question_is_scored_as_if_alone_whatever_number_of_options_stands_beside_it(places, settings, layout):
    data, model = options(mixed(*COUNTS), places, 220, layout=layout), loud(**settings).double()
    beside = found(model, data, [0, 1, 2, 3])
    assert tuple(map(len, beside)) == COUNTS
    for index, row in enumerate(beside):
        assert row == pytest.approx(found(model, data, [index])[0], abs=1e-9)
        assert max(row) - min(row) > 1e-3  # the options differ in what they get


@every_head
@both_layouts
def test_the_loss_and_its_gradients_are_those_of_the_questions_alone(places, settings, layout):
    data, model = options(mixed(*COUNTS), places, 220, layout=layout), loud(**settings).double()

    def learned(indices):
        model.zero_grad()
        loss = race_task.loss(model, data.collate(indices, 0))
        loss.backward()
        return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]

    together, alone = learned([0, 1, 2, 3]), [learned([index]) for index in range(4)]
    torch.testing.assert_close(together[0], sum(loss for loss, _ in alone))
    for number, gradient in enumerate(together[1]):
        torch.testing.assert_close(gradient, sum(each[number] for _, each in alone))


@both_layouts
def test_what_stands_where_no_option_is_changes_nothing(places, layout):
    data, model = options(mixed(*COUNTS), places, 220, layout=layout), loud(head="dcmn", compare_options=True)
    batch = data.collate([0, 1], EVALUATION)
    assert batch["option_mask"].tolist() == [[True, True, False, False, False], [True] * 5]
    changed = {**batch, "input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 9)}
    first, second = (model(**race_task.inputs(each)).softmax(1) for each in (batch, changed))
    assert (first[0, 2:] == 0).all() and first.sum(1).tolist() == pytest.approx([1, 1])
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


@both_layouts
@pytest.mark.parametrize("passage", ["window", "select", "truncate"])
def test_long_articles_are_read_with_any_number_of_options(places, layout, passage):
    articles = mixed(*COUNTS)
    for article in articles:
        article.text = toys.text(random.Random(1), 150)
    data = options(articles, places, 64, layout=layout, passage=passage)
    batch = data.collate(range(4), 0)
    model = loud(max_position_embeddings=64)
    assert tuple(map(len, found(model, data, [0, 1, 2, 3]))) == COUNTS
    assert race_task.loss(model, batch).isfinite()
    if layout == "joint":
        left = 2 if passage == "select" else 0  # a sentence longer than the room is read by thirds of it
        assert data.lengths.max() - left <= batch["input_ids"].size(1) <= data.lengths.max()


@both_layouts
def test_where_all_have_the_same_number_a_batch_holds_no_more_than_before(places, layout):
    for count in (2, 4):
        data = options(mixed(count, count), places, layout=layout)
        batch = data.collate([0, 1], EVALUATION)
        assert "option_mask" not in batch and model_shape(batch) == (len(batch["labels"]), count)


def model_shape(batch):
    return tuple(loud(max_position_embeddings=400)(**race_task.inputs(batch)).shape)


def test_figures_and_several_models_together_take_rows_of_any_length(places):
    data = options(mixed(*COUNTS), places)
    rows = [(index, [float(option) for option in range(count)]) for index, count in enumerate(COUNTS)]
    assert race_task.choices(data, rows) == {"high0.txt": ["B", "E"], "high2.txt": ["D", "C"]}
    expected = sum(-toys.log_softmax(*row)[-1] for _, row in rows) / 4
    assert race_task.figures(data, rows) == {"loss": pytest.approx(expected), "accuracy": 100.0, "high_accuracy": 100.0,
                                             "total": 4}  # fmt: skip
    both = race_task.together([rows, rows])
    assert [len(row) for _, row in both] == list(COUNTS)
    assert both[1][1] == pytest.approx(toys.log_softmax(0, 1, 2, 3, 4))


# Files


def write(folder, counts, answers):
    folder.mkdir()
    record = {"article": "Tom slept.", "questions": ["Who?"] * len(counts), "answers": answers,
              "options": [[f"one {n}" for n in range(count)] for count in counts]}  # fmt: skip
    (folder / "1.txt").write_text(json.dumps(record))
    return folder


def test_a_question_has_from_two_options_to_as_many_as_there_are_letters(tmp_path):
    (article,) = load_race(write(tmp_path / "good", [2, 26, 5], ["B", "Z", "E"]))
    assert article.answers == [1, 25, 4] and list(map(len, article.options)) == [2, 26, 5]
    for counts, answers, words in (
        ([1], ["A"], "question 1: 1 options; it must have 2 to 26; mend"),
        ([2, 27], ["A", "A"], "question 2: 27 options; it must have 2 to 26; mend"),
        ([3], ["D"], "question 1: answer 'D'; it must be A, B or C; mend"),
    ):
        folder = write(tmp_path / str(counts[-1]), counts, answers)
        refused(lambda folder=folder: load_race(folder), words)


def test_answers_beyond_d_are_scored(tmp_path, capsys):
    gold = write(tmp_path / "gold", [2, 26, 5], ["B", "Z", "E"])
    (tmp_path / "answers.json").write_text(json.dumps({"gold1.txt": ["B", "Y", "E"]}))
    metrics.main(["race", str(gold), str(tmp_path / "answers.json")])
    assert json.loads(capsys.readouterr().out) == {"accuracy": pytest.approx(200 / 3), "total": 3}


# What one asks


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("asked") / "race.pt"
    save_model(path, RaceTask(BertConfig(len(toys.LETTERS), 16, 1, 2, max_position_embeddings=512)), toys.LETTERS)
    return str(path)


@pytest.mark.parametrize("texts", [["the mat", "a hat"], [f"the {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]])
def test_a_question_is_asked_with_any_number_of_options(model_file, tmp_path, capsys, texts):
    (tmp_path / "story.txt").write_text("the cat sat on the mat")
    flags = ["--context", str(tmp_path / "story.txt"), "--bert-model", model_file, "--cache-dir", str(tmp_path / "cache")]
    race_task.run(race_task.arguments(["--ask", "where is it", "--options", *texts, *flags]), Ranks())
    lines = capsys.readouterr().out.splitlines()
    assert [line[2] for line in lines] == list(metrics.LETTERS[: len(texts)])
    assert sum(float(line.split()[-3]) for line in lines) == pytest.approx(1, abs=0.02)
    (loaded,) = demo.load(model_file, "fp32", Ranks())
    shares = demo.choose_option(loaded, {"passage": "the cat", "question": "where", "options": texts})["probabilities"]
    assert len(shares) == len(texts) and sum(shares) == pytest.approx(1)


def test_a_wrong_number_of_options_is_one_line(model_file, tmp_path):
    (tmp_path / "story.txt").write_text("the cat sat")
    flags = ["--context", str(tmp_path / "story.txt"), "--bert-model", model_file, "--cache-dir", str(tmp_path / "cache")]
    for texts, words in ((["one"], "--options: 1 of them; give 2 to 26 texts"), (["a"] * 27, "--options: 27 of them"),
                         (["a", " ", "c"], "option B: empty; give a text or leave it out")):  # fmt: skip
        args = race_task.arguments(["--ask", "where", "--options", *texts, *flags])
        refused(lambda args=args: race_task.run(args, Ranks()), words)
    (loaded,) = demo.load(model_file, "fp32", Ranks())
    for texts in (["one"], ["a"] * 27):
        with pytest.raises(demo.Refused, match="options: a list of 2 to 26 texts is needed"):
            demo.choose_option(loaded, {"passage": "the cat", "question": "where", "options": texts})


def test_a_report_shows_any_number_of_options():
    example = {"kind": "race", "passage": "p", "question": "q", "options": list("vwxyz"), "probabilities": [0.2] * 5,
               "chosen": 4, "gold": 0, "right": False}  # fmt: skip
    assert "<mark>E&nbsp; z</mark> 20%" in report.question(example)
