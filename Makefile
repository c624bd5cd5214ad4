# The commands of this project. Each works on a fresh clone: it sets up .venv first where that is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch. A CUDA build: make setup TORCH_LINKS=https://download.pytorch.org/whl/cu130/torch/
TORCH_LINKS ?= https://download.pytorch.org/whl/cpu/torch/
export PIP_FIND_LINKS ?= $(TORCH_LINKS)

.PHONY: setup demo up test test-slow check format bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/agatston demo

up: setup
	$(BIN)/agatston up

test: setup
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout 7200

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml calcium models service worker

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis
