# `make help` tells what there is. Everything runs in .venv, which is set up on
# the first call, and again when pyproject.toml has changed.

VENV    := .venv
PYTHON  := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
DATASET ?=
PRESET  ?=
SEED    ?=
RESULTS ?=
NORM    ?=
EPSILON ?=
ARGS    ?=

# What `make quick` tests: mathematics, layers, constraints, what users import.
CORE := tests/constraints/test_constraints.py tests/layers/test_stable_ode.py \
	$(addprefix tests/stability/test_,lipschitz.py slope_interval.py log_norm.py) \
	$(addprefix tests/test_,activations.py losses.py initializers.py) \
	$(addprefix tests/trainers/test_,recipe.py command_line.py)

SHELL       := bash
.SHELLFLAGS := -eo pipefail -c

# The first interpreter that works and is neither too old nor too new.
BASE_PYTHON ?= python3 python3.13 python3.12 python3.11
FIND_PYTHON = for p in $(BASE_PYTHON); do $$p -c 'import sys; \
	sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && \
	echo $$p && break; done

# Of all that pip says: the large packages, as they come.
SHOW_LARGE = awk '/^ *(Downloading|Using cached) .* MB/ {sub(/^ */, "  "); \
	print; fflush()} /^Installing collected/ {print "  Installing"; fflush()}'

.DEFAULT_GOAL := help
.PHONY: help venv data train certify compare sweep baselines zoo quick test slow lint format \
	docs bazel clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)
	@echo "  for instance: make compare DATASET=fashion_mnist SEED=1"

venv: $(STAMP)  ## set up .venv with the package and all it needs

$(STAMP): pyproject.toml setup.py
	@if ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  python="$$($(FIND_PYTHON) || true)"; \
	  if [ -z "$$python" ]; then \
	    echo "error: Python 3.11, 3.12 or 3.13 is needed, and none was found." \
	      "Install one, or name it: BASE_PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "Setting up $(VENV) with $$($$python --version) ..."; \
	  if ! $$python -m venv $(VENV); then \
	    rm -rf $(VENV); \
	    echo "error: $$python cannot make virtual environments. On Debian" \
	      "and Ubuntu, install the package python3-venv." >&2; \
	    exit 1; \
	  fi; \
	fi
	@echo "Installing TensorFlow and the rest (2.4 GB): a minute or two ..."
	@if ! PYTHONWARNINGS=ignore $(PYTHON) -m pip install --progress-bar off \
	    --disable-pip-version-check -e '.[compare,tests]' | $(SHOW_LARGE); then \
	  echo "error: pip could not install the dependencies; its reason is" \
	    "above. 'make venv' tries again." >&2; \
	  exit 1; \
	fi
	@touch $@
	@echo "$(VENV) is ready."

data: venv  ## prepare MNIST and FashionMNIST (DATASET=mnist: only that)
	$(PYTHON) -m trainers.prepare_data $(if $(DATASET),--datasets=$(DATASET)) \
	  $(ARGS)

train: venv  ## train one model (DATASET, SEED, ARGS="--delta_bar=0 ...")
	$(PYTHON) -m trainers.train --dataset=$(or $(DATASET),mnist) \
	  $(if $(SEED),--seed=$(SEED)) $(ARGS)

certify: venv  ## train for certified accuracy (DATASET, SEED, NORM=inf, EPSILON)
	$(PYTHON) -m trainers.certify --dataset=$(or $(DATASET),mnist) \
	  --output=results/$(basename $(notdir $(or $(DATASET),mnist)))/certified$(addprefix _,$(NORM)) \
	  $(if $(NORM),--norm=$(NORM)) $(if $(EPSILON),--epsilon=$(EPSILON)) \
	  $(if $(SEED),--seed=$(SEED)) $(ARGS)

compare: venv  ## train, attack, export four models (DATASET, PRESET, SEED)
	$(PYTHON) -m trainers.compare --dataset=$(or $(DATASET),mnist) \
	  $(if $(PRESET),--preset=$(PRESET)) $(if $(SEED),--seed=$(SEED)) \
	  $(if $(RESULTS),--results=$(RESULTS)) $(ARGS)

sweep: venv  ## stabilize a trained model for several bounds (DATASET, SEED)
	$(PYTHON) -m trainers.delta_sweep --dataset=$(or $(DATASET),mnist) \
	  $(if $(SEED),--seed=$(SEED)) $(if $(RESULTS),--results=$(RESULTS)) \
	  $(ARGS)

baselines: venv  ## train and attack methods of others alike (DATASET, SEED)
	$(PYTHON) -m trainers.baselines --dataset=$(or $(DATASET),mnist) \
	  $(if $(SEED),--seed=$(SEED)) $(if $(RESULTS),--results=$(RESULTS)) $(ARGS)

zoo: venv  ## build what is missing or out of date in saved_models/
	$(PYTHON) -m trainers.zoo $(ARGS)

quick: lint  ## lint, types and the core's tests, in 90 seconds
	$(PYTHON) -m pytest -q -n 2 --dist loadscope -m "not slow" $(CORE) $(ARGS)

test: lint  ## ruff, mypy, pytest with the doctests
	$(PYTHON) -m pytest -n 2 --dist loadscope -m "not slow" $(ARGS)

slow: venv  ## the tests that take more than ten seconds each
	$(PYTHON) -m pytest -n 2 --dist loadscope -m slow $(ARGS)

lint: venv  ## ruff and mypy only
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PYTHON) -m mypy

format: venv  ## let ruff format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: venv  ## build the documentation into site/
	@$(PYTHON) -m pip install -q --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

bazel: venv  ## build and test with Debian's Bazel, without the network
	tools/bazel_offline.sh test //... $(ARGS)

clean:  ## remove .venv, caches and builds; results and data stay
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache \
	  .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
