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

.PHONY: help setup model run test test-gpu test-browser check bench golden images test-containers sbom audit clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(STAMP)  ## create .venv with pinned dependencies

model: setup  ## fetch SmolLM2-135M-Instruct into the user's cache folder
	@$(BIN)/equilibrate fetch-model

run: model  ## run the whole pipeline on this machine (CONFIG=… for another run)
	@$(BIN)/equilibrate run --config $(CONFIG)

test: model  ## run the test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-gpu: setup  ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu tests/gpu

test-browser: setup  ## look at the report in a headless Chromium (installs it on Debian and its kin)
	@for name in chromium chromium-browser google-chrome chrome; do \
		command -v $$name >/dev/null && found=1; done; [ -n "$$found" ] || { \
		command -v apt-get >/dev/null || { echo "error: install Chromium, then try again"; exit 2; }; \
		SUDO=; [ "$$(id -u)" = 0 ] || SUDO=sudo; $$SUDO apt-get update -q \
			&& $$SUDO apt-get install -qy --no-install-recommends chromium fonts-dejavu-core; }
	$(BIN)/python -m pytest -m browser tests/browser

check: setup  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: model  ## run a side-by-side measurement (SCRIPT=training ARGS="--data …"); without SCRIPT: list them
	@if [ -n "$(SCRIPT)" ]; then $(BIN)/python benchmarks/$(SCRIPT).py $(ARGS); \
		else for script in benchmarks/*.py; do echo "$$script: $$(sed -n '1s/^"""//p' $$script)"; done; fi

IMAGES ?= cpu train vllm
BUILD_OPTIONS ?=

images: setup  ## build the images (IMAGES="cpu", BUILD_OPTIONS="--build-arg BASE_IMAGE=…")
	@for image in $(IMAGES); do images/build.sh $$image $(BUILD_OPTIONS) || exit 1; done

test-containers: model  ## run the laptop pipeline in containers, with a docker daemon of its own if need be
	images/private_dockerd.sh build/docker images/test_containers.sh

sbom: setup  ## bill of materials (CycloneDX) of every built image, into build/sbom
	@mkdir -p build/sbom
	@for image in $(IMAGES); do $(BIN)/python images/sbom.py equilibrate/$$image:0.1.0 \
		> build/sbom/$$image.cdx.json || exit 1; echo build/sbom/$$image.cdx.json; done

audit:  ## look every pinned package up in the advisory database (needs to reach it)
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit \
		&& build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	build/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip
golden: setup  ## compile the kept pipeline anew; look at its diff before you commit
	$(BIN)/python -W ignore -m tests.pipelines.golden_pipeline

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs build *.egg-info
