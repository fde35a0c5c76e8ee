# Two commands do everything on a fresh Debian 12 machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test test-java lint unit docs pictures bench torture trial clean system-packages

help: ## Show this list.
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 18

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

$(VENV)-s3fs/.installed: Makefile
	$(PYTHON) -m venv $(VENV)-s3fs
	$(VENV)-s3fs/bin/python -m pip install --quiet --disable-pip-version-check s3fs pandas pyarrow duckdb
	touch $@

NODE := tests/s3/node/node_modules/.installed
$(NODE): tests/s3/node/package-lock.json | system-packages
	@(cd tests/s3/node && timeout 300 npm ci --silent --ignore-scripts --no-audit --no-fund && touch node_modules/.installed) \
	|| echo "npm is not there or failed: left out the SDK for JavaScript (its test says so)"

JARS := tests/s3/java/jars
$(JARS)/.installed: Makefile | $(VENV)/.installed system-packages
	rm -rf $(JARS) && mkdir -p $(JARS)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d $(JARS) pyspark==3.2.4 sagemaker_pyspark==1.4.5
	tar -xzf $(JARS)/pyspark-3.2.4.tar.gz -C $(JARS) --strip-components 3 --wildcards '*/deps/jars/*.jar'
	tar -xzf $(JARS)/sagemaker_pyspark-1.4.5.tar.gz -C $(JARS) --strip-components 3 --wildcards '*/aws-java-sdk-bundle-*.jar' '*/hadoop-aws-*.jar'
	rm $(JARS)/*.tar.gz
	touch $@

system-packages: ## Install the Debian packages the demo and the tests use (needs root; says what it skips).
	@sh scripts/system-packages

demo: $(VENV)/.installed system-packages ## Mount a real S3 bucket and a directory, read them cold and warm, write, rename and delete; print tables. DEMO_KEEP=1: stay, to be looked at.
	$(BIN)/python demo/demo.py

lint: $(VENV)/.installed ## Style, types and floors.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/.installed $(VENV)-s3fs/.installed system-packages $(NODE) lint ## Everything CI runs: style, types, floors, all tests, the built wheel.
	sh scripts/run-tests $(BIN)/python

test-java: $(VENV)/.installed system-packages $(JARS)/.installed ## Amazon's SDK for Java, Hadoop's s3a and Spark against three workers; fetches half a GB the first time. From then on a part of `make test`.
	$(BIN)/python -m pytest tests/s3/test_s3_java.py

unit: $(VENV)/.installed ## The quick tests only.
	$(BIN)/python -m pytest tests/unit

docs: $(VENV)/.installed ## Write the generated pages anew.
	$(BIN)/python scripts/generate-docs

pictures: $(VENV)/.installed system-packages ## Pictures of every page of the web console in build/pictures; those of the README with ARGS=--readme.
	$(BIN)/python scripts/console-pictures $(ARGS)

bench: $(VENV)/.installed ## Run the benchmarks that docs/benchmarks.md quotes.
	$(BIN)/python benchmarks/run.py

torture: $(VENV)/.installed ## Ten minutes of faults for three real masters under clients (as root: cuts too); docs/reliability.md.
	$(BIN)/python -m monofs.testing.torture --minutes 10

trial: $(VENV)/.installed system-packages ## A cluster as its users meet it, ten minutes, as root: a bucket loaded and read while parts die, come and go; tiers filled ten times over; every byte compared.
	$(BIN)/python -m monofs.testing.trial

clean: ## Remove the environment and everything generated.
	rm -rf $(VENV) $(VENV)-s3fs tests/s3/node/node_modules $(JARS) build dist .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
