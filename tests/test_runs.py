"""The four commands as a user runs them, with tiny models and budgets: files, figures, ranks, mistakes.

All commands share one cache; the pretraining and fine-tuning that most tests start from is done once (`trained`).
"""

import json
import random
import re
import shutil

import pytest
import torch
import toys

TASKS = ["mlm", "ns", "qa", "race"]
MODELS = {"mlm": "mlm_bert.pt", "ns": "ns_bert.pt", "qa": "qa_model.pt", "race": "race_model.pt"}
TINY = "--nlayers 1 --emsize 32 --nhead 2 --batch-size 8 --bptt 64 --valid-examples 20".split()
SHARED_KEYS = ["task", "dataset", "seconds", "steps", "tokens", "tokens_per_second", "peak_memory_bytes", "test_loss"]
KEYS = {"mlm": ["test_ppl"], "ns": ["test_accuracy"], "qa": ["exact", "f1", "HasAns_f1", "NoAns_f1", "best_f1"],
        "race": ["accuracy", "middle_accuracy", "high_accuracy"]}  # fmt: skip
LAST_LINES = {
    "mlm": r"\| End of training \| test loss +\d+\.\d{5} \| test ppl +\d+\.\d{5}",
    "ns": r"\| End of training \| test loss +\d+\.\d{5} \| test accuracy \d+\.\d\d",
    "qa": r"\| End of training \| test loss +\d+\.\d{5} \| test exact \d+\.\d{3} \| test f1 \d+\.\d{3}",
    "race": r"\| End of training \| test loss +\d+\.\d{5} \| test middle accuracy \d+\.\d\d \| test high accuracy \d+\.\d\d"
            r" \| test accuracy \d+\.\d\d",
}  # fmt: skip
slow = pytest.mark.slow
every_task = pytest.mark.parametrize("task", TASKS)
done = {}  # what was run once for all tests


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(run_script, cache):
    """``run("mlm", "--steps 3")`` runs mlm_task.py with a tiny model, the shared cache, and these flags.

    On one thread: on a busy machine, a second one costs such a model more time than it saves.
    """

    def call(task, flags, threads=1, **options):
        flags = ["--cache-dir", cache, *TINY, *flags.split()]
        return run_script(f"{task}_task.py", *flags, OMP_NUM_THREADS=str(threads), **options)

    return call


@pytest.fixture
def trained(run, tmp_path_factory):
    """A folder in which each of the four commands has trained for three steps, bare but for sizes and budget."""
    if "trained" not in done:
        folder = tmp_path_factory.mktemp("trained")
        done["output"] = {task: run(task, "--steps 3", cwd=folder).stdout for task in TASKS}
        done["trained"] = folder
    return done["trained"]


@pytest.fixture(scope="session")
def books(tmp_path_factory):
    """A folder of text, for runs of whole epochs."""
    folder, rng = tmp_path_factory.mktemp("books"), random.Random(1)
    for number in range(3):
        (folder / f"{number}.txt").write_text("\n\n".join(toys.text(rng, 60) for _ in range(70)))
    return f"--dataset {folder} --tokenizer basic_english --vocab-size 200"


def result(folder):
    return json.loads((folder / "result.json").read_text())


def figures(folder):
    """What result.json says of the model, without what it says of the run."""
    return {name: value for name, value in result(folder).items() if name not in SHARED_KEYS or name == "test_loss"}


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


# From an empty folder


@slow
@every_task
def test_a_bare_command_leaves_a_model_and_its_figures(trained, task):
    assert (trained / MODELS[task]).exists() and (trained / "bert_vocab.pt").exists()
    figures = result(trained / "runs" / task)
    assert set(SHARED_KEYS + KEYS[task]) <= set(figures)
    assert (figures["task"], figures["dataset"], figures["steps"]) == (task, "Sample", 3)
    assert figures["tokens"] > 0 and figures["peak_memory_bytes"] > 1 << 20
    assert figures["tokens_per_second"] == pytest.approx(figures["tokens"] / figures["seconds"], rel=0.01)
    assert not list(trained.rglob("*.tmp*"))


@slow
@every_task
def test_the_last_lines_are_those_of_the_old_example(trained, task):
    rule, line, end = done["output"][task].rstrip().split("\n")[-3:]
    assert rule == end == "=" * 89 and re.fullmatch(LAST_LINES[task], line)
    shown = [float(number) for number in re.findall(r"\d+\.\d+", line)]
    written = [value for name, value in figures(trained / "runs" / task).items() if name in ["test_loss", *KEYS[task]]]
    assert all(any(abs(one - other) < 0.006 for other in written) for one in shown)


@slow
@every_task
def test_evaluation_repeats_the_figures_of_training_on_any_number_of_ranks(trained, run, task):
    for flags in ("", "--parallel DDP --world_size 2"):
        run(task, f"--evaluate --bert-model {MODELS[task]} --log-dir again {flags}", threads=2, cwd=trained)
        assert figures(trained / "again") == figures(trained / "runs" / task), flags
        shutil.rmtree(trained / "again")


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


@slow
def test_qa_answers_every_question_of_a_file_from_its_context(trained, run, tmp_path):
    squad = toys.squad(contexts=3)
    (tmp_path / "in.json").write_text(json.dumps(toys.as_json(squad, answers=False)))
    run("qa", f"--predict in.json --output out.json --bert-model {trained}/qa_model.pt")
    answers = json.loads((tmp_path / "out.json").read_text())
    assert set(answers) == {question.id for question in squad.questions}
    assert all(answers[question.id] in squad.contexts[question.context] for question in squad.questions)


@slow
def test_race_chooses_for_every_article_of_a_folder(trained, run, tmp_path):
    articles = toys.articles()
    (tmp_path / "in" / "middle").mkdir(parents=True)
    for number, article in enumerate(articles):
        record = {"article": article.text, "questions": article.questions, "options": article.options}
        (tmp_path / "in" / "middle" / f"{number}.txt").write_text(json.dumps(record))
    run("race", f"--predict in --output out.json --bert-model {trained}/race_model.pt")
    answers = json.loads((tmp_path / "out.json").read_text())
    assert set(answers) == {f"middle{number}.txt" for number in range(len(articles))}
    assert all(len(letters) == 2 and set(letters) <= set("ABCD") for letters in answers.values())


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
