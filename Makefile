# Everything runs in .venv, made on first use; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A file's tests stay together; each worker has one thread of torch and a Postgres of its own.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
SOURCES := core adapters integrations tests examples benchmarks

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-matrix lint types unit wheel bench bench-full bench-postgres bench-qdrant bench-serve starter starter-figures clean
DEVICE ?= cpu
# More of the command line, such as `make bench BENCH='--only A,E --isa avx512_core_bf16'`.
BENCH ?=
# Versions alone, such as `make test-matrix MATRIX='1.14.3 1.20.0'`.
MATRIX ?=

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 12

demo: $(VENV)/demo  ## the main job, offline: real questions through all four adapters
	$(BIN)/taskvec demo

test: lint types wheel unit  ## lint, types, the wheel in a clean environment, and the tests

lint: $(VENV)/dev  ## style and formatting
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/dev  ## mypy, strict
	$(BIN)/mypy core adapters integrations tests examples benchmarks

test-all: lint types wheel $(VENV)/dev  ## the same with the slow tests
	$(PYTEST) -m ""

unit: $(VENV)/dev  ## all tests but the slow ones
	$(PYTEST)

test-matrix: $(VENV)/dev  ## the Qdrant adapter on every minor version of qdrant-client it works with
	$(BIN)/python tests/matrix.py $(MATRIX)

wheel: $(VENV)/dev  ## build the wheel and import taskvec.core from it without any extra
	$(BIN)/python tests/wheel.py

bench: $(VENV)/bench  ## speed against peers in the same run, some ten minutes; DEVICE=cuda for a card
	$(BIN)/python -m benchmarks --quick --device $(DEVICE) $(BENCH)

bench-full: $(VENV)/bench  ## the same with all 24 layers and more repeats, more than an hour
	$(BIN)/python -m benchmarks --full --device $(DEVICE) $(BENCH)

bench-postgres: $(VENV)/bench  ## what a Postgres column that embeds itself costs, and a worker's speed
	$(BIN)/python -m benchmarks.postgres --quick

bench-qdrant: $(VENV)/bench  ## recall of Qdrant's searches in stages; encodes 24 000 passages once
	$(BIN)/python -m benchmarks.qdrant_recall

bench-serve: $(VENV)/bench  ## taskvec serve under load, beside other servers, and for long
	$(BIN)/python -m benchmarks.serve $(BENCH)

starter: $(VENV)/dev  ## train the packaged model anew, some hours
	$(BIN)/python -m taskvec.integrations.train.recipe --work build/recipe --out build/starter

starter-figures: $(VENV)/dev  ## measure what `make starter` made, and write its model card
	$(BIN)/python -m taskvec.integrations.train.recipe.evaluation --work build/recipe \
	  --model build/starter --card

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt 'pip>=25.1'
	$(PIP) install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	@touch $@ $(VENV)/demo

$(VENV)/bench: $(VENV)/dev
	$(PIP) install --quiet --constraint constraints.txt --group bench
	@touch $@

clean:  ## remove the environment and everything made, but for a training in progress
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
