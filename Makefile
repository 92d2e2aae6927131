# Everything a newcomer needs. `make demo` and `make test` start from nothing but Python 3.11 to 3.13, git and make.

# The first Python on the path that runs and is one of those that Ray has wheels for.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TOOLS  := $(VENV)/.tools

.PHONY: help install demo test test-slow test-mutants test-gpu test-cluster test-slurm test-image check lint types bench bench-rule clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## create .venv with the exact versions of constraints.txt
	@echo "arsched is in $(BIN); to have it on your PATH: source $(BIN)/activate"

# $(call pip_install,WHAT): with pip's last line now and then; a first download of torch takes minutes.
define pip_install
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '$(1)' > $(VENV)/install.log 2>&1 & \
	  pid=$$!; trap 'kill $$pid 2>/dev/null' INT TERM; t=0; \
	  while kill -0 $$pid 2>/dev/null; do sleep 8; t=$$((t + 8)); echo "$$t s  $$(tail -n 1 $(VENV)/install.log | cut -c1-100)"; done; \
	  wait $$pid || { tail -n 20 $(VENV)/install.log; echo "install failed; the whole log: $(VENV)/install.log"; exit 1; }
endef

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "arsched needs Python 3.11, 3.12 or 3.13, and none is on the path; try: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "creating $(VENV) (torch is the large part; a first download takes minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call pip_install,.)
	@touch $@

$(TOOLS): $(READY)
	@echo "adding the tools of developers to $(VENV): pytest, mypy, ruff"
	$(call pip_install,.[dev])
	@touch $@

demo: $(READY)  ## a real parallel hill climb on CPU slots: prepare, baseline, candidates, promotion, plot
	@$(BIN)/arsched demo

# One worker per core, at most eight: tests of Ray share one cluster and stay on one worker.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadgroup

test: $(TOOLS)  ## the test suite: minutes, no GPU needed
	@$(PYTEST)

test-slow: $(TOOLS)  ## what takes longer: whole searches, real training, clusters that lose nodes
	@$(PYTEST) -m "slow and not gpu"

test-mutants: $(TOOLS)  ## plants faults in a copy of the code, one at a time; the test suite must find every one
	@$(BIN)/python tests/mutants.py

test-gpu: $(TOOLS)  ## the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu

test-cluster:  ## a real `ray up` over four hosts made of namespaces, and what breaks there (root; half an hour)
	@$(PYTHON) -m tests.cluster.run

test-slurm: $(TOOLS)  ## deploy/slurm under a real Slurm on nodes made of namespaces (root, Debian's slurmd; 10 minutes)
	@$(BIN)/python -m tests.cluster.slurm

test-image: $(TOOLS)  ## the steps of deploy/Dockerfile in a fresh Debian, and a lab in it (root, debootstrap; 10 minutes)
	@$(BIN)/python -m tests.cluster.image

check: test lint types test-slow  ## what a change must pass

lint: $(TOOLS)  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(TOOLS)  ## mypy --strict on harness and scheduler
	@$(BIN)/mypy

bench: $(READY)  ## the measurements quoted in docs/measurements.md
	@$(BIN)/python benchmarks/bench_loader.py
	@$(BIN)/python benchmarks/bench_overhead.py
	@$(BIN)/python benchmarks/sim_search.py

bench-rule: $(READY)  ## the promotion rule against greedy in simulated searches (about half an hour)
	@$(BIN)/python benchmarks/sim_promotion.py

clean:  ## remove what make created here (never a cache or a lab)
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
