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
PYTEST := $(BIN)/pytest

.PHONY: help setup demo test test-unit test-integration test-container test-act test-cluster soak test-gpu-image test-machine test-machine-down lint format schema docs pictures lock bench adopt clean

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

test: $(VENV)/.dev lint test-machine ## All checks and all tests, in two processes; see tests/README.md.
	$(BIN)/python -m tests.run

test-machine: $(VENV)/.dev ## Prepare this machine for the tests below: as root on Debian install programs and start Docker; elsewhere say what is missing.
	$(BIN)/python -m tests.machine up

test-machine-down: $(VENV)/.dev ## End the Docker daemon that test-machine started, if it did.
	$(BIN)/python -m tests.machine down

test-unit: $(VENV)/.dev ## The tests that start no program and use no network: a minute.
	$(PYTEST) tests/unit

test-integration: test-machine ## The tests against real registries, archivers and servers, without Docker.
	$(PYTEST) tests/integration

test-container: test-machine ## The tests against the real image.
	$(PYTEST) tests/container

soak: test-machine ## What takes longer than a push can wait for: attacks on the real image, each with its control (ten minutes).
	$(PYTEST) --soak -s tests/container

test-gpu-image: test-machine ## Build the CUDA image (5 GB of wheels) and check what it reports without a GPU.
	$(PYTEST) --run-gpu-image -s tests/gpu_image

test-act: test-machine ## The workflows and actions under act, with Docker and a registry.
	$(PYTEST) tests/workflow

test-cluster: test-machine ## The kubernetes target on a one-node cluster started here (the first time its programs are built: minutes).
	$(PYTEST) tests/cluster

lint: $(VENV)/.dev ## ruff, mypy, import-linter, actionlint, zizmor, hadolint, cfn-lint, and what is generated is up to date.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=scripts:handlers:runtime $(BIN)/lint-imports --no-logo
	$$($(BIN)/python -m tests.gotools actionlint)
	$(BIN)/zizmor --quiet --offline --persona auditor .github actions
	$(BIN)/hadolint Dockerfile .devcontainer/Dockerfile
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

bench: test-machine ## The figures of docs/figures.md: the push path beside the usual recipe, from a push to an answer, and serving.
	$(BIN)/python -m tests.build_go_programs # waits for the build in the background, which would falsify the figures
	$(BIN)/python benchmarks/push_path.py
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.serving

adopt: ## Re-home the repository: make adopt OWNER=acme REPO=serving
	@test -n "$(OWNER)" -a -n "$(REPO)" || { echo "name both: make adopt OWNER=acme REPO=serving"; exit 2; }
	$(PYTHON) scripts/references.py adopt --owner "$(OWNER)" --repo "$(REPO)"

clean: ## Remove what the targets made here; the cache and the daemon's images stay.
	-@for example in examples/*/; do $(BIN)/torchrelay delete $$example --target local; done
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache examples/*/.torchrelay
