# Paths are relative on purpose: make splits words at spaces, and a checkout may lie in a folder with one.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test check format lock clean

PYTHON ?=# the Python to set up with; empty: python3, or a newer one if that is too old
ARGS ?=# passed on, e.g. make test ARGS='-k folding -x'

bin := .venv/bin

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.13 chooses the Python (3.11 or newer), ARGS=… goes to the program that is run."

setup: ## make .venv: pinned dependencies and the program, .venv/bin/instachat
	@command -v "$(or $(PYTHON),python3)" >/dev/null || { \
	    echo "make: $(or $(PYTHON),python3) is not here; InstaChat needs Python 3.11 or newer" >&2; exit 1; }
	@"$(or $(PYTHON),python3)" tools/setup.py $(if $(PYTHON),--this-python)

demo: setup ## tell the whole story on real conversations, on engines of its own; nothing is left behind
	@$(bin)/python tools/demo.py $(ARGS)

test: setup provision check ## run every check and every test, on real engines
	@$(bin)/python -m pytest $(ARGS)

.PHONY: provision
provision:
	@tools/provision

check: setup ## format, lint, types, layer rules
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
	$(bin)/lint-imports

format: setup ## mend format and what lint can mend by itself
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

lock: setup ## pin the dependencies anew after a change; ARGS=--upgrade takes the newest
	@tools/lock $(ARGS)

clean: ## remove what make made
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
