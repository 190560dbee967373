# Every target sets up what it needs, by itself, once: a virtual environment in .venv and uv inside it.
# The CPU build of torch is taken where a local wheel directory is configured (PIP_FIND_LINKS or UV_FIND_LINKS).
export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))
unexport PYTHONDONTWRITEBYTECODE
export UV_LINK_MODE ?= copy
export TOKENIZERS_PARALLELISM ?= false
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := igpo-sampling igpo-rl igpo-data igpo-cli
TORCH := $(if $(UV_FIND_LINKS),torch==2.13.0)

.PHONY: setup demo test test-all lint bench evidence dist clean
setup: .venv/ready

.venv/ready: constraints.txt pyproject.toml $(PACKAGES:%=packages/%/pyproject.toml) examples/igpo-coin/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --constraint constraints.txt --group dev \
		$(TORCH) $(PACKAGES:%=--editable packages/%) --editable examples/igpo-coin
	$(BIN)/python -m compileall -q $(BIN)/../lib >/dev/null 2>&1 || true
	touch $@

test: setup
	$(BIN)/python -m pytest

test-all: setup
	$(BIN)/python -m pytest -m "slow or not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv dist site
