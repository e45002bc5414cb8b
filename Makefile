# `make help` lists the targets. Everything runs inside .venv, which `make setup` builds.

SHELL := bash
PYTHON ?= python3
DEVICE ?= cpu
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := specs/tasks/two_tasks.yaml

# pip without its chatter, but with its exit status: it names every local index folder that is not there.
pip = set -o pipefail; $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(1) 2>&1 \
	| { grep -v '^WARNING: Location .* is ignored' || true; }

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint fmt goldens bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## .venv with everything pinned in constraints.txt; PYTHON=… picks the interpreter

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "r2d2c needs Python 3.11 or newer; $(PYTHON) is %d.%d: try make PYTHON=…" % v[:2])'
	@echo "setting up $(VENV): a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(call pip,setuptools torch)
	@$(call pip,--no-build-isolation -e '.[dev]')
	@touch $@

demo: setup  ## the whole way once: check, wiring, train on digits, export, inspect
	rm -rf out/demo
	$(BIN)/r2d2c check $(DEMO)
	$(BIN)/r2d2c wiring $(DEMO) --prove
	$(BIN)/r2d2c train $(DEMO) --out out/demo
	$(BIN)/r2d2c export out/demo -o out/demo/model.onnx
	$(BIN)/r2d2c inspect out/demo/model.onnx

# Two processes of one thread each: torch would otherwise start a thread per core in both.
test: setup  ## all tests; ARGS="tests/unit -k parser" narrows them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 $(ARGS)

lint: setup  ## format, lint and strict typing; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict r2d2c backends

fmt: setup  ## format the code and fix what lint can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

goldens: setup  ## rewrite tests/golden/expected; read the diff before you commit it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --refresh-goldens $(or $(ARGS),tests/golden)
	@git --no-pager diff --stat -- tests/golden/expected

bench: setup  ## side-by-side benchmarks; DEVICE=cpu|cuda
	$(BIN)/python -m bench --device $(DEVICE) $(ARGS)

clean:  ## remove what was built and cached; keeps .venv and runs/
	rm -rf build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
