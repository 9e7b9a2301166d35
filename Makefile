# Two commands for a fresh clone:  make quickstart  and  make test
# On a GPU machine: `make quickstart TORCH=torch` takes the newest PyTorch instead of the pinned version.

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: quickstart test setup clean
.DELETE_ON_ERROR:

setup: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]' '$(TORCH)'
	touch $@

quickstart: setup
	$(BIN)/d3pm train --config configs/quickstart.yaml --output runs/quickstart --overwrite

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 scripts/one_wing.sh $(BIN)/python

clean:
	rm -rf .venv
