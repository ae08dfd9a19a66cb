# Everything one does with this repository. `make` lists the targets.
#
# Set-up needs Python 3.11 or newer with pip. Which torch is chosen once, at the first set-up:
#   make setup TORCH='torch==2.15.0' PIP_FLAGS='--index-url ...'     e.g. a CUDA build
# takes another version, or a build from another index; a torch that is in place stays, so
# `make clean` comes first where it is to change.

PYTHON    ?= python3
VENV      ?= .venv
TORCH     ?= torch==2.13.0
PIP_FLAGS ?=
RECIPE    ?= experiments/ablation_ca.yaml
SWEEP     ?= sweeps/band_search.yaml
ARGS      ?=
PRICES    := experiments/systems/PRICES.md

BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip --disable-pip-version-check
LAB   := $(BIN)/python -m eramv_lab
READY := $(VENV)/.ready
TESTS := $(BIN)/python -m pytest -n 2 --dist worksteal
LMMS  := .venv-lmms

.DEFAULT_GOAL := help
.PHONY: help setup fit sweep test test-all test-lmms lint format data base release ui bench prices lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make fit RECIPE=experiments/other.yaml ARGS='--seed 0 train.lr=1e-3'"
	@echo "  make setup PYTHON=python3.12 TORCH='torch==2.15.0' PIP_FLAGS='--index-url ...'"

setup: $(READY)  ## virtual environment with the pinned dependencies

fit: setup  ## the main job: train, price and compare the arms of RECIPE, from nothing
	$(LAB) fit $(RECIPE) $(ARGS)

sweep: setup  ## search for the best setting within the budget of SWEEP
	$(LAB) sweep $(SWEEP) $(ARGS)

test: setup  ## the quick tier of the tests
	$(TESTS) $(ARGS)

test-all: setup  ## all tests
	$(TESTS) -m "slow or not slow" $(ARGS)

test-lmms: $(LMMS)/.ready  ## lmms-eval, set up in an environment of its own, scores a model
	$(LMMS)/bin/python -m pytest -m "slow or not slow" tests/integrations $(ARGS)

lint: setup  ## formatting, ruff and pyright
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: setup  ## format the code and mend what ruff can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

data: setup  ## the made world's shards (`make fit` makes them too where they are missing)
	$(LAB) data make $(ARGS)

base: setup  ## the base that every arm starts from (`make fit` trains it too where it is missing)
	$(LAB) base $(RECIPE) $(ARGS)

release: setup  ## the released base, data/eramv-tiny, anew (five minutes on one core, and its base)
	$(LAB) fit experiments/eramv_tiny.yaml
	rm -rf data/eramv-tiny
	$(LAB) export eramv_tiny data/eramv-tiny

ui: setup  ## the server that shows all runs, on this machine only
	$(LAB) ui $(ARGS)

bench: setup  ## time the hot paths, and a sweep beside fresh fits (half an hour on two cores)
	$(BIN)/python tests/bench.py $(ARGS)

prices: setup  ## the price list of the systems at 7B and 13B, experiments/systems/PRICES.md, anew
	$(LAB) cost experiments/systems/*.yaml --shape llava15_7b --shape llava15_13b --text-tokens 64 \
		--gpu a100 --gpu h100 --gpu h200 --markdown > $(PRICES).new
	mv $(PRICES).new $(PRICES)

lock: $(BIN)/python  ## pin requirements.lock anew from pyproject.toml (ARGS=--upgrade: newest versions)
	$(PIP) install --quiet uv
	echo 'torch ; python_version < "0"' > $(VENV)/without-torch.txt
	$(BIN)/uv pip compile pyproject.toml --group torch-needs --universal \
		--extra dev --extra slurm --extra postgres \
		--generate-hashes --overrides $(VENV)/without-torch.txt --no-annotate \
		--custom-compile-command 'make lock' --quiet --output-file requirements.lock $(ARGS)

clean:  ## remove the virtual environment and caches; runs and data stay
	rm -rf $(VENV) $(LMMS) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) from requirements.lock (some minutes, once)"
	$(PIP) install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(PIP) show --quiet torch 2>/dev/null || $(PIP) install --quiet $(PIP_FLAGS) '$(TORCH)'
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(PIP) check
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "eramv_lab needs Python 3.11 or newer, and '$(PYTHON)' is not;" \
			"name another one: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# lmms-eval asks for torchvision, whose build has to be that of torch. One that is not breaks
# transformers, and nothing here needs it (nor timm, which needs it): only models of lmms-eval do.
$(LMMS)/.ready: pyproject.toml
	@echo "setting up $(LMMS) with the extra lmms (some minutes, once)"
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet $(PIP_FLAGS) '$(TORCH)' torchvision
	$(LMMS)/bin/python -m pip install --quiet '$(TORCH)' --editable '.[lmms]' 'pytest>=8.4'
	@$(LMMS)/bin/python -c 'import torchvision' 2>/dev/null || { \
		echo "this torchvision does not fit $(TORCH): removed"; \
		$(LMMS)/bin/python -m pip uninstall --quiet --yes torchvision timm; }
	@touch $@
