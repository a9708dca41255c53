# Needs python3 (3.11 or newer, with venv) and a C compiler; everything else goes into .venv, and
# what the Triton tests need into .venv-triton: Triton's interpreter wants an older NumPy.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
GRAPHS ?= 2000
COUNT ?= 5000
SEED ?= 0
BASE ?= HEAD~1
HEAD ?= HEAD

BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
TRITON_BIN := .venv-triton/bin
# 5: PYTEST_ARGS leaves no test, which is fine for one of two runs.
TRITON_TEST = $(TRITON_BIN)/python -m pytest tests/triton $(1) $(PYTEST_ARGS) || test $$? -eq 5

.DEFAULT_GOAL := help
.PHONY: help setup triton parity demo test test-all fuzz fuzz-packages fuzz-native check golden ops-table bench peers replay clean

help: ## print this list
	@awk -F ': *[^#]*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.stamp ## create .venv with vtc (editable) and the test tools

triton: .venv-triton/.stamp ## create .venv-triton with Triton, which needs no GPU to compile

parity: .venv/.parity ## also install PyTorch, so that the tests compare with it

demo: .venv/.stamp ## train a small GPT
	$(BIN)/python examples/train_gpt.py

test: .venv/.stamp .venv-triton/.stamp ## run the tests that need no GPU (PYTEST_ARGS="-n 2 -k softmax")
	$(BIN)/python -m pytest -m "not gpu and not multi and not slow" $(PYTEST_ARGS)
	$(call TRITON_TEST,-m "not slow")

test-all: .venv/.stamp .venv-triton/.stamp ## run every test; what this machine lacks is skipped with a reason
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	$(call TRITON_TEST)

fuzz: .venv/.stamp ## random graphs through the whole compiler (GRAPHS=2000 SEED=0)
	$(BIN)/python tests/property/fuzz.py --graphs $(GRAPHS) --seed $(SEED) --keep

fuzz-packages: .venv/.stamp ## damaged packages through the loader (COUNT=5000 SEED=0)
	$(BIN)/python tests/package/fuzz_package.py --count $(COUNT) --seed $(SEED)

fuzz-native: .venv/.stamp ## damaged packages through the C runtime under sanitizers (COUNT=5000 SEED=0)
	$(BIN)/python tests/package/fuzz_native.py --count $(COUNT) --seed $(SEED)

check: .venv/.stamp ## run what CI runs besides tests: ruff, mypy, import-linter
	$(BIN)/ruff check --output-format concise .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

golden: .venv/.stamp .venv-triton/.stamp ## write the golden files anew; review the diff
	$(BIN)/python -m pytest tests/golden --update-golden $(PYTEST_ARGS)
	$(TRITON_BIN)/python -m pytest tests/triton/test_resources.py --update-golden

ops-table: .venv/.stamp ## write docs/ops.md anew: every op, and what PyTorch has beyond them
	$(BIN)/python tests/ops/ops_table.py

bench: .venv/.stamp ## measure against peers, results as JSON (BENCH_ARGS=...)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

peers: .venv/.stamp ## install PyTorch and JAX, to measure beside them
	$(PIP) -e '.[test,peers]'

replay: .venv/.stamp ## compile the corpus at two commits and diff every kernel (BASE=... HEAD=...)
	$(BIN)/python -m benchmarks.replay $(BASE) $(HEAD)

clean: ## delete the virtual environments and the caches of tools
	rm -rf .venv .venv-triton .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.venv/.stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[test]'
	@touch $@

.venv-triton/.stamp: pyproject.toml
	$(PYTHON) -m venv .venv-triton
	$(TRITON_BIN)/pip install --quiet --disable-pip-version-check -e '.[test,triton]'
	@touch $@

.venv/.parity: .venv/.stamp
	$(PIP) -e '.[test,parity]'
	@touch $@
