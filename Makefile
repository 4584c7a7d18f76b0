# Everything is set up on the way: `make demo` and `make test` need Python >= 3.11 with venv, gcc and
# make, nothing else. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
CONFORMANCE_ARGS ?=

# An unisolated build looks for meson, ninja and cffi-gen-src on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Set-up leaves stamps in .venv, so that only what changed is done again. Sources need none: an
# editable install rebuilds the extension when it is imported.
BASE := $(VENV)/.base
BUILT := $(VENV)/.built
GROUP := $(VENV)/.group-

.NOTPARALLEL:
.DEFAULT_GOAL := help

.PHONY: help demo test test-all conformance lint format types docs bench bench-smoke wheel sdist clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(BUILT) $(GROUP)demo  ## a busy server beside helper processes, on four backends (DEMO_ARGS=--help)
	$(BIN)/python -m examples.demo $(DEMO_ARGS)

test: $(BUILT) $(GROUP)test  ## the fast tests (PYTEST_ARGS='-k ...')
	$(BIN)/python -m pytest -n 2 -m 'not slow' $(PYTEST_ARGS)

test-all: $(BUILT) $(GROUP)test  ## every test
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

conformance: $(BUILT) $(GROUP)test  ## other projects' tests of subprocesses, on plugged loops (CONFORMANCE_ARGS=--help)
	$(BIN)/python -m conformance $(CONFORMANCE_ARGS)

lint: $(GROUP)lint  ## style and layout of Python and C, thread tags; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror csrc/*.[ch] csrc/*/*.[ch] tools/*/*.c
	$(BIN)/python tools/thread_tags.py csrc

format: $(GROUP)lint  ## puts Python and C into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i csrc/*.[ch] csrc/*/*.[ch] tools/*/*.c

types: $(BUILT) $(GROUP)types  ## mypy --strict, as each supported Python sees the standard library
	for version in 3.11 3.12 3.13; do $(BIN)/mypy --python-version $$version || exit 1; done

docs: $(BUILT) $(GROUP)docs  ## the documentation, into docs/_build
	$(BIN)/sphinx-build -W -n --keep-going -q docs docs/_build
	@echo "docs/_build/index.html"

bench: $(BUILT) $(GROUP)bench  ## every benchmark with the peers found here; takes a while (BENCH_ARGS=--help)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-smoke: $(BUILT) $(GROUP)bench  ## that the benchmarks run; its figures mean nothing
	$(BIN)/python -m benchmarks smoke

wheel: $(GROUP)package  ## an abi3 wheel, into dist
	$(BIN)/python -m build --wheel --outdir dist

sdist: $(GROUP)package  ## the sources, into dist; of committed files only
	$(BIN)/python -m build --sdist --outdir dist

clean:  ## removes what the targets above made, .venv included
	rm -rf $(VENV) .nox build dist docs/_build demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BASE):
	@sh tools/check_setup.sh $(PYTHON)
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(GROUP)%: pyproject.toml | $(BASE)
	@echo "installing what '$*' needs"
	@$(PIP) install --group $*
	@touch $@

$(BUILT): pyproject.toml meson.build | $(BASE) $(GROUP)build
	@echo "building aiovfork"
	@$(PIP) install --no-build-isolation --editable .
	@touch $@
