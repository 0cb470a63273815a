# Everything here runs in .venv, which is made when it is missing and brought up to date when setup.py or
# constraints.txt change. PYTHON chooses the interpreter it is made from: make test PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-flink lint docs bench bench-flink lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: .venv/.examples  ## train a small model on 336,776 flights and explain every one of them
	$(BIN)/python -m examples.flights --out data/flights
	$(BIN)/attribeam explain configs/flights.yaml --overwrite

test: .venv/.dev  ## run the whole test suite (choose some with ARGS="tests/sources -k shards")
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

test-flink: .venv/.dev  ## run the tests on a real Flink cluster and on Prism (needs Java and Maven)
	$(BIN)/python -m tests.flink.parts
	$(BIN)/python -m tests.flink.apart $(BIN)/python -m pytest -q tests/flink $(ARGS)

lint: .venv/.dev  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.dev  ## build docs/ into build/docs; a warning or a broken link fails
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet --jobs auto docs build/docs
	@echo build/docs/index.html

bench: .venv/.dev  ## measure speed and memory on this machine
	$(BIN)/python -m benchmarks.run $(ARGS)

bench-flink: .venv/.dev  ## measure one TaskManager against two, and what starting on Flink costs
	$(BIN)/python -m tests.flink.parts
	$(BIN)/python -m tests.flink.apart $(BIN)/python -m benchmarks.run flink $(ARGS)

lock: | $(BIN)/python  ## resolve setup.py with all its extras anew and rewrite constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed \
	    --report .venv/resolved.json '.[aws,dev,examples,gcp,gpu,trees]'
	$(BIN)/python -c "$$WRITE_CONSTRAINTS"

clean:  ## remove .venv, caches and build products; data/ and runs/ stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis docs/_generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A half-made environment (Debian without python3-venv leaves one) is removed, so that the next run starts again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'attribeam needs Python 3.11 or newer; name one: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv || { \
	    rm -rf .venv; echo '$(PYTHON) -m venv failed; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }

# The stamps say what .venv holds: .examples for the quickstart, .dev for that and the tests.
.venv/.examples: setup.py constraints.txt | $(BIN)/python
	$(INSTALL) '.[examples]'
	@touch $@

.venv/.dev: setup.py constraints.txt | $(BIN)/python
	$(INSTALL) '.[examples,dev]'
	@touch .venv/.examples $@

define WRITE_CONSTRAINTS
import json, pathlib
found = json.loads(pathlib.Path(".venv/resolved.json").read_text())["install"]
pins = {i["metadata"]["name"].lower().replace("_", "-"): i["metadata"]["version"] for i in found}
del pins["attribeam"]
text = "# What make and the Dockerfile install: exact versions of all that setup.py asks for, every extra included.\n"
text += "# Made by `make lock` on Linux x86-64 with CPython 3.11: edit the ranges in setup.py, not this file.\n"
text += "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))
pathlib.Path("constraints.txt").write_text(text)
endef
export WRITE_CONSTRAINTS
