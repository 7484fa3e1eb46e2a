# make run, make test: everything from an empty machine with Python 3.11. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONFIG ?= pipelines/configs/laptop.yaml
.DEFAULT_GOAL := help

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" \
		|| { echo "error: Python 3.11 is needed; make PYTHON=/path/to/python3.11 …"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

.PHONY: help setup model run test check bench golden clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(STAMP)  ## create .venv with pinned dependencies

model: setup  ## fetch SmolLM2-135M-Instruct into the user's cache folder
	@$(BIN)/equilibrate fetch-model

run: model  ## run the whole pipeline on this machine (CONFIG=… for another run)
	@$(BIN)/equilibrate run --config $(CONFIG)

test: model  ## run the test suite
	$(BIN)/python -m pytest

check: setup  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: model  ## side-by-side measurements (slow)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

golden: setup  ## compile the kept pipeline anew; look at its diff before you commit
	$(BIN)/python -W ignore -m tests.pipelines.golden_pipeline

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs build *.egg-info
