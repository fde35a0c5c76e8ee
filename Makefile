# Two commands do everything on a fresh Debian 12 machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test lint unit docs bench torture clean system-packages

help: ## Show this list.
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 18

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

system-packages: ## Install the Debian packages the demo and the tests use (needs root; says what it skips).
	@sh scripts/system-packages

demo: $(VENV)/.installed system-packages ## Mount a real S3 bucket and a directory, read them cold and warm, write, rename and delete; print tables.
	$(BIN)/python demo/demo.py

lint: $(VENV)/.installed ## Style, types and floors.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/.installed system-packages lint ## Everything CI runs: style, types, floors, all tests, the built wheel.
	$(BIN)/python -m pytest -p no:cacheprovider -n 2 --dist loadfile --no-loadscope-reorder

unit: $(VENV)/.installed ## The quick tests only.
	$(BIN)/python -m pytest tests/unit

docs: $(VENV)/.installed ## Write the generated pages anew.
	$(BIN)/python scripts/generate-docs

bench: $(VENV)/.installed ## Run the benchmarks that docs/benchmarks.md quotes.
	$(BIN)/python benchmarks/run.py

torture: $(VENV)/.installed ## Ten minutes of faults for three real masters under clients (as root: cuts too); docs/reliability.md.
	$(BIN)/python -m monofs.testing.torture --minutes 10

clean: ## Remove the environment and everything generated.
	rm -rf $(VENV) build dist .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
