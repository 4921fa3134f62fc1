.PHONY: env test bench mutants demo ui check

PYTHON ?= python3
BIN := .venv/bin

# Packages are installed once, and again when a requirements file changes.
env: .venv/ready

.venv/ready: requirements.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "seglab needs Python 3.11 or newer: make env PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -r tests/requirements.txt
	@touch $@

test: env
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not (slow or real_data or browser or postgres)" $(ARGS)

bench: env
	$(BIN)/python -m benchmarks

# mutmut is only needed here; it works in a copy, mutants/.
mutants: env
	$(BIN)/python -m pip install --quiet mutmut~=3.8
	$(BIN)/mutmut run

demo: env
	$(BIN)/python -m seglab demo

ui: env
	$(BIN)/python -m seglab ui

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
