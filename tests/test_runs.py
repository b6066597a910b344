"""The four commands as a user runs them, with tiny models and budgets: files, figures, ranks, mistakes.

All commands share one cache; the pretraining and fine-tuning that most tests start from is done once (`trained`, in
conftest.py).
"""

import json
import math
import random
import re
import shutil

import pytest
import torch
import toys
from conftest import TASKS
from torch.torch_version import TorchVersion

MODELS = {"mlm": "mlm_bert.pt", "ns": "ns_bert.pt", "qa": "qa_model.pt", "race": "race_model.pt"}
SHARED_KEYS = ["task", "dataset", "seconds", "validation_seconds", "steps", "tokens", "tokens_per_second",
               "peak_memory_bytes", "test_loss"]  # fmt: skip
KEYS = {"mlm": ["test_ppl"], "ns": ["test_accuracy"], "qa": ["exact", "f1", "HasAns_f1", "NoAns_f1", "best_f1"],
        "race": ["accuracy", "middle_accuracy", "high_accuracy"]}  # fmt: skip
LAST_LINES = {
    "mlm": r"\| End of training \| test loss +\d+\.\d{5} \| test ppl +\d+\.\d{5}",
    "ns": r"\| End of training \| test loss +\d+\.\d{5} \| test ppl +\d+\.\d{5} \| test accuracy \d+\.\d\d",
    "qa": r"\| End of training \| test loss +\d+\.\d{5} \| exact +\d+\.\d{3}% \| f1 +\d+\.\d{3}%",
    "race": r"\| End of training \| test loss +\d+\.\d{5} \| test middle accuracy \d+\.\d\d \| test high accuracy \d+\.\d\d"
            r" \| test accuracy \d+\.\d\d",
}  # fmt: skip
slow = pytest.mark.slow
every_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="session")
def books(tmp_path_factory):
    """A folder of text, for runs of whole epochs."""
    folder, rng = tmp_path_factory.mktemp("books"), random.Random(1)
    for number in range(3):
        (folder / f"{number}.txt").write_text("\n\n".join(toys.text(rng, 60) for _ in range(70)))
    return f"--dataset {folder} --tokenizer basic_english --vocab-size 200"


def result(folder):
    return json.loads((folder / "result.json").read_text())


def evaluation(folder):
    return json.loads((folder / "evaluation.json").read_text())


def figures(folder, read=result):
    """What is said of the model, without what is said of the run and of the evaluation."""
    others = {*SHARED_KEYS, "skipped_steps", "models", "examples"} - {"test_loss"}
    return {name: value for name, value in read(folder).items() if name not in others}


def state(folder):
    return torch.load(folder / "state.pt", weights_only=True)


def losses(folder):
    return [values["loss"] for _, kind, values in state(folder)["state"]["history"] if kind == "train"]


def same_weights(one, other):
    """Two model or state files hold the same tensors, bit for bit."""
    one, other = (torch.load(path, weights_only=True) for path in (one, other))
    parts = [name for name in ("body", "head", "model") if name in one]
    assert parts == [name for name in ("body", "head", "model") if name in other]
    return all(torch.equal(tensor, other[part][name]) for part in parts for name, tensor in one[part].items())


@slow
def test_the_model_that_a_run_starts_from_and_writes_is_kept(trained, run, tmp_path):
    shutil.copy(trained / "race_model.pt", tmp_path)
    before = (tmp_path / "race_model.pt").read_bytes()
    output = run("race", "--checkpoint race_model.pt --steps 1 --no-test").stdout
    assert "race_model.pt: this run starts from it and writes it; kept as race_model-before-1.pt" in output
    assert (tmp_path / "race_model-before-1.pt").read_bytes() == before != (tmp_path / "race_model.pt").read_bytes()


@slow
def test_the_model_that_a_run_starts_from_is_kept_where_a_resume_forgets_to_write_elsewhere(trained, run, tmp_path):
    shutil.copy(trained / "race_model.pt", tmp_path)
    before = (tmp_path / "race_model.pt").read_bytes()
    run("race", "--checkpoint race_model.pt --save new.pt --steps 1 --no-test")
    run("race", "--checkpoint race_model.pt --steps 2 --no-test --resume")
    assert (tmp_path / "race_model-before-1.pt").read_bytes() == before


