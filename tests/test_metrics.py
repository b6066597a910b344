"""Scores: the official SQuAD rules case by case, RACE's accuracies, and the command line."""

import json
import re
from collections import Counter
from random import Random
from string import punctuation
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metrics
from files.mistakes import UserError
from metrics import accuracy, exact_score, f1_score, main, race_scores, read_race_answers, squad_scores

# -- One answer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("The Broncos", "broncos"),
        ("a cat and an owl", "cat and owl"),
        ("U.S.A.", "usa"),
        ("  many\t\n spaces ", "many spaces"),
        ("ÉCOLE", "école"),
        ("non\u00a0breaking", "non breaking"),
        ("Rock 'n' Roll!", "rock n roll"),
        ("...", "the"),  # both have no words
    ],
)
def test_these_are_the_same_answer(prediction, gold):
    assert exact_score(prediction, [gold]) == f1_score(prediction, [gold]) == 1.0


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("“quoted”", "quoted"),  # only ASCII punctuation is dropped
        ("1990\u20131995", "19901995"),  # an en dash
        ("cafe\u0301", "café"),  # no Unicode normalisation
        ("theatre", "atre"),  # an article is a whole word
        ("well-known", "well known"),  # the hyphen goes, no space comes
        ("", "something"),
        ("something", ""),
    ],
)
def test_these_are_different_answers(prediction, gold):
    assert exact_score(prediction, [gold]) == f1_score(prediction, [gold]) == 0.0


def test_f1_counts_repeated_words_once_each():
    assert f1_score("new york city", ["york"]) == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert f1_score("ha ha ha", ["ha ha"]) == pytest.approx(0.8)
    assert f1_score("city new", ["new city"]) == 1.0 and exact_score("city new", ["new city"]) == 0.0


def test_the_best_of_several_gold_answers_counts():
    assert exact_score("1995", ["in 1995", "1995"]) == 1.0
    assert f1_score("in June 1995", ["1995", "June 1995", "winter"]) == pytest.approx(0.8)


def test_no_gold_answer_means_the_empty_answer():
    assert exact_score("", []) == f1_score("", []) == 1.0
    assert exact_score("x", []) == f1_score("x", []) == 0.0


def test_accuracy_is_a_percentage_of_equal_labels():
    assert accuracy([1, 0, 2, 3], [1, 0, 2, 0]) == 75.0
    for wrong in ([1], [1, 2]), ([], []):
        with pytest.raises(ValueError):
            accuracy(*wrong)


# -- SQuAD -------------------------------------------------------------------------------------------------------------


def squad(gold, version2=False):
    """SQuAD JSON from {id: [gold texts]}, spread over two articles."""
    questions = [
        {"id": key, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in texts]}
        | ({"is_impossible": not texts} if version2 else {})
        for key, texts in gold.items()
    ]
    return {"data": [{"paragraphs": [{"context": "", "qas": part}]} for part in (questions[:1], questions[1:])]}


GOLD = {"a": ["Denver Broncos", "Broncos"], "b": ["1995"], "c": ["the river Rhine"], "d": ["gold"]}


def test_version_1_by_hand():
    scores = squad_scores(squad(GOLD), {"a": "the Broncos", "b": "1996", "c": "Rhine", "d": ""})
    assert scores == {"exact": 25.0, "f1": pytest.approx(100 * (1 + 0 + 2 / 3 + 0) / 4), "total": 4}


def test_missing_and_unknown_ids_are_counted_and_missing_ones_wrong():
    scores = squad_scores(squad(GOLD), {"a": "Broncos", "x": "1995", "y": "gold"})
    assert scores == {"exact": 25.0, "f1": 25.0, "total": 4, "missing": 3, "unknown": 2}


def test_version_1_keeps_the_official_rule_for_gold_answers_without_words():
    data = squad({"a": ["."], "b": [".", "word"]})
    assert squad_scores(data, {"a": "", "b": ""}) == {"exact": 100.0, "f1": 0.0, "total": 2}
    assert squad_scores(data, {})["exact"] == 0.0


