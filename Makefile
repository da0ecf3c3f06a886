# Every target sets itself up on a fresh machine: a virtual environment in .venv, filled once with pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
STAMP := $(VENV)/.installed
SPREAD := -n auto --maxprocesses 4 --dist loadfile  # files over the cores; by hand, pytest runs them one by one

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all test-oldest check fuzz load clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## the environment in .venv, with everything that training and testing need

quickstart: $(STAMP) ## train, export and prove a small detector on pictures made on the spot, in quickstart/
	$(BIN)/nanogfl quickstart --out quickstart

test: $(STAMP) ## the tests, in less than ten minutes on two cores
	$(BIN)/python -m pytest $(SPREAD) -m "not slow"

test-all: $(STAMP) ## the slow tests too
	$(BIN)/python -m pytest $(SPREAD)

# Of a package that asks for more than its bound here, uv takes the oldest that the others allow.
test-oldest: ## the tests with the oldest versions that pyproject.toml allows, in .venv-oldest (5 GB with CUDA's torch)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -e '.[train]'
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python pytest pytest-xdist hypothesis
	$(OLDEST)/bin/python -m pytest $(SPREAD) -m "not slow" --ignore tests/house

fuzz: $(STAMP) ## fuzz annotation readers, recipes and ONNX metadata, ten minutes each; what fails is kept in tests/seeds
	FUZZ_SECONDS=600 $(BIN)/python -m pytest -s tests/fuzz.py

load: $(STAMP) ## half an hour of pictures for the web server and the video path; neither may grow
	$(BIN)/python tests/load.py --seconds 1800

check: $(STAMP) ## format, lint, types, and who may import whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

clean: ## remove the environment, builds and caches; runs stay
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted installation is taken up again. The versions are pinned because a
# looser `torch` lets pip choose a build of several gigabytes where a small one is at hand.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: constraints.txt needs Python 3.11 or newer; name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,dev]'
	@$(BIN)/python -c 'import cv2' || { \
	  echo "error: OpenCV lacks a library of the system; on Debian or Ubuntu: apt-get install libgl1 libglib2.0-0" >&2; exit 1; }
	@touch $@
