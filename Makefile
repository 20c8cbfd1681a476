# All paths are relative, because make splits words at spaces and the path of a checkout may contain one.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup tools demo bench growth test pgbouncer upgrade preload commits smoke soak histories interleavings partitions powerloss standby scale provision check format docs lock images sbom clean

PYTHON ?=# the Python for .venv; default: python3, or a newer one if python3 is too old
ARGS ?=# arguments for the program, e.g. make test ARGS='-k folding -x', or ARGS=--randomly-seed=7 to repeat an order

bin := .venv/bin
python := $(or $(PYTHON),python3)

define set_up
@command -v "$(python)" >/dev/null || { \
    echo "make: $(python) is not installed; InstaChat needs Python 3.11 or newer" >&2; exit 1; }
@"$(python)" tools/setup.py $(1) $(if $(PYTHON),--this-python)
endef

# Collects all tests. It keeps their byte code, so that four processes need not compile them again at once.
pytest := env -u PYTHONDONTWRITEBYTECODE $(bin)/python -m pytest
collect := (found=$$($(pytest) --collect-only -qq 2>&1) || { echo "$$found"; exit 1; })

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
	@$(pytest) -n 4 --dist loadgroup --no-loadscope-reorder $(ARGS)

# Neither benchmarks, nor private engines, which have no pooler.
pgbouncer: tools provision ## run the tests that use PostgreSQL once more, behind a PgBouncer in transaction mode
	@INSTACHAT_TESTS_PGBOUNCER=1 $(pytest) -n 4 --dist loadgroup --no-loadscope-reorder \
	    tests/cli tests/contract tests/http tests/integration \
	    --ignore tests/integration/bench --ignore tests/integration/embedded $(ARGS)

upgrade: tools ## upgrade from another commit to this tree, under load: make upgrade FROM=v0.1.0
	@rm -rf build/previous && mkdir -p build/previous
	@git archive --output build/previous.tar "$(FROM)" backend instachat_cli loadtest
	@tar -x -C build/previous -f build/previous.tar
	@INSTACHAT_PREVIOUS_TREE="$$PWD/build/previous" $(bin)/python -m pytest tests/integration/test_upgrade.py $(ARGS)

provision: tools # install the engines and programs that only the tests need, Elasticsearch among them
	@tools/provision
	@$(bin)/python tools/provision_elasticsearch.py

bench: setup ## measure against ceilings and baselines; generates docs/performance.md
	@$(bin)/python -m tests.support.elasticsearch.run_beside $(bin)/instachat bench ceilings --report docs/performance.md --force $(ARGS)

growth: setup ## measure how cost grows with data; generates docs/growth.md and docs/growth.png
	@$(bin)/python -m tests.support.elasticsearch.run_beside $(bin)/instachat bench growth --report docs/growth.md --force $(ARGS)

preload: setup ## measure HTTP on installations of 0, 100,000 and 1,000,000 messages; updates docs/performance.md
	@$(bin)/python -m tools.measure_preloads --page docs/performance.md $(ARGS)

commits: setup ## measure commits of this repository under one load, with those measured before: make commits ARGS='REF…'; updates docs/benchmarks
	@$(bin)/python -m tools.measure_history $(ARGS)

smoke: setup ## build the wheel, install it into empty environments, and run demo, up and a load test there
	@$(bin)/python tools/smoke.py $(ARGS)

soak: tools ## inject random faults under load for ten minutes; ARGS='--seed N --seconds S --elasticsearch'
	@INSTACHAT_WRITER_PAUSE=0 $(bin)/python -m tests.support.faults.soak $(ARGS)

histories: tools ## record for ten minutes what clients are answered under faults, and check it; ARGS='--seeds 1,2 --seconds S', or --url of a server
	@$(bin)/python -m tests.support.histories.run $(ARGS)

interleavings: tools ## run the protocols of draining, deleting, counting and epochs in more orders of their commands, and the model with more examples, than make test does
	@INSTACHAT_INTERLEAVINGS=long INSTACHAT_MODEL_EXAMPLES=300 $(bin)/python -m pytest \
	    tests/integration/ingest/test_interleavings.py tests/integration/ingest/test_model.py $(ARGS)

partitions: tools ## as histories, while the network between the parts is cut, delayed and broken; ARGS="--loss 0.02" loses packets, too
	@$(bin)/python -m tests.support.histories.run --network $(ARGS)

powerloss: tools provision ## cut the power at 1,000 points of loads, on Valkey and Redis 7; ARGS='--points N --seed N'
	@$(bin)/python -m tests.support.power_loss.run $(ARGS)

standby: tools ## promote standbys and restore dumps that are up to a minute old, under load, five times
	@INSTACHAT_WRITER_PAUSE=0 INSTACHAT_STANDBY_SEEDS=1,2,3,4,5 INSTACHAT_STANDBY_SECONDS=60 \
	    $(bin)/python -m pytest tests/integration/ingest/test_standby.py $(ARGS)

scale: tools provision ## run the faults of several machines on real clusters, in their long forms; updates docs/scale.md
	@$(bin)/python -m tools.simulate_shards --report docs/scale.md
	@$(bin)/python -m tests.support.faults.scale --report docs/scale.md $(ARGS)

# mypy takes longest, on one core; the others share another one.
check: tools ## check format, lint, types, layers, retired words, and pinned versions
	$(bin)/ruff format --check .
	$(bin)/ruff check --output-format=concise .
	$(bin)/mypy & types=$$!; \
	$(bin)/lint-imports && $(bin)/python tools/check_words.py && $(bin)/python -m pip check && $(collect); \
	others=$$?; wait $$types && exit $$others

format: tools ## fix the format, and lint errors that can be fixed automatically
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

docs: setup ## write docs/cli.md, the reference of the commands, from the program
	@$(bin)/python -m tools.cli_reference

lock: setup ## pin the dependencies after a change; ARGS=--upgrade takes the newest versions
	@tools/lock $(ARGS)

images: tools ## pin the images of Dockerfile and compose.yaml by digest; needs Docker and their registries
	@$(bin)/python tools/pin_images.py

sbom: setup ## write the software bill of materials (CycloneDX) to build/sbom.json
	@tools/sbom

clean: ## remove everything that make creates
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
