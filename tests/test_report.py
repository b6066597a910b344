"""The page of report.py: what it shows, that nothing in a run's files can act in it, and how a browser shows it."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

HOSTILE = '<script>alert("x")</script></style><img src=x onerror=alert(1)>'


def qa(right, answer="a barn"):
    passage = f"Ben slept in a barn. {HOSTILE}"
    start = passage.find(answer) if answer else None
    end = None if start is None else start + len(answer)
    return {"kind": "qa", "passage": passage, "question": f"Where did Ben sleep? {HOSTILE}", "answer": answer,
            "start": start, "end": end, "gold": ["a barn"], "right": right}  # fmt: skip


RACE = {"kind": "race", "passage": "A long story. " * 200, "question": "Who?", "options": ["Ann", "Ben", HOSTILE, "Dora"],
        "probabilities": [0.1, 0.2, 0.6, 0.1], "chosen": 2, "gold": 1, "right": False}  # fmt: skip
MLM = {"kind": "mlm", "texts": ["the", "sat on the", "."], "masks": [
    {"gold": "cat", "guesses": [["cat", 0.7], ["dog", 0.2]]}, {"gold": HOSTILE, "guesses": [[HOSTILE, 0.5], ["mat", 0.1]]},
]}  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Two runs, of which the second is not finished, and a folder that is none."""
    for name, rate in (("first", 1e-3), ("second", 2e-3)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        history = [[step, "train", {"loss": 2 / step, "lr": rate, "gradient_norm": 1.0, "tokens_per_second": 900.0,
                                    "busy": 0.9}] for step in range(1, 30)]  # fmt: skip
        history += [[15, "valid", {"loss": 0.5, "f1": 40.0}], [29, "valid", {"loss": float("nan"), "f1": 60.0}]]
        (folder / "history.json").write_text(json.dumps(history))
        (folder / "settings.json").write_text(json.dumps({"task": "qa", "dataset": HOSTILE, "lr": rate, "seed": 1,
                                                         "dropout": 0.0 if name == "first" else 0}))  # fmt: skip
    result = {"task": "qa", "dataset": HOSTILE, "seconds": 90.0, "steps": 29, "tokens": 5000, "exact": 50.0, "f1": 60.5}
    (tmp_path / "runs/first/result.json").write_text(json.dumps(result))
    (tmp_path / "runs/first/examples.json").write_text(json.dumps([qa(True), qa(False, ""), RACE, MLM]))
    (tmp_path / "runs/none").mkdir()
    return tmp_path / "runs"


NS = [{"kind": "ns", "first": HOSTILE, "second": "It rained.", "follows": follows, "probability": 0.75, "right": follows}
      for follows in (True, False)]  # fmt: skip


def test_an_evaluation_stands_beside_its_run_or_alone_with_its_answers(runs):
    told = {"task": "ns", "dataset": HOSTILE, "models": ["a.pt", HOSTILE], "test_accuracy": 61.25, "examples": NS}
    for name in ("first", "none"):
        (runs / name / "evaluation.json").write_text(json.dumps(told))
    page = report(runs)
    assert "<th>lr</th>" in page and "<th>seed</th>" not in page  # what was only evaluated was told nothing
    assert page.count('class="dot"') == 2  # and has no curve
    assert "<h1>3 runs</h1>" in page and page.count("<td>61.25</td>") == 2 and "<td>60.5</td>" in page
    assert page.count("evaluated: a.pt, &lt;script&gt;") == 4 and page.count("<td>unfinished</td>") == 1
    assert "answered: <b>the second follows</b> (75%)" in page and "wanted: the second does not follow" in page
    assert "<script" not in page and "answered: <b>no answer</b>" in page  # the run's own


def report(runs, *more, code=0):
    process = subprocess.run([sys.executable, str(ROOT / "report.py"), *map(str, more or sorted(runs.iterdir()))],
                             cwd=runs.parent, capture_output=True, text=True)  # fmt: skip
    assert process.returncode == code, process.stdout + process.stderr
    return (runs.parent / "report.html").read_text() if code == 0 else process.stderr


def test_a_run_that_was_not_to_be_tested_is_not_called_unfinished(runs):
    (runs / "second/settings.json").write_text(json.dumps({"task": "qa", "no_test": True}))
    page = report(runs)
    assert "<td>not tested</td>" in page and "<td>unfinished</td>" not in page


def test_it_compares_settings_and_results_and_draws_what_there_is(runs):
    page = report(runs)
    for expected in ("<h1>2 runs</h1>", "<td>60.5</td>", "<td>1.5</td>", "<td>unfinished</td>", "<td>0.002</td>"):
        assert expected in page
    assert "<th>lr</th>" in page and "<th>seed</th>" not in page and "<th>dropout</th>" not in page  # the same in both
    assert page.count("<svg") == 6 and "nan" not in page
    assert "<th>seed</th>" not in page and "<td>seed</td>" in report(runs, runs / "first")


def test_answers_are_marked_in_the_passage(runs):
    page = report(runs)
    assert "Ben slept in <mark>a barn</mark>." in page and "answered: <b>no answer</b>" in page
    assert "<li>B&nbsp; Ben 20% <b>right</b></li>" in page
    assert '<span class="good">cat</span>: cat 70%, dog 20%' in page


def test_nothing_in_a_run_becomes_html(runs):
    page = report(runs)
    assert "<script" not in page and "<img" not in page and page.count("</style>") == 1


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("history.json", "{", "not JSON"),
    ("history.json", "[[1]]", "not what a run writes"),
    ("result.json", "[]", "not what a run writes"),
    pytest.param("result.json", f'{{"seconds": {10**400}}}', "not what a run writes", id="larger than any float"),
    ("examples.json", '[{"kind": "qa"}]', "not what a run writes"),
    ("evaluation.json", '{"models": [], "examples": [{"kind": "new"}]}', "not what a run writes"),
    ("evaluation.json", '{"task": "qa"}', "not what a run writes"),
])  # fmt: skip
def test_a_damaged_file_is_one_line(runs, name, content, reason):
    (runs / "first" / name).write_text(content)
    error = report(runs, runs / "first", code=2)
    assert error.startswith("error: ") and error.count("\n") == 1 and (reason in error or "JSON" in error)