@slow
def test_a_run_that_goes_on_under_other_names_writes_its_vocabulary_as_well(run, tmp_path):
    run("mlm", "--steps 2 --no-test")
    run("mlm", "--steps 2 --no-test --resume --save b.pt --save-vocab b_vocab.pt")
    assert (tmp_path / "b_vocab.pt").read_bytes() == (tmp_path / "bert_vocab.pt").read_bytes()


# From an empty folder


@slow
@every_task
def test_a_bare_command_leaves_a_model_and_its_figures(trained, task):
    assert (trained / MODELS[task]).exists() and (trained / "bert_vocab.pt").exists()
    figures = result(trained / "runs" / task)
    assert set(SHARED_KEYS + KEYS[task]) <= set(figures)
    assert (figures["task"], figures["dataset"], figures["steps"]) == (task, "Sample", 3)
    assert figures["tokens"] > 0 and figures["peak_memory_bytes"] > 1 << 20
    training = figures["seconds"] - figures["validation_seconds"]
    assert figures["tokens_per_second"] == pytest.approx(figures["tokens"] / training, rel=0.01)
    assert not list(trained.rglob("*.tmp*"))


@slow
@every_task
def test_the_last_lines_are_those_of_the_old_example(trained, task):
    rule, line, end = read(trained / "output.json")[task].rstrip().split("\n")[-3:]
    assert rule == end == "=" * 89 and re.fullmatch(LAST_LINES[task], line)
    shown = [float(number) for number in re.findall(r"\d+\.\d+", line)]
    written = [value for name, value in figures(trained / "runs" / task).items() if name in ["test_loss", *KEYS[task]]]
    written.append(math.exp(written[0]))  # the perplexity of next sentences, which is shown alone
    assert all(any(abs(one - other) < 0.006 for other in written) for one in shown)


