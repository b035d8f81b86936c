# Two commands do everything from a fresh clone with nothing but Python 3.11:
#   make demo     make test
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# A package index for torch alone, where a CPU-only build is wanted; empty: the default one.
TORCH_INDEX ?=
TORCH := $(shell grep '^torch==' constraints.txt)
VIDEOS ?=

.PHONY: env test demo ped2 detectors world bench devices lint clean

env: $(VENV)/.installed

# torch goes first and pinned: later packages that want any torch then take no other.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo 'error: expected Python 3.11, found $(PYTHON); give make PYTHON=/path/to/python3.11' >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: env
	$(BIN)/python -m pytest

demo: env
	$(BIN)/python -m tools.demo --flagfile=configs/demo.flags --out=demo

ped2: env
	$(BIN)/python -m tools.study --study=ped2 --flagfile=configs/ped2.flags --videos=$(VIDEOS) --out=runs/ped2

detectors: env
	$(BIN)/python -m tools.study --study=detectors --flagfile=configs/detectors.flags --videos=$(VIDEOS) --out=runs/detectors

world: env
	$(BIN)/python -m tools.check_world

devices: env
	$(BIN)/python -m pytest tests/devices_test.py -m "matrix or not matrix"

bench: env
	$(BIN)/python -m tools.bench

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf demo runs build *.egg-info
