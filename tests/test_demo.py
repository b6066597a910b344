"""The page of demo.py: what it answers, what it refuses, and a browser that clicks through it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from argparse import Namespace

import pytest
import torch
import toys
from conftest import ROOT, open_page

import demo
from checkpoint import save_model
from files.mistakes import UserError
from model import BertConfig, MLMTask, QuestionAnswerTask, RaceTask
from training.ranks import Ranks

TOKENIZER = toys.letters()
STORY = "𝒳 <script>alert(1)</script> The cat sat on the mat. The dog was in the garden."


def save(path, head, seed=0):
    """A model whose weights are ten times the usual, so that its answers are no ties."""
    model = head(BertConfig(len(TOKENIZER), 16, 1, 2, max_position_embeddings=128))
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_model(path, model, TOKENIZER)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    heads = {"mlm": MLMTask, "qa": QuestionAnswerTask, "other": QuestionAnswerTask, "race": RaceTask}
    return [save(folder / f"{name}.pt", head, seed) for seed, (name, head) in enumerate(heads.items())]


@pytest.fixture(scope="module")
def server(files):
    models = [model for path in files for model in demo.load(path, "fp32", Ranks())]
    with demo.Server("127.0.0.1", 0, models) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def send(server):
    """``send({...})`` posts a question; gives status and the JSON of the answer."""

    def call(request, path="/answer", method="POST", **headers):
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, json.loads(content) if "json" in reply.headers["Content-Type"] else content.decode()

    return call


# Answers


def test_each_kind_of_model_answers(send):
    status, found = send({"model": 0, "text": "the [MASK] sat on the [MASK]"})
    assert status == 200 and [len(words) for words in found["masks"]] == [5, 5]
    status, found = send({"model": 1, "passage": STORY, "question": "where is the cat"})
    assert status == 200 and not found["withheld"]
    for answer in found["answers"]:
        assert STORY[answer["start"] : answer["end"]] == answer["text"]
    status, found = send({"model": 3, "passage": STORY, "question": "who sat", "options": ["a", "b", "c", "d"]})
    assert status == 200 and sum(found["probabilities"]) == pytest.approx(1)


def test_the_answer_is_that_of_the_command_line(send, files, run_script, tmp_path):
    (tmp_path / "story.txt").write_text(STORY)
    flags = ["--context", "story.txt", "--precision", "fp32", "--bptt", "128", "--bert-model"]
    printed = run_script("qa_task.py", "--ask", "where is the cat", *flags, files[1]).stdout
    best = send({"model": 1, "passage": STORY, "question": "where is the cat"})[1]["answers"][0]
    assert f"answer       {' '.join(best['text'].split())}\nprobability  {best['probability']:.3f}" in printed
    options = ["the mat", "the dog", "a hat", "red"]
    printed = run_script("race_task.py", "--ask", "who sat", "--options", *options, *flags, files[3]).stdout
    shares = send({"model": 3, "passage": STORY, "question": "who sat", "options": options})[1]["probabilities"]
    for letter, share, option in zip("ABCD", shares, options, strict=True):
        assert f"{'*' if share == max(shares) else ' '} {letter}  {share:.3f}  {option}\n" in printed


# Refusals


@pytest.mark.parametrize(("request_", "status", "reason"), [
    (b"{", 400, "not JSON"),
    (b"\xff", 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    ([], 400, "not a JSON object"),
    ({"model": 9}, 400, "model: must be a number from 0 to 3"),
    ({"model": True}, 400, "model: must be"),
    ({"model": 1, "passage": STORY}, 400, "question: empty"),
    ({"model": 1, "passage": 5, "question": "who"}, 400, "passage: empty"),
    ({"model": 1, "passage": STORY, "question": "a" * 1001}, 400, "question: 1,001 characters; 1,000 are allowed"),
    ({"model": 1, "passage": STORY, "question": "\ud800"}, 400, "question: holds half of a character"),
    ({"model": 0, "text": "no mask"}, 400, "no [MASK]"),
    ({"model": 3, "passage": STORY, "question": "who", "options": ["a"]}, 400, "options: a list of 2 to 26"),
    ({"model": 3, "passage": STORY, "question": "who", "options": ["a", "b", " ", "d"]}, 400, "option C: empty"),
    (b" " * (demo.BODY + 1), 413, "too large"),
], ids=lambda value: None)  # fmt: skip
def test_a_wrong_request_gets_one_line(send, request_, status, reason):
    found = send(request_)
    assert found[0] == status and reason in found[1]["error"] and "\n" not in found[1]["error"]


def test_a_page_from_before_a_restart_gets_no_other_models_answer(send, files):
    asked = {"model": 0, "text": "the [MASK]", "kind": "mlm"}
    assert send({**asked, "name": files[0]})[0] == 200
    for other in ({"name": "other.pt"}, {"kind": "race"}):
        status, told = send({**asked, **other})
        assert status == 409 and "load this page again" in told["error"]


def test_numbers_that_are_none_are_a_fault_and_no_answer(send, monkeypatch, capsys):
    monkeypatch.setitem(demo.KINDS, "mlm", (*demo.KINDS["mlm"][:2], lambda *_: {"masks": [float("nan")]}))
    status, told = send({"model": 0, "text": "the [MASK]"})
    assert status == 500 and "a fault of the program" in told["error"] and "ValueError" in capsys.readouterr().err


def test_what_waits_for_a_model_at_the_end_is_not_begun(send, monkeypatch):
    monkeypatch.setattr(demo, "ENDED", threading.Event())
    demo.ENDED.set()
    assert send({"model": 0, "text": "the [MASK]"})[0] == 503


def test_no_word_of_what_is_asked_is_written_where_the_server_runs(files, capsys):
    (loaded,) = demo.load(files[1], "fp32", Ranks())
    demo.answer_question(loaded, {"passage": "Секрет " * 9, "question": "кто"})
    assert "Секрет" not in capsys.readouterr().err


def test_the_page_of_a_checkout_with_other_ends_of_lines_is_the_same(server, tmp_path, monkeypatch):
    (tmp_path / "demo.html").write_bytes(demo.PAGE.read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(demo, "PAGE", tmp_path / "demo.html")
    with demo.Server("127.0.0.1", 0, []) as other:
        assert other.policy == server.policy and other.pages["/"] == server.pages["/"]


def test_pages_of_other_sites_are_refused(send):
    good = {"model": 0, "text": "the [MASK]"}
    assert send(good, Host="evil.example")[0] == 403
    assert send(good, Origin="http://evil.example")[0] == 403
    assert send(good, **{"Content-Type": "text/plain"})[0] == 415
    assert send(b"", "/", "GET", Host="evil.example")[0] == 403
    assert send(good, Host="localhost:1")[0] == 200


def test_nothing_but_the_page_is_served(send):
    assert "<title>" in send(b"", "/", "GET")[1]
    assert [model["kind"] for model in send(b"", "/models", "GET")[1]["models"]] == ["mlm", "qa", "qa", "race"]
    for path in ("/../demo.py", "/demo.py", "/answer", "//etc/passwd"):
        assert send(b"", path, "GET")[0] == 404


def test_a_model_that_withholds_its_answer_says_so(tmp_path, files):
    (sure,) = demo.load(files[1], "fp32", Ranks())
    sure.model.notes = {"null_threshold": 0.0}
    found = demo.answer_question(sure, {"passage": STORY, "question": "where is the cat"})
    (none,) = (answer for answer in found["answers"] if not answer["text"])
    assert found["withheld"] and none["start"] is None
    assert sum(answer["probability"] for answer in found["answers"]) == pytest.approx(1)


def test_of_models_that_just_lie_there_those_are_taken_that_answer(files, monkeypatch, capsys):
    for named in (False, True):
        args = Namespace(bert_model=["gone.pt", files[0]], precision="fp32", named=named, save_vocab="v.pt", nhead=None)
        if named:
            with pytest.raises(UserError, match=r"gone\.pt: no such file"):
                demo.load_all(args, Ranks())
        else:
            assert [model.kind for model in demo.load_all(args, Ranks())] == ["mlm"]
            assert "gone.pt: no such file" in capsys.readouterr().err


def test_a_model_without_a_head_is_named(tmp_path):
    from model import NextSentenceTask

    with pytest.raises(UserError, match="NextSentenceTask; name a model of"):
        demo.load(save(tmp_path / "ns.pt", NextSentenceTask), "fp32", Ranks())


def test_a_precision_that_the_device_lacks_is_told_before_the_page_opens(files):
    with pytest.raises(UserError, match="--precision fp16: needs a GPU"):
        demo.load(files[0], "fp16", Ranks())


def test_ctrl_c_ends_it_well_and_a_port_in_use_is_one_line(files, server):
    command = [sys.executable, str(ROOT / "demo.py"), "--bert-model", files[0], "--port"]
    process, line = open_page([*command, "0"])
    assert line.startswith("open http://127.0.0.1:")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 0 and not process.stderr.read()
    refused = subprocess.run([*command, str(server.server_address[1])], capture_output=True, text=True, timeout=60)
    told = r"error: --host 127.0.0.1 --port \d+: cannot listen there .*; choose another\n"
    assert refused.returncode == 2 and re.fullmatch(told, refused.stderr)


# In a browser


@pytest.mark.parametrize("width", [1200, 360])
def test_a_browser_clicks_through_it(browser, server, width, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def one(selector):
        return browser.find_element(By.CSS_SELECTOR, selector)

    def write(selector, text):
        browser.execute_script("arguments[0].value = arguments[1]", one(selector), text)

    def press(selector):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", one(selector))
        one(selector).click()

    def cards(panel, count):
        found = lambda _: browser.find_elements(By.CSS_SELECTOR, f"{panel} article .share")  # noqa: E731
        WebDriverWait(browser, 30).until(lambda _: not one(f"{panel} form").get_attribute("aria-busy") and found(_))
        made = browser.find_elements(By.CSS_SELECTOR, f"{panel} article")
        assert len(made) == count
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        return made

    browser.set_window_size(500, 900)  # below 500 a window does not go: the page's width is set instead
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})  # fmt: skip
    browser.get("http://{}:{}/".format(*server.server_address[:2]))
    WebDriverWait(browser, 30).until(lambda _: one("#tab-qa").is_displayed())

    press("#tab-qa")
    write("#qa-passage", STORY)
    write("#qa-question", "where is the cat")
    press("#panel-qa button[type=submit]")
    for number, card in enumerate(cards("#panel-qa", 2)):  # two models, side by side
        loaded = [model for model in server.models if model.kind == "qa"][number]
        best = demo.answer_question(loaded, {"passage": STORY, "question": "where is the cat"})["answers"][0]
        assert card.find_element(By.TAG_NAME, "mark").get_attribute("textContent") == best["text"]
        assert card.find_element(By.CLASS_NAME, "passage").get_attribute("textContent") == STORY
        before = browser.execute_script("return arguments[0].querySelector('mark').previousSibling.textContent", card)
        assert before == STORY[: best["start"]]  # in characters, whatever stands there that JavaScript counts twice
        assert not card.find_elements(By.TAG_NAME, "script")
    browser.save_screenshot(str(tmp_path / f"{width}.png"))

    said = one("#panel-qa [role=status]").get_attribute("textContent")
    assert all(model.name in said for model in server.models if model.kind == "qa") and STORY not in said

    press("#tab-mlm")
    write("#mlm-text", "the [MASK] sat on the [MASK].")
    press("#panel-mlm button[type=submit]")
    assert len(cards("#panel-mlm", 1)[0].find_elements(By.TAG_NAME, "mark")) == 2
    write("#mlm-text", "no mask here")
    press("#panel-mlm button[type=submit]")
    WebDriverWait(browser, 30).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#panel-mlm .error"))
    assert "no [MASK]" in one("#panel-mlm .error").text

    press("#tab-race")
    press("#panel-race button[type=submit]")  # the example that stands there
    assert len(cards("#panel-race", 1)[0].find_elements(By.TAG_NAME, "li")) == 4
    press("#more")
    assert browser.switch_to.active_element.get_attribute("id") == "race-E"
    write("#race-E", "nobody")
    press("[aria-label='Remove option B']")
    press("#panel-race button[type=submit]")
    cards("#panel-race", 1)
    assert sorted(one("#panel-race .list").text.splitlines()[::2])[-1] == "D nobody"
    for _ in range(2):
        press("[aria-label='Remove option A']")
    assert not one("[aria-label='Remove option A']").is_enabled()

    errors = [entry for entry in browser.get_log("browser") if "400 (Bad Request)" not in entry["message"]]
    assert not errors
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
