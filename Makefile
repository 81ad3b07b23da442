# mien's two commands: `make demo` and `make test`. Both need Python >= 3.11 and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test check

# The main job on the sample clip, with the online dependencies alone (no torch).
demo: $(VENV)/online
	@$(BIN)/mien demo

# Everything that the tests need, the training half included, and the tests, a file to a process.
test: $(VENV)/all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Style, types, and generated modules that are current.
check: $(VENV)/all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m worker.wire.generate --check

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mien needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/online: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what mien needs to run ..."
	@$(PIP) --editable '.[cpu]'
	@touch $@

$(VENV)/all: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what the tests need (PyTorch is large) ..."
	@$(PIP) --editable '.[cpu,training,dev]'
	@touch $@ $(VENV)/online
