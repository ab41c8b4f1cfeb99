# Every target stands alone: it creates .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo test lint lint-types lint-copies test-fast test-slow test-browser format clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "t2ialign needs Python 3.10 or newer; name one with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q torch torchvision
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/t2ialign demo
	scripts/evaluate_demo.sh

test: lint test-fast

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	+$(MAKE) --no-print-directory --jobs=2 lint-types lint-copies

lint-types: install
	$(BIN)/pyright
	$(BIN)/mkdocs build --strict --quiet

lint-copies: install
	$(BIN)/pylint --disable=all --enable=duplicate-code --min-similarity-lines=6 t2ialign unigenbench scripts

test-fast: install
	$(BIN)/python -m pytest -m 'not slow and not browser' --numprocesses=logical --maxprocesses=4 --dist=loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow --numprocesses=logical --maxprocesses=2 --dist=loadscope

test-browser: install
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  echo "make test-browser needs Chromium; on Debian: apt-get install chromium" >&2; exit 3; }
	$(BIN)/python -m pytest -m browser tests/report tests/unigenbench/report

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs
