# Everything here runs in .venv, which is made when it is missing and brought up to date when setup.py or the
# constraints change. PYTHON chooses the interpreter it is made from, VENV another place, beside the first:
# make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The interpreter in $(VENV), or the one that it will be made from, chooses the versions that are installed. The
# newest releases of shap, SciPy and XGBoost need Python 3.12, those of Sphinx and docutils need 3.13: 3.13 has a set of
# its own, and 3.12 shares that of 3.11.
ASK_VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
VERSION := $(shell $(firstword $(wildcard $(BIN)/python) $(PYTHON)) $(ASK_VERSION))
CONSTRAINTS_3.11 := constraints.txt
CONSTRAINTS_3.12 := constraints.txt
CONSTRAINTS_3.13 := constraints-3.13.txt
CONSTRAINTS := $(CONSTRAINTS_$(VERSION))
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable

# Whoever names an interpreter means it, also where $(VENV) already has another.
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(BIN)/python),)
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
ifneq ($(VERSION),$(shell $(PYTHON) $(ASK_VERSION)))
$(error $(VENV) has Python $(VERSION); for $(PYTHON): make clean, or name another place, VENV=.venv-other)
endif
endif
endif
endif

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-flink lint docs bench bench-flink lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.examples  ## train a small model on 336,776 flights and explain every one of them
	$(BIN)/python -m examples.flights --out data/flights
	$(BIN)/attribeam explain configs/flights.yaml --overwrite

test: $(VENV)/.dev  ## run the whole test suite (choose some with ARGS="tests/sources -k shards")
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

test-flink: $(VENV)/.dev  ## run the tests on a real Flink cluster and on Prism (needs Java and Maven)
	$(BIN)/python -m tests.flink.parts
	$(BIN)/python -m tests.flink.apart $(BIN)/python -m pytest -q tests/flink $(ARGS)

lint: $(VENV)/.dev  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev  ## build docs/ into build/docs; a warning or a broken link fails
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet --fresh-env docs build/docs
	@echo build/docs/index.html

bench: $(VENV)/.dev  ## measure speed and memory on this machine
	$(BIN)/python -m benchmarks.run $(ARGS)

bench-flink: $(VENV)/.dev  ## measure one TaskManager against two, and what starting on Flink costs
	$(BIN)/python -m tests.flink.parts
	$(BIN)/python -m tests.flink.apart $(BIN)/python -m benchmarks.run flink $(ARGS)

lock: | $(BIN)/python  ## resolve setup.py with all its extras anew and rewrite the constraints of this Python
	@[ $(VERSION) != 3.12 ] || { \
	    echo '3.11 and 3.12 share $(CONSTRAINTS); resolve it with 3.11: make lock PYTHON=python3.11' >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed \
	    --report $(VENV)/resolved.json '.[aws,dev,examples,gcp,gpu,trees]'
	$(BIN)/python -c "$$WRITE_CONSTRAINTS" $(VENV)/resolved.json $(CONSTRAINTS)

clean:  ## remove .venv, caches and build products; data/ and runs/ stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis docs/_generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What the machine lacks is named before anything is made. A half-made environment is removed all the same, so that
# the next run starts again.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	    echo '$(PYTHON) is not on this machine; name another: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) tools/machine.py $(NEEDS)
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamps say what $(VENV) holds: .examples for the quickstart, .dev for that and the tests.
$(VENV)/.examples: setup.py $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) '.[examples]'
	@touch $@

# What is set here holds for what is made on the way there too: $(BIN)/python asks for the same.
$(VENV)/.dev: NEEDS := tests
$(VENV)/.dev: setup.py $(CONSTRAINTS) | $(BIN)/python
	@$(BIN)/python tools/machine.py $(NEEDS)
	$(INSTALL) '.[examples,dev]'
	@touch $(VENV)/.examples $@

define WRITE_CONSTRAINTS
import json, pathlib, sys
source, target = map(pathlib.Path, sys.argv[1:])
found = json.loads(source.read_text())["install"]
pins = {i["metadata"]["name"].lower().replace("_", "-"): i["metadata"]["version"] for i in found}
del pins["attribeam"]
here = "%d.%d" % sys.version_info[:2]
use = "make and the Dockerfile install" if here == "3.11" else "make installs with Python 3.13"
text = f"# What {use}: exact versions of all that setup.py asks for, every extra included.\n"
text += f"# Made by `make lock` on Linux x86-64 with CPython {here}: edit the ranges in setup.py, not this file.\n"
text += "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))
target.write_text(text)
endef
export WRITE_CONSTRAINTS
