# Paths are relative on purpose: make splits words at spaces, and a checkout may lie in a folder with one.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup tools demo bench growth test soak provision check format lock clean

PYTHON ?=# the Python to set up with; empty: python3, or a newer one if that is too old
ARGS ?=# passed on, e.g. make test ARGS='-k folding -x', or ARGS=--randomly-seed=7 for that order of tests

bin := .venv/bin
python := $(or $(PYTHON),python3)

define set_up
@command -v "$(python)" >/dev/null || { \
    echo "make: $(python) is not here; InstaChat needs Python 3.11 or newer" >&2; exit 1; }
@"$(python)" tools/setup.py $(1) $(if $(PYTHON),--this-python)
endef

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.13 chooses the Python (3.11 or newer), ARGS=… goes to the program that is run."

setup: ## make .venv: pinned dependencies and the program, .venv/bin/instachat
	$(call set_up)

tools: # … and the tools of developers
	$(call set_up,--dev)

demo: setup ## tell the whole story on real conversations, on engines of its own; nothing is left behind
	@$(bin)/python tools/demo.py $(ARGS)

test: tools provision check ## run every check and every test, on real engines
	@$(bin)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

provision: tools # the engines that the tests compare with, and Elasticsearch
	@tools/provision
	@$(bin)/python tools/provision_elasticsearch.py

bench: setup ## measure ratios against ceilings and rivals; docs/performance.md is made by it
	@$(bin)/python -m tests.support.elasticsearch.run_beside $(bin)/instachat bench ceilings --report docs/performance.md $(ARGS)

growth: setup ## measure how each stage grows; docs/growth.md and docs/growth.png are made by it
	@$(bin)/python -m tests.support.elasticsearch.run_beside $(bin)/instachat bench growth --report docs/growth.md $(ARGS)

soak: tools ## ten minutes of random faults under load; ARGS='--seed N --seconds S --elasticsearch'
	@$(bin)/python -m tests.support.faults.soak $(ARGS)

check: tools ## format, lint, types, layer rules, pins
	$(bin)/ruff format --check .
	$(bin)/ruff check --output-format=concise .
	$(bin)/mypy
	$(bin)/lint-imports
	$(bin)/python -m pip check

format: tools ## mend format and what lint can mend by itself
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

lock: setup ## pin the dependencies anew after a change; ARGS=--upgrade takes the newest
	@tools/lock $(ARGS)

clean: ## remove what make made
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
