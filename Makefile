# Needs only Python >= 3.11 and make; everything else goes into .venv on the first run.
#   make PYTHON=/path/to/python3.12 ...     another Python (counts when .venv is made)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
CONFIG ?= configs/miniature.py
WORKDIR ?= runs/miniature
ARGS ?=
WORKERS ?= 2

PIP := $(RUN) -m pip --disable-pip-version-check --quiet
TOO_OLD = import sys; sys.exit(sys.version_info < (3, 11) and \
	"error: Python >= 3.11 is needed, $(PYTHON) is " + sys.version.split()[0] + \
	"; run: make PYTHON=/path/to/python3.11")

export TF_CPP_MIN_LOG_LEVEL ?= 3
export PYTHONUNBUFFERED ?= 1

.PHONY: help miniature test lint types unit oldest newest docs docs-serve notebooks format clean
.DEFAULT_GOAL := help

help:
	@echo "make miniature   the whole study, from nothing, on this machine's CPU (about 10 minutes)"
	@echo "                 CONFIG=configs/miniature.py:smoke WORKDIR=runs/smoke ARGS=--dry_run"
	@echo "make test        lint, types and all tests, in two processes; ARGS='-k name' selects tests"
	@echo "make docs        the documentation as a site, in site/ (open site/index.html)"
	@echo "make docs-serve  the same on http://127.0.0.1:8000, made again when a page changes"
	@echo "make lint        ruff check and ruff format --check"
	@echo "make format      let ruff format and mend the code"
	@echo "make notebooks   notebooks/*.ipynb from notebooks/*.py"
	@echo "make oldest      tests on setup.py's lower bounds; make newest: on today's versions"
	@echo "make clean       remove .venv and caches (never runs/)"
	@echo "PYTHON=...       the Python that makes .venv, >= 3.11 (now: $(PYTHON))"

miniature: $(VENV)/.installed
	$(RUN) -m msm_jax.study --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

# One after another, also under make -j; the first failure ends it.
test: $(VENV)/.installed-test
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory unit

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(RUN) -m mypy

unit: $(VENV)/.installed-test
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# tests/oldest.sh: the lower bounds of setup.py, and what the package index has today.
oldest newest: $(VENV)/.installed-test
	@$(PIP) install --constraint constraints.txt uv
	PATH="$(abspath $(BIN)):$$PATH" tests/oldest.sh $@ $(PYTHON) $(ARGS)

docs: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

docs-serve: $(VENV)/.installed-test
	$(RUN) -m mkdocs serve

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(VENV)/.installed-test
	$(RUN) notebooks/build.py

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find msm_jax tests configs benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps are written last, so that an installation that was interrupted is taken up again.
$(VENV)/.installed: setup.py constraints.txt
	@$(PYTHON) -c '$(TOO_OLD)'
	@test -x $(BIN)/pip || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing msm_jax and what it needs into $(VENV)"
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) install --constraint constraints.txt --editable '.[test,docs]'
	@# Only for a file of its: Qwen's BPE ranks, from which the tests build the real tokenizer.
	@$(PIP) install --no-deps dashscope==2.0.2
	@# The compiler for TPUs, which needs none. Apart, because JAX looks for TPUs wherever it finds it.
	@$(PIP) install --no-deps --upgrade --target $(VENV)/tpu --constraint constraints.txt libtpu \
		|| echo "no libtpu for this platform: its tests are skipped"
	@touch $@
