# Each target sets up what it needs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install test check demo benchmark clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# torch first and pinned: a range would take whichever build the index holds newest.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(VENV)/.installed  ## a virtual environment with the package and its development tools

demo: $(VENV)/.installed  ## bundled photographs: pre-train, post-train with and without LPL, evaluate, report
	$(BIN)/lpl study studies/demo.yaml

benchmark: $(VENV)/.installed  ## what the loss costs, measured twice; half an hour on two cores
	$(BIN)/python -m benchmarks.perceptual_loss --runs 2

check: $(VENV)/.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check  ## style, types and every test, offline
	HF_HUB_OFFLINE=1 $(BIN)/pytest

clean:  ## remove the environment and all caches in this folder
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
