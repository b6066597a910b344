"""What several tests share. Run all with `make test`; one file with `.venv/bin/python -m pytest tests/test_model.py`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Models this small gain nothing from a second thread, and wait for it where something else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets (SQuAD, RACE, books, WikiText); tests that need it skip where it is absent."""
    folder = Path(os.environ.get("BERT_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not (folder / "squad").is_dir():
        pytest.skip(f"no real data in {folder}; point BERT_DATA at a folder with squad/, RACE.tar.gz, books.tar.gz")
    return folder


@pytest.fixture
def run_script(tmp_path):
    """Run a top-level script as a user would, in an empty folder; gives the finished process, output as text."""

    def run(*arguments, code=0, cwd=tmp_path, timeout=300, input=None, **environment):
        script, *rest = map(str, arguments)
        process = subprocess.run(
            [sys.executable, str(ROOT / script), *rest],
            cwd=cwd, capture_output=True, text=True, input=input, timeout=timeout, env={**os.environ, **environment},
        )  # fmt: skip
        assert process.returncode == code, process.stdout + process.stderr
        return process

    return run


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