def test_version_1_counts_an_id_that_occurs_twice_twice():
    data = squad({"a": ["x"], "b": ["y"]})
    data["data"] += squad({"a": ["x"]})["data"]
    assert squad_scores(data, {"a": "x"}) == {"exact": pytest.approx(200 / 3), "f1": pytest.approx(200 / 3),
                                              "total": 3, "missing": 1}  # fmt: skip


def test_version_2_by_hand():
    data = squad({"a": ["Broncos"], "b": ["river Rhine", "."], "n": [], "m": [], "k": []}, version2=True)
    scores = squad_scores(data, {"a": "the Broncos", "b": "Rhine", "n": "", "m": "a guess", "k": "The."})
    assert scores == {
        "exact": 60.0, "f1": pytest.approx(100 * (1 + 2 / 3 + 1 + 0 + 1) / 5), "total": 5,
        "HasAns_exact": 50.0, "HasAns_f1": pytest.approx(100 * (1 + 2 / 3) / 2), "HasAns_total": 2,
        "NoAns_exact": pytest.approx(200 / 3), "NoAns_f1": pytest.approx(200 / 3), "NoAns_total": 3,
    }  # fmt: skip


def test_version_2_drops_gold_answers_without_words():
    data = squad({"a": [".", "word"], "b": ["."]}, version2=True)
    scores = squad_scores(data, {"a": "", "b": ""})
    assert scores["exact"] == scores["f1"] == scores["HasAns_exact"] == 50.0  # b: no words are left, so "" is right
    assert "NoAns_exact" not in scores


def test_version_2_a_missing_prediction_is_wrong_even_where_there_is_no_answer():
    data = squad({"a": ["x"], "n": [], "m": []}, version2=True)
    scores = squad_scores(data, {"a": "x", "n": ""}, null_odds={"a": -1.0, "n": 2.0, "m": 2.0})
    assert scores["missing"] == 1 and scores["NoAns_exact"] == 50.0
    assert scores["exact"] == scores["best_exact"] == pytest.approx(200 / 3)


SWEEP = squad({"a": ["river Rhine"], "b": ["1995"], "c": ["gold"], "n": [], "m": [], "k": []}, version2=True)
SWEPT = {"a": "Rhine", "b": "1995", "c": "silver", "n": "guess", "m": "", "k": "guess"}
ODDS = {"a": 0.1, "b": 0.4, "c": 0.2, "n": 0.3, "m": 0.05, "k": 0.9}


def test_the_best_threshold_by_hand():
    # From 3 (three unanswerable, all taken as such), letting in by rising odds: m +0, a +0 exact and +2/3 F1,
    # c +0, n -1, b +1, k -1. Exact: never above 3. F1: 3 2/3 after a, the same once more after b, which is no gain.
    scores = squad_scores(SWEEP, SWEPT, ODDS)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (50.0, 0.0)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (pytest.approx(100 * (3 + 2 / 3) / 6), 0.1)
    assert scores["exact"] == pytest.approx(100 * 2 / 6)  # threshold 1.0: every prediction counts; b and m are right

    certain = ODDS | {"b": -5.0}  # now b comes first: 4 at once
    scores = squad_scores(SWEEP, SWEPT, certain)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (pytest.approx(100 * 4 / 6), -5.0)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (pytest.approx(100 * (4 + 2 / 3) / 6), 0.1)


def test_a_threshold_turns_predictions_into_no_answer():
    scores = squad_scores(SWEEP, SWEPT, ODDS, no_answer_threshold=0.25)  # n, b and k become "no answer"
    assert scores["exact"] == pytest.approx(100 * 3 / 6) and scores["NoAns_exact"] == 100.0
    assert scores["f1"] == pytest.approx(100 * (3 + 2 / 3) / 6) and scores["HasAns_exact"] == 0.0
    at_best = squad_scores(SWEEP, SWEPT, ODDS, no_answer_threshold=scores["best_f1_thresh"])
    assert at_best["f1"] == pytest.approx(at_best["best_f1"])


