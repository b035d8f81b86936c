# Two commands do everything from a fresh clone with nothing but Python 3.11, 3.12 or 3.13:
#   make demo     make test
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell .ci/python 3.11 3.12 3.13 || command -v python3)
# The core alone, without PyTorch, on the newest Python that runs.
CORE_VENV := .venv-core
CORE_PYTHON ?= $(shell .ci/python 3.13 3.12 3.11 || command -v python3)
CORE_MARKS ?= not matrix
# A package index for torch alone, where a CPU-only build is wanted; empty: the default one.
TORCH_INDEX ?=
TORCH := $(shell grep '^torch==' constraints.txt)
VIDEOS ?=
STUDY ?= helps_footage

.PHONY: env test test-fast robustness core-test demo ped2 study world bench devices lint package docs clean

env: $(VENV)/.installed

# $(call require,PYTHON): one line, unless the Python of this variable is one that the pins are for.
require = "$($(1))" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || \
  { echo 'error: $(1)=$($(1)) is not Python 3.11, 3.12 or 3.13; give make $(1)=/path/to/python3.11' >&2; exit 2; }

# torch goes first and pinned: later packages that want any torch then take no other.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(call require,PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(CORE_VENV)/.installed: pyproject.toml constraints.txt
	@$(call require,CORE_PYTHON)
	test -x $(CORE_VENV)/bin/python || $(CORE_PYTHON) -m venv $(CORE_VENV)
	$(CORE_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

test: env
	$(BIN)/python -m pytest

# What compiles no program and starts few processes: under a minute.
FAST := tests/imports_test.py tests/gvvad_jax/store tests/generation/prompts tests/generation/filter \
  tests/generation/media tests/tools/studies/statistics_test.py \
  $(addprefix tests/gvvad_jax/,batches_test.py splits_test.py losses_test.py metrics_test.py)
test-fast: env
	$(BIN)/python -m pytest -m "not slow and not matrix" $(FAST)

# Every kill, damage and full disk that `make test` takes a sample of; about half an hour.
robustness: env
	GVVAD_ROBUSTNESS=whole $(BIN)/python -m pytest -m robustness tests/robustness

# Tests that need an extra are skipped (tests/conftest.py).
core-test: $(CORE_VENV)/.installed
	$(CORE_VENV)/bin/python -m pytest -m "$(CORE_MARKS)"

demo: env
	$(BIN)/python -m tools.demo --flagfile=configs/demo.flags --out=demo

ped2: env
	$(BIN)/python -m tools.study --study=ped2 --flagfile=configs/ped2.flags --videos=$(VIDEOS) --out=runs/ped2

# One of configs/studies, such as STUDY=helps_footage; those of real video need VIDEOS too.
study: env
	$(BIN)/python -m tools.study --flagfile=configs/studies/$(STUDY).flags $(if $(VIDEOS),--videos=$(VIDEOS))

world: env
	$(BIN)/python -m tools.check_world

devices: env
	$(BIN)/python -m pytest tests/gvvad_jax/devices_test.py tests/gvvad_jax/processes_test.py \
	  tests/gvvad_jax/together_test.py tests/tools/bench -m "matrix or not matrix"

bench: env
	$(BIN)/python -m tools.bench

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The API reference, into site/.
docs: env
	$(BIN)/mkdocs build --strict --quiet

# The wheel and the source distribution, each installed in a fresh environment and tried.
package: env
	.ci/package $(BIN)/python

clean:
	rm -rf demo runs build site *.egg-info
