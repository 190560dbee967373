# Every target sets up what it needs, by itself, once: a virtual environment in .venv with uv inside it, for speed.
# Where a directory of local wheels is configured (PIP_FIND_LINKS or UV_FIND_LINKS), torch is taken from there.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := igpo-sampling igpo-rl igpo-data igpo-cli
PROJECTS := $(PACKAGES:%=packages/%) $(patsubst %/pyproject.toml,%,$(wildcard examples/*/pyproject.toml))

export UV_FIND_LINKS := $(strip $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS)))
export TOKENIZERS_PARALLELISM ?= false
# With it every process would compile everything it imports again: 6.5 s instead of 2.9 for torch.
unexport PYTHONDONTWRITEBYTECODE
# An already active environment is none of ours.
unexport VIRTUAL_ENV
TORCH := $(if $(UV_FIND_LINKS),torch==2.13.0)

.DELETE_ON_ERROR:
.PHONY: setup demo evidence evidence-gpu test test-all lint bench drill docs dist constraints clean

setup: .venv/ready

# uv is there last, so its presence says that the environment is whole.
.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("igpo needs Python 3.11 or newer and $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.11 ...")'
	@echo "Setting up .venv (once; about half a minute and the download)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check uv

.venv/ready: constraints.txt pyproject.toml $(PROJECTS:%=%/pyproject.toml) | .venv/bin/uv
	@$(BIN)/uv pip install --quiet --python .venv --constraint constraints.txt --group dev $(TORCH) $(PROJECTS:%=--editable %)
	@touch $@

# One seed of the arms that the report compares; results are kept, so a second call only prints them again.
SEED ?= 0
DEMO := runs/demo-$(SEED)
demo: setup
	$(BIN)/python -m evidence --folder $(DEMO) --seeds $(SEED) --arms sft,grpo,resample,igpo --report report.html

# STUDIES=main,eta and ARMS=igpo,grpo and SEEDS=1,2 select; one result file per arm and seed in
# evidence/results, so a call that was cut off goes on and a table can be made again from what was measured.
evidence: setup
	$(BIN)/python -m evidence --studies $(or $(STUDIES),all) $(if $(ARMS),--arms $(ARMS)) $(if $(SEEDS),--seeds $(SEEDS)) --results evidence/results --page docs/evidence.md

# The word problems of evidence/words.toml on one GPU; refuses where there is none.
evidence-gpu: setup
	$(BIN)/python -m evidence --studies words --jobs 1 $(if $(SEEDS),--seeds $(SEEDS)) --results evidence/results --page docs/evidence.md

# Two workers share the files: a file's fixtures are made once.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-all: setup
	$(BIN)/python -m pytest -m ""

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Runs are killed, starved of disk, damaged and fed with faults, and must end as if nothing had happened.
# DRILLS="kills disk" selects; KILLS=10, DAMAGES=5, DISKS=1 and SEED=1 change counts and moments; KEEP=folder keeps the runs.
drill: setup
	nice $(BIN)/python -m drills $(DRILLS) --kills $(or $(KILLS),50) --damages $(or $(DAMAGES),30) --disks $(or $(DISKS),3) \
		--seed $(SEED) $(if $(KEEP),--folder $(KEEP))

# About 25 minutes on two cores that do nothing else; CASES="rollout step" selects. Each table is written as it is done.
bench: setup
	$(BIN)/python -m benchmarks $(CASES)

# The variable silences an advertisement of the theme.
docs: export NO_MKDOCS_2_WARNING := 1
docs: setup
	$(BIN)/mkdocs build --strict

dist: setup
	rm -rf dist
	$(BIN)/uv build --quiet --all-packages --out-dir dist
	$(BIN)/twine check --strict dist/*

# Versions that are known to work together, on every platform, without a word about where they were found. torch and
# what it brings for graphics cards is the machine's own choice.
constraints: .venv/bin/uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group dev \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--no-emit-package torch $(foreach project,$(notdir $(PROJECTS)),--no-emit-package $(project)) \
		pyproject.toml $(PROJECTS:%=%/pyproject.toml) | grep -vE '^(nvidia-|cuda-|triton)' > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf .venv dist site
