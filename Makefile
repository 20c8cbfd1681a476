# All paths are relative, because make splits words at spaces and the path of a checkout may contain one.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup tools demo bench growth test upgrade soak standby scale provision check format lock clean

PYTHON ?=# the Python for .venv; default: python3, or a newer one if python3 is too old
ARGS ?=# arguments for the program, e.g. make test ARGS='-k folding -x', or ARGS=--randomly-seed=7 to repeat an order

bin := .venv/bin
python := $(or $(PYTHON),python3)

define set_up
@command -v "$(python)" >/dev/null || { \
    echo "make: $(python) is not installed; InstaChat needs Python 3.11 or newer" >&2; exit 1; }
@"$(python)" tools/setup.py $(1) $(if $(PYTHON),--this-python)
endef

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.13 selects the Python (3.11 or newer); ARGS=… passes arguments to the program."

setup: ## create .venv with pinned dependencies and the program, .venv/bin/instachat
	$(call set_up)

tools: # setup, and the development tools
	$(call set_up,--dev)

demo: setup ## demonstrate every feature on real conversations, on temporary private engines
	@$(bin)/python tools/demo.py $(ARGS)

test: tools provision check ## run all checks and all tests, on real engines
	@$(bin)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder $(ARGS)

upgrade: tools ## upgrade from another commit to this tree, under load: make upgrade FROM=v0.1.0
	@rm -rf build/previous && mkdir -p build/previous
	@git archive --output build/previous.tar "$(FROM)" backend instachat_cli loadtest
	@tar -x -C build/previous -f build/previous.tar
	@INSTACHAT_PREVIOUS_TREE="$$PWD/build/previous" $(bin)/python -m pytest tests/integration/test_upgrade.py $(ARGS)

provision: tools # install the engines and programs that only the tests need, Elasticsearch among them
	@tools/provision
	@$(bin)/python tools/provision_elasticsearch.py

bench: setup ## measure against ceilings and baselines; generates docs/performance.md
	@$(bin)/python -m tests.support.elasticsearch.run_beside $(bin)/instachat bench ceilings --report docs/performance.md $(ARGS)

growth: setup ## measure how cost grows with data; generates docs/growth.md and docs/growth.png
	@$(bin)/python -m tests.support.elasticsearch.run_beside $(bin)/instachat bench growth --report docs/growth.md $(ARGS)

soak: tools ## inject random faults under load for ten minutes; ARGS='--seed N --seconds S --elasticsearch'
	@$(bin)/python -m tests.support.faults.soak $(ARGS)

standby: tools ## promote PostgreSQL standbys that are up to a minute behind, under load, five times
	@INSTACHAT_STANDBY_SEEDS=1,2,3,4,5 INSTACHAT_STANDBY_SECONDS=60 $(bin)/python -m pytest tests/integration/ingest/test_standby.py $(ARGS)

scale: tools provision ## run the faults of several machines on real clusters, in their long forms; updates docs/scale.md
	@$(bin)/python -m tools.simulate_shards --report docs/scale.md
	@$(bin)/python -m tests.support.faults.scale --report docs/scale.md $(ARGS)

check: tools ## check format, lint, types, layers, retired words, and pinned versions
	$(bin)/ruff format --check .
	$(bin)/ruff check --output-format=concise .
	$(bin)/mypy
	$(bin)/lint-imports
	$(bin)/python tools/check_words.py
	$(bin)/python -m pip check

format: tools ## fix the format, and lint errors that can be fixed automatically
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

lock: setup ## pin the dependencies after a change; ARGS=--upgrade takes the newest versions
	@tools/lock $(ARGS)

clean: ## remove everything that make creates
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