def test_odds_equal_to_the_threshold_keep_the_answer():
    assert squad_scores(SWEEP, SWEPT, dict.fromkeys(SWEPT, 1.0))["exact"] == squad_scores(SWEEP, SWEPT)["exact"]


def test_null_odds_must_fit_the_data():
    with pytest.raises(UserError, match=r"none for 5 predicted questions, e\.g\. b"):
        squad_scores(SWEEP, SWEPT, {"a": 0.0})
    with pytest.raises(UserError, match="no unanswerable questions"):
        squad_scores(squad(GOLD), {}, {})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "lists of objects"),
        ({}, "the key 'data' is missing"),
        ({"data": None}, "lists of objects"),
        ({"data": []}, "no question at all"),
        ({"data": [{"paragraphs": [{"qas": [{"id": "a"}]}]}]}, "the key 'answers' is missing"),
        (squad({"a": ["x"], "b": []}), "a question without gold answers"),
    ],
)
def test_data_that_is_not_squad_is_a_user_error(data, message):
    with pytest.raises(UserError, match=message):
        squad_scores(data, {"a": "x"})


WORDS = st.lists(st.sampled_from(["the", "a", "Rhine", "rhine.", "1995", "\u2013", "é", "."]), max_size=4).map(" ".join)
WORDY = WORDS.map(lambda text: f"{text} word")
TEXTS = {False: st.lists(WORDY, min_size=1, max_size=3), True: st.lists(WORDY, max_size=3)}  # by version 2


@settings(deadline=None, max_examples=60)
@given(st.data(), st.booleans())
def test_scores_keep_their_bounds_and_the_order_of_predictions_does_not_matter(draw, version2):
    gold = draw.draw(st.dictionaries(st.text("abc", min_size=1), TEXTS[version2], min_size=1, max_size=6))
    keys = draw.draw(st.permutations(sorted(gold)))
    predictions = {key: draw.draw(WORDS) for key in keys[draw.draw(st.integers(0, len(keys))) :]}
    data = squad(gold, version2)
    scores = squad_scores(data, predictions)
    assert 0.0 <= scores["exact"] <= scores["f1"] <= 100.0 and scores["total"] == len(gold)
    assert scores == squad_scores(data, dict(reversed(predictions.items())))
    assert scores["exact"] == pytest.approx(by_the_rules(data, predictions)[0])
    assert scores["f1"] == pytest.approx(by_the_rules(data, predictions)[1])


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.text("abc", min_size=1), TEXTS[True], min_size=1, max_size=6), st.randoms())
def test_predicting_a_gold_answer_everywhere_gives_100(gold, random):
    scores = squad_scores(squad(gold, True), {key: random.choice(texts or [""]) for key, texts in gold.items()})
    assert {value for name, value in scores.items() if not name.endswith("total")} == {100.0}


def by_the_rules(data, predictions):
    """(exact, f1) once more, as the papers say it and as slowly as they do; shares nothing with metrics.py."""

    def words(text):
        text = "".join(letter for letter in text.lower() if letter not in punctuation)
        return [word for word in re.sub(r"\b(?:an?|the)\b", " ", text).split() if word]

    exact, f1 = [], []
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                exact.append(0)
                f1.append(0)
                if question["id"] not in predictions:
                    continue
                guess = words(predictions[question["id"]])
                gold = [words(answer["text"]) for answer in question["answers"]]
                if "is_impossible" in question:
                    gold = [answer for answer in gold if answer] or [[]]
                for answer in gold:
                    exact[-1] = max(exact[-1], int(answer == guess))
                    same = sum(min(count, guess.count(word)) for word, count in Counter(answer).items())
                    if not same:
                        f1[-1] = max(f1[-1], int("is_impossible" in question and answer == guess))
                    else:
                        f1[-1] = max(f1[-1], 2 * same / (len(guess) + len(answer)))
    return 100 * sum(exact) / len(exact), 100 * sum(f1) / len(f1)


