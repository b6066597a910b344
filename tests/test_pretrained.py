"""The models that come with the suite: --bert-model pretrained, and what is taken where none is named and none is here.

Toys stand in for them, in a folder of the test's; that the suite has some, no test needs.
"""

import sys

import pytest
import toys
from conftest import ROOT

import checkpoint
import data
import demo
import mlm_task
import ns_task
import qa_task
import race_task
import tune
from checkpoint import load_model, save_model
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from training.ranks import Ranks

SCRIPTS = {"mlm": mlm_task, "ns": ns_task, "qa": qa_task, "race": race_task}
HEADS = {"mlm": MLMTask, "ns": NextSentenceTask, "qa": QuestionAnswerTask, "race": RaceTask}
OWN = {"mlm": "mlm_bert.pt", "ns": "ns_bert.pt", "qa": "qa_model.pt", "race": "race_model.pt"}
STARTS = {"mlm": "mlm_bert.pt", "ns": "mlm_bert.pt", "qa": "ns_bert.pt", "race": "ns_bert.pt"}
USES = {"mlm": ["--fill", "the [MASK]"], "ns": ["--predict", "pairs.tsv"], "qa": ["--ask", "who", "--context", "text.txt"],
        "race": ["--ask", "who", "--options", "cat", "dog", "--context", "text.txt"]}  # fmt: skip


each_task = pytest.mark.parametrize("task", SCRIPTS)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The working directory: one without a model, of a suite without models."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "text.txt").write_text("the cat sat on the mat")
    (home / "pairs.tsv").write_text("the cat\tthe dog\n")
    monkeypatch.chdir(home)
    monkeypatch.setattr("files.pretrained.FOLDER", tmp_path / "suite" / "pretrained")
    return home


@pytest.fixture
def shipped(home, tmp_path):
    """The folder of the models that come with the suite."""
    folder, letters = tmp_path / "suite" / "pretrained", toys.letters()
    for task, head in HEADS.items():
        save_model(folder / OWN[task], head(BertConfig(len(letters), 16, 1, 2, max_position_embeddings=64)), letters)
    return folder


@pytest.fixture
def argv(monkeypatch):
    """``argv("--evaluate")`` makes these the words of the command line."""
    return lambda *words: monkeypatch.setattr(sys, "argv", ["script.py", *words])


@pytest.fixture
def parsed(argv):
    """``parsed("qa", "--evaluate")`` gives the arguments of qa_task.py from these words."""

    def call(task, *words):
        argv(*words)
        return SCRIPTS[task].arguments()

    return call


@pytest.fixture
def model(parsed):
    """The same, of them the model."""
    return lambda task, *words: parsed(task, *words).bert_model


# The name


@each_task
def test_it_names_the_model_to_start_from_and_without_training_that_of_the_task(shipped, model, task):
    assert model(task, "--bert-model", "pretrained") == str(shipped / STARTS[task])
    for use in (["--evaluate"], USES[task]):
        assert model(task, *use, "--bert-model", "pretrained") == str(shipped / OWN[task])


def test_a_file_or_folder_of_that_name_does_not_shadow_it_and_is_named_as_a_path(shipped, home, model):
    (home / "pretrained").mkdir()
    assert model("qa", "--bert-model", "pretrained") == str(shipped / "ns_bert.pt")
    for path in ("./pretrained", "pretrained/", "pretrained/qa_model.pt"):
        assert model("qa", "--bert-model", path) == path


@each_task
def test_training_goes_on_from_it_body_and_head(shipped, parsed, task):
    assert parsed(task, "--checkpoint", "pretrained").checkpoint == str(shipped / OWN[task])


def test_its_path_is_short_where_it_lies_below_the_working_directory(shipped, model, monkeypatch):
    monkeypatch.chdir(shipped.parent)
    assert model("qa", "--bert-model", "pretrained") == "pretrained/ns_bert.pt"


def test_it_may_stand_in_an_ensemble_and_counts_once(shipped, model):
    own = str(shipped / "qa_model.pt")
    assert model("qa", *USES["qa"], "--bert-model", "pretrained", "mine.pt") == [own, "mine.pt"]
    assert model("qa", *USES["qa"], "--bert-model", "pretrained", own) == own


def test_the_page_takes_all_that_it_can_use(shipped, argv):
    models = [str(shipped / name) for name in demo.MODELS]
    argv("--bert-model", "mine.pt", "pretrained")
    assert demo.arguments().bert_model == ["mine.pt", *models]
    assert [loaded.kind for path in models for loaded in demo.load(path, "fp32", Ranks())] == ["mlm", "qa", "race"]


def test_a_trial_starts_from_it(shipped, argv):
    argv()  # put back at the end: a trial's words are set there
    assert tune.task_arguments("race", ["--bert-model", "pretrained"]).bert_model == str(shipped / "ns_bert.pt")


def test_tokens_are_prepared_with_its_vocabulary(shipped, home, argv, capsys):
    (home / "text.txt").write_text("The cat sat.\n\n" * 50)
    argv("prepare", "--dataset", "text.txt", "--bert-model", "pretrained")
    data.main()
    assert capsys.readouterr().out.startswith(f"text.txt: uncased wordpiece vocabulary of {len(toys.letters())};")


