.PHONY: env test bench mutants demo ui check

PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv)
INSTALL := $(if $(UV),uv pip install --python $(BIN)/python,$(BIN)/python -m pip install) --quiet

# Packages are installed once, and again when a requirements file changes; by uv where it is there.
env: .venv/ready

.venv/ready: requirements.lock tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "seglab needs Python 3.11 or newer: make env PYTHON=python3.12" >&2; exit 2; }
	$(if $(UV),uv venv --quiet --seed --allow-existing --python $(PYTHON) .venv,$(PYTHON) -m venv .venv)
	$(INSTALL) -r requirements.lock -r tests/requirements.txt
	@touch $@
	@echo "done; now: . .venv/bin/activate"

test: env
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not (slow or real_data or browser or postgres)" $(ARGS)

bench: env
	$(BIN)/python -m benchmarks

# mutmut is only needed here; it works in a copy, mutants/.
mutants: env
	$(INSTALL) mutmut~=3.8
	$(BIN)/mutmut run

demo: env
	$(BIN)/python -m seglab demo

ui: env
	$(BIN)/python -m seglab ui

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