def test_the_bert_ensemble_on_the_real_dev_set(shared_data):
    data = json.loads((shared_data / "squad" / "dev-v1.1.json").read_text(encoding="utf-8"))
    predictions = json.loads((shared_data / "squad" / "bert-ensemble-dev-v1.1.json").read_text(encoding="utf-8"))
    scores = squad_scores(data, predictions)
    # 28 of the 48 articles; on all of them the published figures are 86.206 and 92.196.
    assert scores["total"] == 5952 and "missing" not in scores and scores["unknown"] == 10570 - 5952
    assert (scores["exact"], scores["f1"]) == pytest.approx((84.77822580645162, 91.2777491595079), abs=1e-9)
    assert (scores["exact"], scores["f1"]) == pytest.approx(by_the_rules(data, predictions), abs=1e-9)


def test_saying_nothing_on_the_real_version_2_dev_set(shared_data):
    data = json.loads((shared_data / "squad" / "dev-v2.0.json").read_text(encoding="utf-8"))
    keys = [question["id"] for article in data["data"] for part in article["paragraphs"] for question in part["qas"]]
    scores = squad_scores(data, dict.fromkeys(keys, ""), dict.fromkeys(keys, 0.0))
    assert scores["NoAns_exact"] == 100.0 and scores["HasAns_f1"] == 0.0
    assert scores["exact"] == scores["best_exact"] == 100.0 * scores["NoAns_total"] / len(keys)


def test_every_figure_is_that_of_the_port_of_the_official_script_in_transformers():
    """On random data with many equal odds; where no prediction is missing, for there it is milder (see metrics.py)."""
    port = pytest.importorskip("transformers.data.metrics.squad_metrics")
    rng = Random(1)
    for threshold in (1.0, 0.6, 0.2):
        gold = {f"q{n}": rng.choice([[], [words(rng), words(rng)]]) for n in range(200)}
        predictions = {key: rng.choice(["", words(rng), *texts]) for key, texts in gold.items()}
        odds = {key: rng.randint(0, 12) / (10 if gold[key] else 12) for key in gold}
        examples = [SimpleNamespace(qas_id=key, answers=[{"text": text} for text in texts]) for key, texts in gold.items()]
        ours = squad_scores(squad(gold, version2=True), predictions, odds, threshold)
        assert ours == pytest.approx(dict(port.squad_evaluate(examples, predictions, odds, threshold)))
        assert len(ours) == 13


def words(rng):
    return " ".join(rng.choices(["the", "Rhine", "rhine.", "1995", "\u2013", "é", "An", "owl"], k=rng.randint(1, 4)))


# -- RACE --------------------------------------------------------------------------------------------------------------

RACE = {"high1.txt": ["A", "B", "C"], "middle2.txt": ["D"], "high3.txt": ["A"]}


def test_race_by_hand():
    scores = race_scores(RACE, {"high1.txt": ["A", "B", "D"], "middle2.txt": ["D"], "high3.txt": ["B"]})
    assert scores == {"accuracy": 60.0, "middle_accuracy": 100.0, "high_accuracy": 50.0, "total": 5}


def test_race_missing_answers_are_wrong_and_counted():
    scores = race_scores(RACE, {"high1.txt": ["A", ""], "middle2.txt": ["D", "A"], "high9.txt": ["A", "B"]})
    assert scores == {"accuracy": 40.0, "middle_accuracy": 100.0, "high_accuracy": 25.0, "total": 5,
                      "missing": 3, "unknown": 3}  # fmt: skip


def test_race_a_level_without_questions_is_absent():
    assert race_scores({"middle2.txt": ["D"]}, {}) == {
        "accuracy": 0.0, "middle_accuracy": 0.0, "total": 1, "missing": 1
    }  # fmt: skip
    with pytest.raises(UserError, match="no questions"):
        race_scores({}, {})


def write_race(folder, name, **article):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(article), encoding="utf-8")


def test_race_ids_come_from_the_article_or_its_place(tmp_path):
    write_race(tmp_path, "high/1.txt", answers=["A"], id="high77.txt")
    write_race(tmp_path, "high/3132.txt", answers=["B", "C"])
    write_race(tmp_path, "middle/5.txt", answers=["D"])
    assert read_race_answers(tmp_path) == {"high77.txt": ["A"], "high3132.txt": ["B", "C"], "middle5.txt": ["D"]}


