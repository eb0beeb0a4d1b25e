# Every target sets up what it needs, in .venv, with nothing preinstalled but Python >= 3.12 and make.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-oldest campaign lint types pytest docs bench dist format clean

# The first interpreter that is new enough; PYTHON=... on the command line chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.14 python; do \
	"$$p" -c 'import sys, venv; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo "$$p"; break; }; done)
# Most of the processes that the tests start import the package, and compiled modules load in a third of the time.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# A PYTHON on the command line with another version than the environment replaces the environment.
VERSION := -c 'import platform; print(platform.python_version())'
ifeq ($(origin PYTHON),command line)
ifneq ($(shell $(PYTHON) $(VERSION)),$(shell $(BIN)/python $(VERSION) 2>/dev/null))
.PHONY: $(VENV)/.made
endif
endif

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Run the main example: what would free care, or the 95 % plan, do to doctor visits?
	$(BIN)/python examples/health_insurance.py

test: lint types pytest ## Run everything that must hold before a change may land

lint: $(VENV)/.test ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test ## Check types
	$(BIN)/mypy

pytest: $(VENV)/.test ## Run the tests alone, in two processes; ARGS="..." is passed on
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

test-all: lint types $(VENV)/.test-all ## Run every test: all kernels of the catalogue, notebooks, the documentation
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "" $(ARGS)

# Each program takes its share of MINUTES; SEED=... repeats a run.
CAMPAIGNS := $(wildcard tests/campaigns/[a-z]*.py)
MINUTES ?= 60
SEED ?= $(shell date +%s)

campaign: $(VENV)/.test ## Kill, damage, overload and misuse at random, for about an hour in total
	@status=0; for program in $(CAMPAIGNS); do \
		echo "$$program --minutes $$(( $(MINUTES) / $(words $(CAMPAIGNS)) )) --seed $(SEED)"; \
		$(BIN)/python $$program --minutes $$(( $(MINUTES) / $(words $(CAMPAIGNS)) )) --seed $(SEED) || status=1; \
	done; exit $$status

test-oldest: $(VENV)/.made ## Run a part of the tests with the oldest dependencies that pyproject.toml admits
	$(PIP) uv
	rm -rf .venv-oldest
	$(BIN)/python -m venv .venv-oldest
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --only-binary :all: \
		--output-file .venv-oldest/oldest.txt --python .venv-oldest pyproject.toml > /dev/null
	$(BIN)/uv pip install --quiet --python .venv-oldest --constraint .venv-oldest/oldest.txt --editable . \
		pytest pytest-timeout hypothesis optax flax equinox dm-haiku
	.venv-oldest/bin/python -m pytest -q tests/stream tests/store/test_zarr_store.py tests/store/test_stores.py \
		tests/kernel/test_inspection.py tests/model

dist: $(VENV)/.made ## Build wheel and sdist, and check each in an empty environment
	$(PIP) build
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	for file in dist/*.whl dist/*.tar.gz; do \
		rm -rf .venv-dist && $(BIN)/python -m venv .venv-dist && .venv-dist/bin/python -m pip install --quiet $$file \
		&& .venv-dist/bin/python -I -c "import aimz, sys; print(aimz.__version__, 'from', sys.argv[1])" $$file || exit 1; \
	done
	rm -rf .venv-dist

docs: $(VENV)/.docs ## Build the documentation into docs/_build
	rm -rf docs/_build docs/api
	$(BIN)/python docs/_ext/agent_guide.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "open docs/_build/index.html"

bench: $(VENV)/.test ## Time a second prediction beside NumPyro's Predictive
	$(BIN)/python benchmarks/latency.py

format: $(VENV)/.test ## Put the source into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove everything that was made
	rm -rf $(VENV) .venv-oldest dist docs/_build docs/api out .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.12 or newer with the venv module is needed; none was found." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	@echo "Installing what the example needs (once) ..."
	$(PIP) --editable ".[examples]"
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	@echo "Installing what the tests need (once) ..."
	$(PIP) --editable ".[discrete,examples,mlflow]" --group test
	@touch $@

$(VENV)/.test-all: $(VENV)/.test
	@echo "Installing what the slow tests need (once) ..."
	$(PIP) --editable ".[discrete,examples,mlflow]" --group test-all
	@touch $@

$(VENV)/.docs: $(VENV)/.made pyproject.toml
	@echo "Installing what the documentation needs (once) ..."
	$(PIP) --editable ".[mlflow,plots]" --group docs
	@touch $@
