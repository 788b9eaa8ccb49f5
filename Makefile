# `make demo` and `make test` set everything up by themselves; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Torch goes in first and pinned. Left to a range, on a machine without a GPU, the resolver takes the newest build and
# with it gigabytes of CUDA packages; a torch that is already there and fits the range is left alone.
# Another build: make test TORCH="torch==2.12.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0

JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n $(JOBS) --dist loadfile

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.DEFAULT_GOAL := help
.PHONY: help install demo test check slow clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## .venv with everything; needs the network once, and again only when pyproject.toml changes

# --no-build-isolation: with the build backend installed beside the rest, a changed pyproject.toml needs no network
# unless it asks for a new package.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"geomol needs Python 3.11 or newer, $(PYTHON) is {v[0]}.{v[1]}; say make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet "hatchling>=1.27" editables
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	@touch $@

# What the demo does, one command a step; SHORT=1 trains for seconds, to prove the path rather than the model.
DEMO := runs/demo
ifdef SHORT
DEMO_ARGS ?= schedule.epochs=1
DEMO_STEPS ?= 200
DEMO_LEVELS ?= 15
else
DEMO_STEPS ?= 4000
DEMO_LEVELS ?= 50
endif

demo: $(STAMP) ## train a potential, run MD with it, make molecules, and write a report to look at
	rm -rf $(DEMO)
	$(BIN)/geomol train examples/configs/demo.toml $(DEMO_ARGS)
	$(BIN)/geomol eval $(DEMO) ethanol-gfn2 --split test --threads 1
	$(BIN)/geomol md $(DEMO) ethanol-gfn2 --ensemble nvt --temperature 300 --timestep 0.5 --steps $(DEMO_STEPS) --threads 1
	$(BIN)/geomol sample qm9-generator -n 32 --steps $(DEMO_LEVELS) --relax mmff --threads 1 -o $(DEMO)/molecules/molecules.sdf --html $(DEMO)/molecules/gallery.html --json $(DEMO)/molecules/molecules.json
	$(BIN)/geomol report $(DEMO)
	@echo
	@echo "The report: $(CURDIR)/$(DEMO)/report.html"

test: $(STAMP) ## the test suite, without what takes minutes
	$(PYTEST) $(PARALLEL)

check: $(STAMP) ## format, lint, types, then the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) $(PARALLEL)

slow: $(STAMP) ## the tests that take minutes: kills, long simulations, trained models
	$(PYTEST) -m slow

clean: ## remove .venv, runs/ and caches
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