def test_race_files_that_macos_adds_are_no_articles(tmp_path):
    write_race(tmp_path, "high/1.txt", answers=["A"])
    (tmp_path / "high" / "._1.txt").write_bytes(b"\x00\x05\x16\x07")
    assert read_race_answers(tmp_path) == {"high1.txt": ["A"]}


@pytest.mark.parametrize("answers", [None, "ABC", ["A", 2], ["x"], [""]])
def test_race_files_that_are_not_articles_are_named(tmp_path, answers):
    write_race(tmp_path, "high/1.txt", answers=answers)
    with pytest.raises(UserError, match=r"1\.txt: not an article of RACE"):
        read_race_answers(tmp_path)


def test_race_refuses_two_articles_with_one_id(tmp_path):
    for split in ("dev", "test"):
        write_race(tmp_path, f"{split}/high/1.txt", answers=["A"])
    with pytest.raises(UserError, match="occurs twice"):
        read_race_answers(tmp_path)


# -- The command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path, run_script):
    """Write the values to JSON files, run ``python metrics.py`` on them, give what it printed."""

    def run(data_set, *arguments, code=0):
        for i, value in enumerate(arguments):
            if isinstance(value, (dict, list)):
                (tmp_path / f"{i}.json").write_text(json.dumps(value), encoding="utf-8")
        names = [f"{i}.json" if isinstance(value, (dict, list)) else value for i, value in enumerate(arguments)]
        return run_script("metrics.py", data_set, *names, code=code)

    return run


def test_command_squad(scored):
    predictions = {"a": "Broncos", "x": "?"}
    process = scored("squad", squad(GOLD), predictions)
    assert json.loads(process.stdout) == squad_scores(squad(GOLD), predictions)
    assert "warning: 3 questions without a prediction" in process.stderr and "1 predictions ignored" in process.stderr


def test_command_squad_with_null_odds(scored):
    process = scored("squad", SWEEP, SWEPT, "--null-odds", ODDS, "--no-answer-threshold", "0.25")
    assert json.loads(process.stdout) == squad_scores(SWEEP, SWEPT, ODDS, 0.25)
    assert process.stderr == ""


