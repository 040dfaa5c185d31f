# One line for each verb. All programs run from .venv, which the first verb creates.
# The machine needs CPython 3.11 or newer with pip, a C++ compiler and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ROUNDS ?= 20
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BENCHES := $(filter-out bars callers http2 served,$(basename $(notdir $(wildcard bench/*.py))))

.PHONY: setup demo test test-training lint type bench crash image baseline release

setup: $(READY)

demo: $(READY)
	$(BIN)/shortlist demo

test: $(READY)
	$(PYTEST) -m 'not training' $(if $(COVERAGE),--cov --cov-report=) $(ARGS)

test-training: $(READY)
	$(PYTEST) -m training tests/adapt $(ARGS)

lint: type
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/lint-imports && $(BIN)/codespell && $(BIN)/python scripts/unasync.py --check && $(BIN)/python scripts/contract.py && cd proto && ../$(BIN)/buf lint

type: $(READY)
	$(BIN)/mypy

bench: $(READY)
	failed=0; for program in $(BENCHES); do $(BIN)/python bench/$$program.py $(ARGS) || failed=1; done; exit $$failed

crash: $(READY)
	CRASH_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -m crash --timeout=36000 tests/crash/storage

# Replaces what the contract is compared with. CONTRIBUTING.md says when that is allowed.
baseline: $(READY)
	$(BIN)/python scripts/contract.py --write

release: $(READY)
	$(BIN)/python scripts/release.py $(ARGS)

image:
	docker build -t shortlist .

# torch is installed first and alone, so that pip takes the pinned version before it resolves what depends on torch.
$(READY): pyproject.toml constraints.txt $(wildcard proto/*.py proto/shortlist/*/*.proto)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
