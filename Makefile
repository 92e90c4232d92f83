# make demo    set everything up, compress the embedded model, prove what was kept
# make demo-fleet    rank a log, cut specialists for what is asked most, prove what they save
# make test    all tests                make check   lint, types, import contract
# make bench   all benchmarks, each also alone: make bench-quality; make env   only .venv

PYTHON ?= python3
TORCH ?= torch==2.13.0
OUT ?= out/demo
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNELS := src/sprue/weights/_kernels
CUDA_PACKAGES := $(BIN)/pip list --format=freeze | grep -c '^nvidia-'

.PHONY: demo demo-fleet test check bench env docs clean
.DEFAULT_GOAL := demo

env: $(STAMP)

# Installs again only when what it depends on has changed. torch goes first and alone: any later
# package that would replace it brings gigabytes of another build, and is found out here.
$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard src/sprue/weights/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "sprue needs Python 3.11 or newer, and '$(PYTHON)' is not that." >&2; \
	  echo "Name one that is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  echo "Cannot make an environment: install the venv module of '$(PYTHON)'" \
	    "(python3-venv on Debian)." >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	@$(CUDA_PACKAGES) > $(VENV)/.cuda-before || true
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,parquet]'
	@$(CUDA_PACKAGES) > $(VENV)/.cuda-after || true
	@cmp -s $(VENV)/.cuda-before $(VENV)/.cuda-after || { \
	  echo "A package replaced torch or brought CUDA libraries (nvidia-*) of its own:" >&2; \
	  echo "remove $(VENV) and report which, with the output of 'pip list'." >&2; exit 1; }
	@grep -qx 0 $(VENV)/.cuda-after || \
	  echo "note: this build of $(TORCH) came with CUDA libraries; a CPU build is much smaller."
	@test ! -f $(KERNELS).c || ls $(KERNELS).* | grep -qv '\.c$$' || \
	  echo "note: no C compiler was found; torch does the work of the C kernels, more slowly."
	@touch $@

demo: env
	$(BIN)/sprue demo --out $(OUT)
	@echo "The report is $(OUT)/report.html; open it in a browser."

# The fleet: usage, specialists and what they save. Specialists of an earlier run are taken up.
FLEET_OUT ?= out/demo-fleet
demo-fleet: env
	$(BIN)/sprue demo --fleet --out $(FLEET_OUT) $(ARGS)
	@echo "The pages are $(FLEET_OUT)/replay.html and rank.html; open them in a browser."

# One thread per process: two processes with two threads each stall one another on two cores.
test: export OMP_NUM_THREADS = 1
test: export MKL_NUM_THREADS = 1
test: export OPENBLAS_NUM_THREADS = 1
test: export TOKENIZERS_PARALLELISM = false
test: export HF_HUB_OFFLINE = 1
test: env
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy demo docs
	$(BIN)/lint-imports

# Never part of the tests: every script prints ratios against peers, keeps its figures in
# benchmarks/results, and goes on where it was cut short. `make bench-quality ARGS=--help`.
BENCHES := bench-caldera bench-quality bench-budget bench-sparsity bench-slim bench-sweep bench-ratio \
  bench-experts bench-activations bench-activations_quality bench-speed bench-memory bench-resume \
  bench-degating bench-router bench-draft bench-rank bench-fleet
.PHONY: $(BENCHES) bench-report
bench: $(BENCHES)

$(BENCHES): export OMP_NUM_THREADS = 1
$(BENCHES): bench-%: env
	$(BIN)/python benchmarks/bench_$*.py $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-report: env
	$(BIN)/python benchmarks/report.py

# What is generated from the code: docs/cli.md, and the figures in README.md.
docs: demo
	$(BIN)/python docs/make_cli.py
	$(BIN)/python demo/update_readme.py $(OUT)

clean:
	rm -rf $(VENV) build out .mypy_cache .ruff_cache .pytest_cache .hypothesis
