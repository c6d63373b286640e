# make study   run the miniature study from scratch: venv, install, train, evaluate, report
# make test    run every check from scratch: venv, install, ruff, mypy, pytest
# Requires make and Python 3.11 or newer. PYTHON=python3.12 selects another interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
JOBS ?= 2
STUDY ?= studies/quickstart.yaml
BIN := .venv/bin
# An install stays valid until pyproject.toml changes.
KEY := $(shell sha256sum pyproject.toml | cut -c1-12)
INSTALLED := .venv/.installed-$(KEY)
INSTALLED_DEV := .venv/.installed-dev-$(KEY)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# pip would compile every module, on one processor. Python compiles those that are used when they are first imported, and
# keeps them even where it is told not to elsewhere: each of the many processes of a test run would compile torch again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help:  ## show the available targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 16

$(BIN)/python:
	@echo "==> creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; try make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv

$(INSTALLED): | $(BIN)/python
	@echo "==> installing eyeswap into .venv (about a minute and 1.9 GB, most of it torch)"
	@$(BIN)/pip install --quiet --no-compile --editable .
	@touch $@

$(INSTALLED_DEV): | $(BIN)/python
	@echo "==> installing eyeswap with its test tools into .venv (about a minute and 2.8 GB, most of it torch and Triton)"
	@$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	@touch $@ $(INSTALLED)

.PHONY: study
study: $(INSTALLED)  ## run the quickstart study and write its report
	@echo "==> eyeswap study run $(STUDY)"
	@$(BIN)/eyeswap study run $(STUDY)

.PHONY: adapted
adapted: $(INSTALLED)  ## adapt nine miniature backbones for the dense studies; one to three hours on one core
	@$(BIN)/pip install --quiet --editable '.[coco]'
	@for objective in classification detection segmentation; do for backbone in vmamba vit maxvit; do \
	  $(BIN)/eyeswap adapt --objective $$objective --backbone digits-$$backbone --out studies/miniature/adapted; \
	done; done

.PHONY: again
again: $(INSTALLED)  ## pretrain three miniature backbones again for studies/miniature/again.yaml; 45 minutes on one core
	@for backbone in maxvit vmamba mambavision; do \
	  test -e studies/miniature/again/digits-$$backbone.safetensors || \
	  $(BIN)/eyeswap pretrain digits-$$backbone --out studies/miniature/again || exit 1; \
	done

.PHONY: sizes
sizes: $(INSTALLED)  ## pretrain the miniature backbones in two more sizes for studies/miniature/sizes.yaml; hours on one core
	@for size in tiny base; do for backbone in vit maxvit vmamba mambavision; do \
	  test -e studies/miniature/sizes/digits-$$backbone-$$size.safetensors || \
	  $(BIN)/eyeswap pretrain digits-$$backbone-$$size --out studies/miniature/sizes || exit 1; \
	done; done

.PHONY: llms
llms: $(INSTALLED)  ## train the miniature LLM further in two ways for studies/miniature/positions.yaml; half an hour on one core
	@for raster in 8 16; do \
	  test -e studies/miniature/llms/digits-llm-raster-$$raster/card.json || \
	  $(BIN)/eyeswap pretrain digits-llm-raster-$$raster --out studies/miniature/llms || exit 1; \
	done

# The studies behind docs/findings.md; each resumes where it was stopped.
.PHONY: findings
findings: $(INSTALLED) adapted again sizes llms  ## run the studies behind docs/findings.md again (hours)
	@for name in $(sort $(notdir $(wildcard results/miniature/*))); do \
	  $(BIN)/eyeswap study run studies/miniature/$$name.yaml && \
	  cp runs/$$name/report/report.md runs/$$name/report/results.csv runs/$$name/report/results.json results/miniature/$$name/ || exit 1; \
	done
	@$(BIN)/eyeswap predictors $(patsubst %,studies/miniature/%.yaml,$(sort $(notdir $(wildcard results/miniature/*)))) \
	  --results results/miniature --out results/predictors

# pip and mypy use one processor each: something else is done beside them.
.PHONY: test
test:  ## run ruff, mypy and the tests
	@$(MAKE) --no-print-directory --jobs=2 $(INSTALLED_DEV) browser
	@$(MAKE) --no-print-directory --jobs=2 lint pytest

.PHONY: pytest
pytest: $(INSTALLED_DEV)
	@echo "==> pytest, $(JOBS) processes"
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: test-all
test-all: $(INSTALLED_DEV) browser lint  ## run every test, those that take minutes too
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m ""

.PHONY: lint
lint: $(INSTALLED_DEV)  ## run ruff and mypy
	@echo "==> ruff check, ruff format --check, mypy --strict"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --strict

# The report page is tested in a real browser. It is only installed as root, and only from Debian's packages.
.PHONY: browser
browser:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then \
	  true; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "==> installing chromium for the tests of the report page"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	    || echo "==> chromium could not be installed: the browser tests will be skipped"; \
	else \
	  echo "==> no chromium, and installing it needs root and apt-get: the browser tests will be skipped"; \
	fi

# Slurm's daemons are only installed as root, and only from Debian's packages. They run from a folder of their own, on the
# loopback interface, and end with the tests.
.PHONY: test-slurm
test-slurm: $(INSTALLED_DEV)  ## run a tiny study on a real Slurm of one node, and disturb it; ten minutes
	@if ! command -v slurmctld >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "==> installing Slurm"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends munge slurmctld slurmd slurm-client >/dev/null; } \
	    || echo "==> Slurm could not be installed"; \
	fi
	@$(BIN)/python -m tests.slurm

# For a bare machine: nothing is installed or downloaded, PYTHON names an interpreter that has torch and eyeswap's packages.
.PHONY: gpu
gpu:  ## run the checks and tables that need a GPU, within eight minutes, into gpu-results/
	@PYTHONPATH=src:$$PYTHONPATH $(PYTHON) benchmarks/gpu_run.py

# A release is tried as its users get it: from the files alone, in an environment that has nothing else.
.PHONY: package
package: $(INSTALLED_DEV)  ## build wheel and sdist, install the wheel into a clean venv, run the miniature's plan
	@rm -rf dist build/clean-venv
	@$(BIN)/python -m build --outdir dist .
	@$(PYTHON) -m venv build/clean-venv
	@build/clean-venv/bin/pip install --quiet dist/*.whl
	@cd build && clean-venv/bin/eyeswap --version && clean-venv/bin/eyeswap study plan ../studies/quickstart.yaml
	@build/clean-venv/bin/eyeswap doctor
	@ls -l dist

.PHONY: image
image:  ## build the container and run it once
	@docker build --quiet --tag eyeswap .
	@docker run --rm eyeswap --version

.PHONY: clean
clean:  ## remove the venv and caches, but not results
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