def test_a_folder_of_runs_is_all_of_them_once(runs):
    page = report(runs, "runs", "runs/first")
    assert "<h1>2 runs</h1>" in page


def test_folders_of_other_software_are_passed_over(runs):
    (runs / ".vscode").mkdir()
    (runs / ".vscode" / "settings.json").write_text("{ // with a comment")
    assert "<h1>2 runs</h1>" in report(runs, "runs")


def test_a_folder_without_a_run_is_one_line(runs):
    assert "none: no run in there" in report(runs, runs / "none", code=2)


def test_a_run_leaves_what_the_page_shows(run_script, tmp_path):
    run_script("race_task.py", "--bert-model", "none", "--steps", "3", "--nlayers", "1", "--emsize", "16", "--nhead", "1",
               "--valid-examples", "8", "--log-interval", "1")  # fmt: skip
    folder = tmp_path / "runs/race"
    names = {"loss", "lr", "gradient_norm", "tokens_per_second", "busy", "memory_bytes"}
    logged = [figures for _, kind, figures in json.loads((folder / "history.json").read_text()) if kind == "train"]
    assert len(logged) == 3 and set(logged[0]) == names and 0 <= logged[0]["busy"] <= 1
    assert json.loads((folder / "settings.json").read_text())["batch_size"] == 16
    examples = json.loads((folder / "examples.json").read_text())
    assert {example["right"] for example in examples} == {True, False} and len(examples) == 16
    run_script("report.py", "runs/race")
    assert examples[0]["question"] in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("width", [1200, 360])
def test_a_browser_shows_it_without_errors(browser, runs, width, tmp_path):
    report(runs)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})  # fmt: skip
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert len(browser.find_elements("tag name", "svg")) == 6 and browser.find_element("tag name", "mark").is_displayed()
    assert not browser.get_log("browser")
    browser.save_screenshot(str(tmp_path / f"{width}.png"))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
