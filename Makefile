# Every target is the very command that CI runs. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
# A folder of wheels that is looked at before the package index: a CPU build of torch, say. Empty: the index alone.
export TORCHRELAY_WHEELS ?= $(abspath $(wildcard ../shared/wheels))
FIND_LINKS := $(if $(TORCHRELAY_WHEELS),--find-links $(TORCHRELAY_WHEELS))
PIP := $(BIN)/pip --disable-pip-version-check
MACHINE := $(BIN)/python tests/machine.py
PYTEST := $(MACHINE) $(BIN)/pytest

.PHONY: help setup demo test test-unit test-integration test-container test-act test-cluster test-gpu-image lint format schema docs pictures lock bench adopt clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

$(VENV)/.package: requirements/package.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; name it: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --require-hashes -r requirements/package.txt -r requirements/build.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.package
	$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	$(PIP) install --quiet $(FIND_LINKS) torch==$(TORCH)
	@touch $@

setup: $(VENV)/.package ## Put the command at .venv/bin/torchrelay.

demo: setup ## Archive, serve and query an example model: no Docker, no cloud.
	@trap '$(BIN)/torchrelay delete examples/digits --target local >/dev/null 2>&1' EXIT; \
	$(BIN)/torchrelay relay examples/digits --target local && \
	$(BIN)/torchrelay invoke examples/digits --target local

test: $(VENV)/.dev lint ## Install what the tests need and run all of them: those without Docker beside those with it.
	$(MACHINE) --build-ahead $(BIN)/pytest -n 2 tests

test-unit: $(VENV)/.dev ## The tests that need no Docker, no server and no network: seconds.
	$(BIN)/pytest tests/unit

test-integration: $(VENV)/.dev ## The tests against real registries, archivers and servers, without Docker.
	$(PYTEST) tests/integration

test-container: $(VENV)/.dev ## The tests against the real image.
	$(PYTEST) tests/container

test-gpu-image: $(VENV)/.dev ## Build the CUDA image for real (5 GB of wheels) and see what it says without a GPU.
	$(PYTEST) --run-gpu-image -s tests/gpu_image

test-act: $(VENV)/.dev ## The workflows and actions under real act, with Docker and a registry.
	$(PYTEST) tests/workflow

test-cluster: $(VENV)/.dev ## The kubernetes target on a real one-node cluster, started here (the first time it is built: minutes).
	$(PYTEST) tests/cluster

lint: $(VENV)/.dev ## ruff, mypy, import-linter, actionlint, zizmor, hadolint, cfn-lint, and what is generated is up to date.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=scripts:handlers $(BIN)/lint-imports --no-logo
	$$($(BIN)/python tests/gotools.py actionlint)
	$(BIN)/zizmor --quiet --offline --persona auditor .github actions
	$(BIN)/hadolint Dockerfile
	$(BIN)/cfn-lint infra/aws/*.yaml
	$(BIN)/python scripts/references.py check
	$(MAKE) --no-print-directory schema
	git diff --exit-code -- schema
	PYTHONPATH=scripts $(BIN)/python -m reference_pages --check

format: $(VENV)/.dev ## Let ruff write the code its way.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schema: $(VENV)/.package ## Write the JSON Schemas from the types.
	$(BIN)/python -m torchrelay.cli.schema schema

$(VENV)/docs/.ready: requirements/docs.txt $(VENV)/.package
	test -x $(VENV)/docs/bin/python || $(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/pip --disable-pip-version-check install --quiet --require-hashes -r requirements/docs.txt
	@touch $@

docs: schema $(VENV)/docs/.ready ## Write the reference pages from the code and build the site in build/docs; a broken link fails.
	PYTHONPATH=scripts $(BIN)/python -m reference_pages
	$(VENV)/docs/bin/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -b html docs build/docs

pictures: $(VENV)/.package ## Render the README's pictures from a real run again (needs Chromium and npm; Docker for all stages).
	$(BIN)/python scripts/pictures.py

lock: ## Lock the requirements again, with hashes and without an index's address (needs uv).
	cd requirements && for name in package dev build docs runtime jre fastai serving; do ./lock.sh $$name; done

bench: $(VENV)/.dev ## The figures of docs/figures.md: the push path beside the usual recipe, from a push to an answer, and serving.
	$(MACHINE) $(BIN)/python benchmarks/push_path.py
	$(MACHINE) $(BIN)/python -m benchmarks.pipeline
	$(MACHINE) $(BIN)/python -m benchmarks.serving

adopt: ## Re-home the repository: make adopt OWNER=acme REPO=serving
	@test -n "$(OWNER)" -a -n "$(REPO)" || { echo "name both: make adopt OWNER=acme REPO=serving"; exit 2; }
	$(PYTHON) scripts/references.py adopt --owner "$(OWNER)" --repo "$(REPO)"

clean: ## Remove what the targets made here; the cache and the daemon's images stay.
	-@for example in examples/*/; do $(BIN)/torchrelay delete $$example --target local; done
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache examples/*/.torchrelay