def rounded(value):
    """Plain values, of which numbers keep four digits behind the point."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


@slow
@every_task
def test_evaluation_repeats_the_figures_of_training_on_any_number_of_ranks(trained, run, task):
    for flags in ("", "--parallel DDP --world_size 2"):
        run(task, f"--evaluate --bert-model {MODELS[task]} --log-dir again {flags}", threads=2, cwd=trained)
        expected = figures(trained / "runs" / task)
        if torch.__version__ >= TorchVersion("2.14"):  # where the last bits of a product depend on the threads
            expected = pytest.approx(expected, rel=1e-9)
        assert figures(trained / "again", evaluation) == expected, flags
        samples = evaluation(trained / "again")["examples"], read(trained / "runs" / task / "examples.json")
        assert rounded(samples[0]) == rounded(samples[1])  # threads may change a probability's last bits
        shutil.rmtree(trained / "again")


@slow
@every_task
def test_an_evaluation_leaves_what_the_training_wrote_and_says_of_which_model_it_is(trained, run, run_script, task):
    folder = trained / "runs" / task
    before = {name: (folder / name).read_bytes() for name in ("result.json", "examples.json", "settings.json")}
    run(task, "--evaluate", cwd=trained)
    assert {name: (folder / name).read_bytes() for name in before} == before
    told = evaluation(folder)
    assert told["models"] == [MODELS[task]] and told["task"] == task and not {"seconds", "steps", "tokens"} & set(told)
    assert {example["kind"] for example in told["examples"]} == {task}
    run_script("report.py", folder, cwd=trained)
    page = (trained / "report.html").read_text()
    assert f"evaluated: {MODELS[task]}" in page and "<h1>1 run</h1>" in page
    (folder / "evaluation.json").unlink()


@slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(run, books, tmp_path):
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        run("mlm", f"{books} --steps 4 --dropout 0.1 --save {name}.pt --log-dir {name} --seed {seed}", threads=2)
    assert same_weights(tmp_path / "one.pt", tmp_path / "again.pt")
    assert figures(tmp_path / "one") == figures(tmp_path / "again")
    assert not same_weights(tmp_path / "one.pt", tmp_path / "other.pt")


@slow
def test_fine_tuning_repeats_as_well(trained, run, tmp_path):
    run("qa", f"--steps 3 --bert-model {trained}/ns_bert.pt")
    assert same_weights(tmp_path / "qa_model.pt", trained / "qa_model.pt")
    assert figures(tmp_path / "runs/qa") == figures(trained / "runs/qa")


# Predictions


def read(path):
    return json.loads(path.read_text())


@slow
def test_qa_answers_every_question_of_a_file_from_its_context(trained, run, tmp_path):
    squad = toys.squad(contexts=3)
    (tmp_path / "in.json").write_text(json.dumps(toys.as_json(squad, answers=False)))
    run("qa", f"--predict in.json --output out.json --bert-model {trained}/qa_model.pt --n-best 4 --stride 9")
    answers, lists, odds = (read(tmp_path / f"out{end}.json") for end in ("", ".nbest", ".null_odds"))
    threshold = torch.load(trained / "qa_model.pt", weights_only=True)["notes"]["null_threshold"]
    assert set(answers) == set(lists) == set(odds) == {question.id for question in squad.questions}
    for question in squad.questions:
        found = lists[question.id]
        texts = [entry["text"] for entry in found]
        assert len(set(texts)) == len(texts) == 5 and "" in texts  # four spans and no answer
        assert all(text in squad.contexts[question.context] for text in texts)
        assert answers[question.id] == ("" if odds[question.id] > threshold else next(text for text in texts if text))
        assert sum(entry["probability"] for entry in found) == pytest.approx(1)
        scores = [entry["start_logit"] + entry["end_logit"] for entry in found]
        assert scores == sorted(scores, reverse=True)


@slow
@pytest.mark.parametrize("flags", ["", "--parallel DDP --world_size 2"], ids=["one rank", "two ranks"])
def test_qa_predictions_score_as_the_evaluation_says(trained, run, run_script, task_cache, tmp_path, flags):
    gold, = task_cache.glob("sample-*/squad-test.json")
    run("qa", f"--predict {gold} --output out.json {flags}", cwd=trained, threads=2)
    scored = run_script("metrics.py", "squad", gold, "out.json", "--null-odds", "out.null_odds.json", cwd=trained)
    evaluated = figures(trained / "runs/qa")
    for name, value in json.loads(scored.stdout).items():
        if "best" not in name:  # in hindsight, withheld answers are gone
            assert value == pytest.approx(evaluated[name], abs=1e-9), name


@slow
def test_qa_without_unanswerable_questions_withholds_nothing(trained, run, tmp_path):
    squad = toys.squad(contexts=30, words=40, impossible=False)
    content = toys.as_json(squad)
    for question in (question for article in content["data"] for question in article["paragraphs"][0]["qas"]):
        del question["is_impossible"]
    for name in ("train.json", "dev.json"):
        (tmp_path / name).write_text(json.dumps(content))
    run("qa", f"--dataset . --bert-model {trained}/ns_bert.pt --steps 2")
    run("qa", "--predict dev.json --output out")
    assert all(read(tmp_path / "out").values()) and not (tmp_path / "out.null_odds.json").exists()
    assert all(entry["text"] for found in read(tmp_path / "out.nbest.json").values() for entry in found)


@slow
def test_qa_answers_a_question_from_a_file_or_standard_input(trained, run, tmp_path):
    text = "The cat sat on the mat.\n\nThe dog went to\nthe river. It was blue."
    (tmp_path / "text.txt").write_text(text)
    common = f"--bert-model {trained}/qa_model.pt --ask Who? --context"
    output = run("qa", f"{common} text.txt").stdout
    shown = {line[:13].strip(): line[13:] for line in output.splitlines()}
    answer = re.sub(r" \(0\.\d{3}\)$", "", shown.get("best guess", shown["answer"]))
    assert answer in shown["sentence"] and shown["sentence"] in " ".join(text.split())
    assert 0 < float(shown["probability"]) < 1
    assert run("qa", f"{common} -", input=text).stdout == output
    for flags, words in ((f"{common} gone.txt", "gone.txt: cannot be read"), (f"{common} -", "--context -: no text")):
        error = run("qa", flags, code=2, input="").stderr
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.json")) and not list(tmp_path.rglob("asked*"))


@slow
@pytest.mark.parametrize("passage", ["truncate", "window"])
def test_race_chooses_for_every_article_of_a_folder(trained, run, run_script, tmp_path, passage):
    articles = toys.articles()
    toys.write_articles(tmp_path / "in", articles, answers=False)
    toys.write_articles(tmp_path / "gold", articles)
    (tmp_path / "in" / "high" / "._1.txt").write_bytes(b"\x00\x05")  # as macOS adds them
    model = f"--bert-model {trained}/race_model.pt --passage {passage}"
    run("race", f"--predict in --output out.json --scores {model}")
    answers, shares = read(tmp_path / "out.json"), read(tmp_path / "out.scores.json")
    for letters, rows in zip(answers.values(), shares.values(), strict=True):
        assert letters == ["ABCD"[row.index(max(row))] for row in rows]
        assert all(len(row) == 4 and sum(row) == pytest.approx(1) for row in rows)
    assert list(answers) == sorted(article.id for article in articles)
    assert all(len(letters) == 2 and set(letters) <= set("ABCD") for letters in answers.values())
    scores = json.loads(run_script("metrics.py", "race", "gold", "out.json").stdout)
    assert list(scores) == ["accuracy", "middle_accuracy", "high_accuracy", "total"] and scores["total"] == 10
    run("race", f"--predict in --level high --output high.json {model}")
    assert read(tmp_path / "high.json") == {id: letters for id, letters in answers.items() if id.startswith("high")}


@slow
def test_race_scores_the_level_that_is_asked_for(trained, run, tmp_path):
    for split in ("train", "dev", "test"):
        toys.write_articles(tmp_path / "set" / split, toys.articles(count=4))
    model = f"--dataset set --bert-model {trained}/race_model.pt --evaluate"
    run("race", model)
    both = evaluation(tmp_path / "runs/race")
    run("race", f"{model} --level middle")
    middle = evaluation(tmp_path / "runs/race")
    assert middle["accuracy"] == middle["middle_accuracy"] == both["middle_accuracy"] and "high_accuracy" not in middle
    assert (both["total"], middle["total"]) == (8, 4)
    assert both["accuracy"] == pytest.approx((both["middle_accuracy"] + both["high_accuracy"]) / 2)


# What a run leaves, and its budget


@slow
def test_a_run_of_minutes_ends_with_a_scored_model_and_goes_on_with_more(run, tmp_path):
    run("mlm", "--minutes 0.01")
    first = result(tmp_path / "runs/mlm")
    assert first["steps"] > 0 and (tmp_path / "mlm_bert.pt").exists()
    run("mlm", "--minutes 0.2 --resume")
    assert result(tmp_path / "runs/mlm")["steps"] > first["steps"]
    history = state(tmp_path / "runs/mlm")["state"]["history"]
    assert sum(kind == "valid" for _, kind, _ in history) > 1


@slow
def test_a_run_leaves_its_curves_to_tensorboard(trained):
    pytest.importorskip("tensorboard")
    for task in TASKS:
        content = b"".join(path.read_bytes() for path in (trained / "runs" / task).glob("events.out.tfevents*"))
        assert b"valid/loss" in content and b"test/" in content  # the last as HPARAMS has it


# Ranks and micro-batches


@slow
def test_ranks_and_micro_batches_change_nothing_but_the_speed(run, books, tmp_path):
    common = f"{books} --steps 5 --dropout 0 --log-interval 1 --precision fp32"
    ways = {"one": "", "ranks": "--parallel DDP --world_size 2", "micro": "--accumulate 2", "odd": "--accumulate 3"}
    for name, flags in ways.items():
        run("mlm", f"{common} --save {name}.pt --log-dir {name} {flags}")
    assert len(losses(tmp_path / "one")) == 5
    for name in ways:
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
        assert result(tmp_path / name)["tokens"] == result(tmp_path / "one")["tokens"]


@slow
def test_more_ranks_than_examples_train_all_the_same(run, books, tmp_path):
    for name, flags in (("one", ""), ("ranks", "--parallel DDP --world_size 2")):
        run("mlm", f"{books} --steps 3 --batch-size 1 --log-interval 1 --precision fp32 --log-dir {name} {flags}")
    assert losses(tmp_path / "ranks") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
