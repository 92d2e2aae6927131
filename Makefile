# Everything a newcomer needs. `make demo` and `make test` start from nothing but Python 3.11 to 3.13, git and make.

# The first Python on the path that runs and is one of those that Ray has wheels for.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help install demo test test-slow test-mutants test-gpu check lint types bench bench-rule clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## create .venv with the exact versions of constraints.txt
	@echo "arsched is in $(BIN); to have it on your PATH: source $(BIN)/activate"

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "arsched needs Python 3.11, 3.12 or 3.13, and none is on the path; try: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "creating $(VENV) (torch is the large part; a first download takes minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]' > $(VENV)/install.log 2>&1 & \
	  pid=$$!; trap 'kill $$pid 2>/dev/null' INT TERM; t=0; \
	  while kill -0 $$pid 2>/dev/null; do sleep 8; t=$$((t + 8)); echo "$$t s  $$(tail -n 1 $(VENV)/install.log | cut -c1-100)"; done; \
	  wait $$pid || { tail -n 20 $(VENV)/install.log; echo "install failed; the whole log: $(VENV)/install.log"; exit 1; }
	@touch $@

demo: $(READY)  ## a real parallel hill climb on CPU slots: prepare, baseline, candidates, promotion, plot
	@$(BIN)/arsched demo

# One worker per core, at most eight: tests of Ray share one cluster and stay on one worker.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadgroup

test: $(READY)  ## the test suite: minutes, no GPU needed
	@$(PYTEST)

test-slow: $(READY)  ## what takes longer: whole searches, real training, clusters that lose nodes
	@$(PYTEST) -m "slow and not gpu"

test-mutants: $(READY)  ## plants faults in a copy of the code, one at a time; the test suite must find every one
	@$(BIN)/python tests/mutants.py

test-gpu: $(READY)  ## the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

check: test lint types test-slow  ## what a change must pass

lint: $(READY)  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## mypy --strict on harness and scheduler
	@$(BIN)/mypy

bench: $(READY)  ## the measurements quoted in docs/measurements.md
	@$(BIN)/python benchmarks/bench_loader.py
	@$(BIN)/python benchmarks/bench_overhead.py
	@$(BIN)/python benchmarks/sim_search.py

bench-rule: $(READY)  ## the promotion rule against greedy in simulated searches (about half an hour)
	@$(BIN)/python benchmarks/sim_promotion.py

clean:  ## remove what make created here (never a cache or a lab)
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
