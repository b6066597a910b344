"""Several models that answer together: the formulas by hand, and that order, names and tokenizers change nothing."""

import json
import math
import shutil

import pytest
import torch
import toys

import qa_task
import race_task
from checkpoint import save_model
from files.mistakes import UserError
from model import BertConfig, QuestionAnswerTask, RaceTask
from text import answers
from text.vocabularies import train_tokenizer
from training.ranks import Ranks

TEXT = "the cat sat on the mat in the red house. where is the dog? who is in the garden, by the blue river."
SQUAD, ARTICLES = toys.squad(contexts=3, words=60), toys.articles(count=3, words=60)


# The formulas


def test_an_option_scores_the_mean_of_its_log_probabilities():
    first, second = [2.0, 0.0, 0.0, -1.0], [0.0, 3.0, 1.0, 50.0]
    (index, row), = race_task.together([[(7, first)], [(7, second)]])
    assert index == 7
    expected = [(a + b) / 2 for a, b in zip(toys.log_softmax(*first), toys.log_softmax(*second), strict=True)]
    assert row == pytest.approx(expected, rel=1e-12)


# The commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models a, b and c of each task with random weights, c with another tokenizer and size; and what to read."""
    folder, letters = tmp_path_factory.mktemp("ensembles"), toys.letters()
    words = train_tokenizer("basic_english", [*SQUAD.contexts, *(article.text for article in ARTICLES)], 150)
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        tokenizer, width = (words, 48) if name == "c" else (letters, 32)
        config = BertConfig(vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=64, max_position_embeddings=128)  # fmt: skip
        for task, cls in (("qa", QuestionAnswerTask), ("race", RaceTask)):
            model = cls(config)
            torch.nn.init.normal_(model.classifier.weight)  # choices that differ
            save_model(folder / f"{task}_{name}.pt", model, tokenizer, {"null_threshold": 0.1 + 0.4 * seed})
    (folder / "squad.json").write_text(json.dumps(toys.as_json(SQUAD)))
    toys.write_articles(folder / "articles", ARTICLES)
    toys.write_articles(folder / "set" / "test", ARTICLES)
    (folder / "squads").mkdir()
    shutil.copy(folder / "squad.json", folder / "squads" / "dev.json")
    (folder / "text.txt").write_text(TEXT)
    return folder


@pytest.fixture
def call(folder, monkeypatch, capsys):
    """``call("qa", flags)`` runs qa_task.py with these flags in the folder, in this process; gives what it printed."""
    monkeypatch.chdir(folder)

    def run(task, flags):
        module = {"qa": qa_task, "race": race_task}[task]
        common = "--bptt 64 --cache-dir cache --precision fp32 --batch_size 8" + " --n-best 5" * (task == "qa")
        monkeypatch.setattr("sys.argv", [f"{task}_task.py", *common.split(), *flags.split()])
        module.run(module.arguments(), Ranks())
        return capsys.readouterr().out

    return run


def predicted(call, folder, task, models):
    """All files that --predict writes with models such as "a b"."""
    for left in folder.glob("out*.json"):
        left.unlink()
    named = " ".join(f"{task}_{name}.pt" for name in models.split())
    what = "--predict squad.json" if task == "qa" else "--predict articles --scores"
    call(task, f"{what} --output out.json --bert-model {named}")
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("out*.json"))}


@pytest.mark.parametrize("task", ["qa", "race"])
def test_the_order_of_the_models_changes_nothing(call, folder, task):
    assert predicted(call, folder, task, "a b c") == predicted(call, folder, task, "c a b")


@pytest.mark.parametrize("task", ["qa", "race"])
def test_a_model_named_twice_counts_once(call, folder, task):
    assert predicted(call, folder, task, "a a") == predicted(call, folder, task, "a")
    assert predicted(call, folder, task, "a b a") == predicted(call, folder, task, "a b")


