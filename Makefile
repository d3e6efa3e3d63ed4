# Every command of the project. Each works in a fresh clone: what is missing is set up first, once, in .venv.
# make setup PYTHON=/path/to/python3.12 picks an interpreter; VENV=DIR puts the environment elsewhere.

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint types format build constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## the virtual environment, made once and again when pyproject.toml or constraints.txt changes

demo: setup ## the main job on small data, start to end
	$(BIN)/python examples/demo.py

test: setup ## the fast tests
	$(BIN)/python -m pytest

test-all: setup ## every test, the slow ones too
	$(BIN)/python -m pytest -m ""

lint: setup ## style: ruff's rules and its format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: setup ## the wheel, in dist/
	rm -rf dist
	$(BIN)/python -m pip wheel -qq --no-deps --wheel-dir dist .

# --dry-run resolves without installing; --ignore-installed lets it see newer releases than those of the environment.
constraints: setup ## ask pip for today's versions and pin them in constraints.txt
	$(BIN)/python -m pip install --dry-run --ignore-installed -qq --report $(VENV)/report.json '.[dev,bench]'
	$(BIN)/python scripts/constraints.py < $(VENV)/report.json > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

clean: ## remove what make made: the environment, caches and wheels, but no run and no data
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The candidates are run, not only looked up: a version manager's shim can exist without a Python behind it.
# python3.11 comes first because constraints.txt is made for it. An environment that works is kept and updated.
$(READY): pyproject.toml constraints.txt
	@set -e; \
	new='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "import pip; $$new" 2>/dev/null; then \
	  python=''; \
	  for name in $(or $(PYTHON),python3.11 python3 python3.12 python3.13); do \
	    if "$$name" -c "$$new" 2>/dev/null; then python="$$name"; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "mapex needs Python 3.11 or newer; found none as $(or $(PYTHON),python3.11 or python3)." \
	      "Install one, or name yours: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	  fi; \
	  if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$python comes without the module venv. Install it (Debian, Ubuntu: apt install python3-venv)," \
	      "or name another Python: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	  fi; \
	  "$$python" -m venv --clear $(VENV); \
	fi; \
	echo "Setting up $(VENV) with $$($(BIN)/python -V): a few minutes and some gigabytes the first time."; \
	$(BIN)/python -m pip install -qq --no-input -c constraints.txt -e '.[dev]'; \
	touch $@