def test_command_race(scored, tmp_path):
    write_race(tmp_path, "RACE/high/1.txt", answers=["A", "B"])
    process = scored("race", "RACE", {"high1.txt": ["A"]})
    assert json.loads(process.stdout) == {"accuracy": 50.0, "high_accuracy": 50.0, "total": 2, "missing": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["squad", "absent.json", {}], "absent.json: cannot be read"),
        (["squad", squad(GOLD), "absent.json"], "absent.json: cannot be read"),
        (["squad", {"a": "x"}, {}], "0.json: not laid out as SQuAD, the key 'data' is missing"),
        (["squad", squad(GOLD), ["a"]], "1.json: a JSON object {id: a text} was expected, not a list"),
        (["squad", squad(GOLD), {"a": None}], "1.json: 'a' has null, expected a text"),
        (["squad", SWEEP, SWEPT, "--null-odds", {"a": "x"}], "3.json: 'a' has \"x\", expected a number"),
        (["squad", SWEEP, SWEPT, "--null-odds", {"a": float("nan")}], "3.json: 'a' has NaN, expected a number"),
        (["squad", SWEEP, SWEPT, "--null-odds", {"a": 10**400}], "3.json: 'a' has 1000"),
        (["squad", SWEEP, SWEPT, "--null-odds", {}], "null odds: none for 6 predicted questions"),
        (["squad", SWEEP, SWEPT, "--no-answer-threshold", "1"], "--no-answer-threshold needs --null-odds"),
        (["race", "absent", {}], "absent: no such folder"),
        (["race", ".", {"high1.txt": "AB"}], "1.json: 'high1.txt' has \"AB\", expected a list of letters"),
        (["race", ".", {}], "no .txt files"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    names = list(arguments)
    for i, value in enumerate(arguments[1:]):
        if isinstance(value, (dict, list)):
            names[i + 1] = f"{i}.json"
            (tmp_path / f"{i}.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        metrics.run_main(lambda: metrics.main(names))
    output = capsys.readouterr()
    assert caught.value.code == 2 and output.out == ""
    assert message in output.err.splitlines()[-1] and "Traceback" not in output.err


def test_broken_json_exits_with_code_2(tmp_path, run_script):
    (tmp_path / "broken.json").write_text('{"data": [}')
    process = run_script("metrics.py", "squad", "broken.json", "broken.json", code=2)
    assert process.stderr.startswith("error: broken.json: broken JSON at line 1, column 11")
    assert len(process.stderr.splitlines()) == 1 and process.stdout == ""


def test_metrics_needs_the_standard_library_only(run_script, tmp_path):
    for package in ("torch", "torchtext", "numpy", "tqdm"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('metrics.py must not need this')")
    write_race(tmp_path, "RACE/high/1.txt", answers=["A"])
    for name, value in (("d", squad(GOLD)), ("p", {"a": "Broncos"}), ("a", {"high1.txt": ["A"]})):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    for words in ("--help", "squad d.json p.json", "race RACE a.json"):
        assert run_script("metrics.py", *words.split(), fresh=True, PYTHONPATH=str(tmp_path)).stdout


# Rows, of the command


def test_rows_score_as_the_files_of_squad_and_race_do(tmp_path, capsys):
    row = {"context": "The cat sat.", "question": "Who?"}
    gold = {"q1": {"text": ["cat"], "answer_start": [4]}, "q2": {"text": ["sat"], "answer_start": [8]}}
    with_none = {**gold, "q3": {"text": [], "answer_start": []}}
    for number, answers in enumerate((gold, with_none)):
        lines = [json.dumps({"id": id, **row, "answers": answer}) for id, answer in answers.items()]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    (tmp_path / "p.json").write_text(json.dumps({"q1": "the cat", "q2": "dog", "q3": ""}))
    main(["squad", str(tmp_path / "0.jsonl"), str(tmp_path / "p.json")])
    out, err = capsys.readouterr()
    assert json.loads(out) == {"exact": 50.0, "f1": 50.0, "total": 2, "unknown": 1} and "1 predictions ignored" in err
    main(["squad", str(tmp_path / "1.jsonl"), str(tmp_path / "p.json")])
    assert json.loads(capsys.readouterr().out)["NoAns_exact"] == 100.0

    choices = [{"example_id": id, "article": "a", "question": "?", "options": ["a", "b"], "answer": answer}
               for id, answer in (("high1", "B"), ("high1", "A"), ("middle2", 1))]  # fmt: skip
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.jsonl").write_text("\n".join(map(json.dumps, choices)))
    (tmp_path / "a.json").write_text(json.dumps({"high1": ["B", "B"], "middle2": ["B"]}))
    main(["race", str(tmp_path / "test"), str(tmp_path / "a.json")])
    scores = json.loads(capsys.readouterr().out)
    assert (scores["high_accuracy"], scores["middle_accuracy"], scores["total"]) == (50.0, 100.0, 3)


@pytest.mark.parametrize(("kind", "row", "told"), [
    ("squad", {"context": "a", "question": "?"}, "line 1: no 'answers'"),
    ("squad", {"context": "a", "question": "?", "answers": {"text": [], "answer_start": []}}, "line 1: no 'id'"),
    ("race", {"article": "a", "question": "?", "options": ["a", "b"], "answer": "C"}, "answer 'C'; it must be A or B"),
    ("race", {"article": "a", "question": "?", "options": ["a", "b"], "label": -1}, "answer -1; it must be A or B"),
])  # fmt: skip
def test_a_bad_row_is_one_line(tmp_path, kind, row, told):
    (tmp_path / "p.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=re.escape(told)):
        main([kind, str(tmp_path / "rows.jsonl"), str(tmp_path / "p.json")])