def rounded(value):
    """Without the last digits, and without logits, which an ensemble shifts."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items() if not name.endswith("_logit")}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 6) if isinstance(value, float) else value


@pytest.mark.parametrize("task", ["qa", "race"])
def test_two_equal_models_are_as_good_as_one(call, folder, task):
    shutil.copy(folder / f"{task}_a.pt", folder / f"{task}_copy.pt")
    assert rounded(predicted(call, folder, task, "a copy")) == rounded(predicted(call, folder, task, "a"))


def test_race_probabilities_are_the_geometric_mean_of_those_of_the_models(call, folder):
    found = {models: predicted(call, folder, "race", models) for models in ("a", "c", "a c")}
    different = 0
    for id, rows in found["a c"]["out.scores.json"].items():
        for number, row in enumerate(rows):
            pairs = zip(*(found[name]["out.scores.json"][id][number] for name in "ac"), strict=True)
            means = [math.sqrt(one * other) for one, other in pairs]
            assert row == pytest.approx([value / math.fsum(means) for value in means], rel=1e-4)
            assert found["a c"]["out.json"][id][number] == "ABCD"[row.index(max(row))]
            different += found["a"]["out.json"][id][number] != found["c"]["out.json"][id][number]
    assert different  # else nothing was tested


def test_models_of_different_tokenizers_answer_with_slices_of_the_context(call, folder):
    files = predicted(call, folder, "qa", "a c")
    odds = {models: predicted(call, folder, "qa", models)["out.null_odds.json"] for models in "ac"}
    logit = answers.logit
    for question in SQUAD.questions:
        listed = files["out.nbest.json"][question.id]
        context = SQUAD.contexts[question.context]
        assert len(listed) == 6 and all(entry["text"] in context for entry in listed)
        assert math.fsum(entry["probability"] for entry in listed) == pytest.approx(1)
        mean = (logit(odds["a"][question.id]) + logit(odds["c"][question.id])) / 2
        assert logit(files["out.null_odds.json"][question.id]) == pytest.approx(mean, abs=1e-6)
        withheld = mean > (logit(0.1) + logit(0.9)) / 2
        assert (files["out.json"][question.id] == "") == withheld


@pytest.mark.parametrize(("task", "data"), [("qa", "squads"), ("race", "set")])
def test_an_ensemble_is_scored_as_its_predictions_are(call, folder, run_script, task, data):
    output = call(task, f"--evaluate --dataset {data} --log-dir run --bert-model {task}_a.pt {task}_b.pt {task}_c.pt")
    assert "| End of training | test loss" in output
    figures = json.loads((folder / "run/evaluation.json").read_text())
    predicted(call, folder, task, "a b c")
    what, gold = ("squad", "squad.json") if task == "qa" else ("race", "articles")
    scored = json.loads(run_script("metrics.py", what, gold, "out.json", cwd=folder).stdout)
    assert {name: figures[name] for name in scored} == pytest.approx(scored)
    assert figures["models"] == [f"{task}_{name}.pt" for name in "abc"]
    assert figures["examples"] and {one["kind"] for one in figures["examples"]} == {task}


@pytest.mark.slow
@pytest.mark.parametrize(("task", "data"), [("qa", "squads"), ("race", "set")])
def test_two_ranks_score_an_ensemble_as_one_does(call, folder, run_script, task, data):
    flags = f"--evaluate --dataset {data} --log-dir run --bert-model {task}_a.pt {task}_c.pt"
    call(task, flags)
    one = json.loads((folder / "run/evaluation.json").read_text())
    common = "--bptt 64 --cache-dir cache --precision fp32 --batch_size 8" + " --n-best 5" * (task == "qa")
    run_script(f"{task}_task.py", *common.split(), *flags.split(), "--parallel", "DDP", "--world_size", "2", cwd=folder)
    two = json.loads((folder / "run/evaluation.json").read_text())
    assert {**two, "peak_memory_bytes": 0} == {**one, "peak_memory_bytes": 0}


def test_an_ensemble_answers_a_question(call, folder):
    models = ["qa_a.pt", "qa_b.pt", "qa_c.pt"]
    shown = call("qa", f"--ask Who? --context text.txt --bert-model {' '.join(models)}")
    assert shown.startswith("answer ") and "probability  0." in shown
    assert call("qa", f"--ask Who? --context text.txt --bert-model {' '.join(models[::-1])}") == shown


def test_an_ensemble_chooses_among_options(call, folder):
    models = ["race_a.pt", "race_b.pt", "race_c.pt"]
    flags = "--ask Who? --options cat dog river house --context text.txt --bert-model"
    shown = call("race", f"{flags} {' '.join(models)}")
    rows = [line[2:].split() for line in shown.splitlines()]
    assert [(letter, option) for letter, _, option in rows] == list(zip("ABCD", "cat dog river house".split(), strict=True))
    shares = [float(share) for _, share, _ in rows]
    assert sum(shares) == pytest.approx(1, abs=0.003)
    starred = [line[0] == "*" for line in shown.splitlines()]
    assert sum(starred) == 1 and shares[starred.index(True)] == max(shares)
    assert call("race", f"{flags} {' '.join(models[::-1])}") == shown


@pytest.mark.parametrize(("task", "flags", "words"), [
    ("race", "", "race_a.pt race_b.pt: training starts from one"),
    ("qa", "", "qa_a.pt qa_b.pt: training starts from one"),
    ("race", "--evaluate --checkpoint race_c.pt", "--checkpoint and --bert-model: two models"),
    ("qa", "--evaluate none", "leave out none"),
    ("race", "--predict articles gone.pt", "gone.pt: no such file"),
    ("qa", "--predict squad.json mlm", "mlm: no such file"),
])  # fmt: skip
def test_a_mistake_is_one_line(call, task, flags, words):
    flags, _, last = flags.rpartition(" ") if not flags.startswith("--evaluate --c") else (flags, "", "")
    with pytest.raises(UserError, match=words):
        call(task, f"{flags} --bert-model {task}_a.pt {task}_b.pt {last}")


def test_the_other_tasks_take_one_model(run_script):
    error = run_script("ns_task.py", "--evaluate", "--bert-model", "a.pt", "b.pt", code=2).stderr
    assert error == "error: unrecognized arguments: b.pt; see --help\n"
