# Two commands for people (demo, test), and what continuous integration adds to them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types bench bench-gpu docs lock clean

demo: $(INSTALLED) ## Draw the bounds up to T = 8192 and verify the shipped trace
	$(BIN)/trbounds plot --T 8192
	$(BIN)/trbounds verify --example

test: $(INSTALLED) ## Run the whole test suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(INSTALLED) ## Style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Static types
	$(BIN)/mypy

bench: $(INSTALLED) ## Speed, as ratios against named peers and floors in the same run
	$(BIN)/python benchmarks/bench_bounds.py
	$(BIN)/python benchmarks/bench_divergences.py
	$(BIN)/python benchmarks/bench_traces.py

bench-gpu: $(INSTALLED) ## As bench, on a CUDA device; needs the extra 'cuda'
	$(BIN)/python benchmarks/bench_gpu.py

docs: $(INSTALLED) ## Write the tables of docs/theory.md, and docs/derivations.md
	$(BIN)/python docs/generate.py

EXTRAS := traces certified fast logits dask remote

lock: ## Renew requirements.lock (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  $(EXTRAS:%=--extra %) --group dev --no-annotate --no-header --no-emit-index-url \
	  --no-emit-find-links --output-file requirements.lock

# Everything is pinned by hash, the build backend too, so that nothing is resolved anew.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "trbounds needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist out figures-out bounds.png
