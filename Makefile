# make demo: the whole loop on real data; make test: every test. Each sets .venv up first when it is missing or stale.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs
TESTS ?= tests
JOBS ?= 2
ARGS ?=

# the first Python 3.11 to 3.13 that runs (a pyenv shim may exist and not run) and can make virtual environments
FITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 /usr/bin/python3; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)

# one thread a process: two threads on two busy cores are several times slower
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export POLARS_MAX_THREADS := 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test check bench peers dashboard docs setup

demo: setup
	RECRL_MAKE=1 $(BIN)/recrl demo --runs $(RUNS) $(ARGS)

test: setup
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(TESTS) $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	@set -e; for script in benchmarks/*.py; do [ -e "$$script" ] || continue; echo "== $$script" >&2; $(BIN)/python $$script --json; done

dashboard: setup
	$(BIN)/recrl dashboard --runs $(RUNS) $(ARGS)

# peers that benchmarks measure beside recrl; nothing else needs them
peers: setup
	$(BIN)/python -m pip install -qq -c constraints.txt --no-deps --ignore-requires-python d3rlpy==2.8.1 gym==0.26.2 gym-notices \
		scope-rl==0.2.1 pytorch-revgrad==0.2.0 pyieoe==0.1.1 pingouin==0.5.5
	$(BIN)/python -m pip install -qq -c constraints.txt h5py structlog dataclasses-json hydra-core

docs: setup
	$(BIN)/mkdocs build --strict

setup: $(VENV)/.stamp

$(VENV)/.stamp: pyproject.toml constraints.txt Makefile
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 to 3.13 with venv was found: install one (Debian: apt-get install python3-venv), or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(FITS)' || { echo "$(PYTHON) is no Python 3.11 to 3.13 with venv: say make PYTHON=/path/to/python" >&2; exit 1; }
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then echo "[1/3] $(VENV): bringing it up to date"; \
	 else echo "[1/3] $(VENV): making it with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); fi
	@echo "[2/3] $(VENV): installing recrl and what it needs (some minutes the first time)"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e ".[recbole,dev]"
	@echo "[3/3] $(VENV): installing RecBole (with MovieLens 100K) and OBP (with the small Open Bandit sample)"
	@$(BIN)/python -m pip install -qq --no-deps --ignore-requires-python recbole==1.2.1 obp==0.5.7
	@touch $@