def test_checkpoint_wants_one_of_them_and_names_them(shipped, argv):
    argv("show", "pretrained")
    toys.refused(checkpoint.main, f"pretrained: 4 models; name one of them, {shipped}/mlm_bert.pt or ")


@each_task
def test_a_suite_without_it_says_so_in_one_line(home, model, task):
    told = f"--bert-model pretrained: no {STARTS[task]} in {home.parent}/suite/pretrained; get the suite with its models"
    toys.refused(lambda: model(task, "--bert-model", "pretrained"), told)


def test_a_page_of_a_suite_without_any_says_so_in_one_line(home, argv):
    argv("--bert-model", "pretrained")
    toys.refused(demo.arguments, "--bert-model pretrained: no mlm_bert.pt or qa_model.pt or race_model.pt in ")


# Where no model is named


@each_task
def test_without_a_model_here_it_is_taken_and_a_line_says_so(shipped, model, capsys, task):
    assert model(task, *USES[task]) == str(shipped / OWN[task])
    line = f"note: no {OWN[task]} here: taking the pretrained model that comes with the suite, {shipped / OWN[task]}\n"
    assert capsys.readouterr().err == line


@each_task
def test_training_and_a_model_here_or_named_otherwise_leave_it_alone(shipped, home, model, capsys, task):
    assert model(task) == (None if task == "mlm" else STARTS[task])
    assert model(task, *USES[task], "--save", "mine.pt") == "mine.pt"
    assert model(task, *USES[task], "--checkpoint", "mine.pt") == OWN[task]  # which counts for nothing beside it
    (home / OWN[task]).touch()
    model(task, *USES[task], "--checkpoint", "mine.pt")
    assert not capsys.readouterr().err
    assert model(task, *USES[task]) == OWN[task]
    assert capsys.readouterr().err == f"note: by {OWN[task]}, which lies here\n"


@each_task
def test_a_score_is_of_a_model_that_one_names(shipped, model, task):
    toys.refused(lambda: model(task, "--evaluate"), f"{OWN[task]}: no such file", "--bert-model pretrained")


@each_task
def test_where_there_is_none_at_all_the_missing_file_is_told(home, parsed, capsys, task):
    for use in (["--evaluate"], USES[task]):
        args = parsed(task, *use)
        toys.refused(lambda args=args: SCRIPTS[task].run(args, Ranks()), f"{OWN[task]}: no such file; name a file that")
    assert not capsys.readouterr().err


def test_the_page_takes_them_where_no_model_is_here(shipped, home, argv, capsys):
    argv()
    assert demo.arguments().bert_model == [str(shipped / name) for name in demo.MODELS]
    assert capsys.readouterr().err == "note: no model here: taking the pretrained ones that come with the suite\n"
    (home / "qa_model.pt").touch()
    assert demo.arguments().bert_model == ["qa_model.pt"]
    for path in (home / "qa_model.pt", *shipped.iterdir()):
        path.unlink()
    toys.refused(demo.arguments, "no model here; train one")


def test_the_page_begins_with_a_text_such_as_its_models_read(shipped):
    one, other = (demo.Loaded(str(name), "qa", None, None, None, None) for name in (shipped / "qa_model.pt", "qa_model.pt"))
    assert "Analytical Engine" in demo.examples([other, one])["qa"]["passage"]
    assert "Analytical Engine" not in demo.examples([other])["qa"]["passage"]
    assert all(demo.examples([one])[kind].keys() == demo.examples([other])[kind].keys() for kind in demo.KINDS)


# It answers


@pytest.mark.parametrize(("task", "words"), [
    ("mlm", "[MASK] 1\n"), ("ns", "probabilities of 1 pairs"), ("qa", "answer "), ("race", " B  0."),
])  # fmt: skip
def test_a_newcomer_gets_an_answer(shipped, parsed, capsys, task, words):
    args = parsed(task, *USES[task], "--cache-dir", "cache", "--precision", "fp32")
    SCRIPTS[task].run(args, Ranks())
    assert words in capsys.readouterr().out


# The files themselves, where this copy of the suite has them


@pytest.fixture
def real():
    if not (ROOT / "pretrained" / "qa_model.pt").exists():
        pytest.skip("this copy of the suite came without its models")
    return ROOT / "pretrained"


def test_the_files_stay_small_and_each_is_of_its_task(real):
    assert sum((real / name).stat().st_size for name in OWN.values()) < 45e6
    for task, head in HEADS.items():
        model, tokenizer = load_model(head, real / OWN[task])
        assert len(tokenizer) == 8192 and model.bert.config.hidden_size == 224


def test_they_answer_what_the_readme_asks(real, run_script):
    engine = str(ROOT / "docs" / "engine.txt")
    asked = {"qa_task.py": ("Charles Babbage", "--ask", "Who designed the Analytical Engine?", "--context", engine),
             "mlm_task.py": ("York", "--fill", "She was born in New [MASK] in 1950."),
             "race_task.py": ("* B", "--ask", "What was it made of?", "--options", "Paper", "Brass wheels",
                              "Glass", "--context", engine)}  # fmt: skip
    for script, (answer, *words) in asked.items():
        done = run_script(script, *words)
        assert answer in "".join(done.stdout.splitlines()[:2]) and "that comes with the suite" in done.stderr
