# Pointsman. Each target creates what it needs in .venv, installs nothing twice, and needs only Python 3.11+ with venv.
.DEFAULT_GOAL := help
.PHONY: help demo test test-edges test-stores test-rest test-sdk test-sdk-surface test-sdk-node test-sdk-ark fuzz fuzz-smoke install check sim seen soak bench lock

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
SEEDS  ?= 20
UV     ?= uv

BIN := $(VENV)/bin
# Silent but for errors, and only what the locks name: wheels whose hashes match. A source package would bring unlocked build tools along.
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
INSTALL_LOCK := $(PIP) install --require-hashes --only-binary :all: --requirement
INSTALL_PROJECT := $(PIP) install --no-build-isolation --no-deps --editable .

# No registry address gets into the files: pip takes the index that the machine is set up for.
EXPORT := $(UV) export --frozen --quiet --no-emit-project --no-header --no-annotate --format requirements.txt

# Stamps. Their names carry the interpreter's version, so that another PYTHON= makes the environment anew.
VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())')
MADE    := $(VENV)/.made-with-$(VERSION)
RUNS    := $(VENV)/.runs
TESTS   := $(VENV)/.tests

# The SDKs of the providers, apart from everything else: one environment for each lock of tests/sdk.
SDK        := $(VENV)-sdk
SDK_READY   = $(SDK)/$(1)/.ready-with-$(VERSION)
SDK_PYTEST  = POINTSMAN_PYTHON=$(abspath $(BIN)/python) $(SDK)/$(1)/bin/python -m pytest -c tests/sdk/pytest.ini
SDK_COMPILE = $(UV) pip compile --upgrade --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

# What makes requests from the OpenAPI document, apart from everything else too.
FUZZ       := $(VENV)-fuzz
FUZZ_READY := $(FUZZ)/.ready-with-$(VERSION)
export POINTSMAN_SCHEMATHESIS := $(abspath $(FUZZ)/bin/schemathesis)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PYTHON= chooses the interpreter (default python3); ARGS= goes to the command."

demo: $(RUNS) ## the daemon with simulated providers, one of them failing (ARGS=--once ends by itself)
	@$(BIN)/pointsman demo $(ARGS)

test: $(TESTS) ## every test, those with the SDKs too (ARGS='tests/flow -k queue' for some, without them)
	$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),@$(MAKE) --no-print-directory -j4 --output-sync=target test-edges test-stores test-sdk test-sdk-node test-rest fuzz-smoke)

# They have nothing to do with one another; most of each is waiting.
EDGES := tests/api tests/bench tests/cli tests/grafana tests/policy tests/providers tests/simulated tests/watch tests/words
STORES := tests/store tests/test_daemon_postgres.py

test-edges: $(TESTS)
	$(BIN)/python -m pytest $(EDGES)

test-stores: $(TESTS)
	$(BIN)/python -m pytest $(STORES)

test-rest: $(TESTS)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(EDGES) $(STORES))

test-sdk: $(RUNS) $(foreach one,openai-1 openai-2 google-2 current,$(call SDK_READY,$(one))) ## the simulators against the official SDKs
	$(call SDK_PYTEST,openai-1) tests/sdk/test_openai*.py tests/sdk/surface $(ARGS)
	$(call SDK_PYTEST,openai-2) tests/sdk/test_openai*.py tests/sdk/surface $(ARGS)
	$(call SDK_PYTEST,google-2) tests/sdk/test_google.py tests/sdk/google2 $(ARGS)
	$(call SDK_PYTEST,current) tests/sdk $(ARGS)

test-sdk-surface: $(RUNS) $(foreach one,openai-1 openai-2 current,$(call SDK_READY,$(one))) ## the daemon against the official openai SDKs for Python
	$(call SDK_PYTEST,openai-1) tests/sdk/surface $(ARGS)
	$(call SDK_PYTEST,openai-2) tests/sdk/surface $(ARGS)
	$(call SDK_PYTEST,current) tests/sdk/surface $(ARGS)

test-sdk-node: $(RUNS) ## the daemon against the official SDK for Node
	@command -v node npm >/dev/null || { echo "error: node or npm is missing; Debian has them as nodejs and npm" >&2; exit 1; }
	cd tests/sdk/node && npm ci --no-audit --no-fund --silent
	cd tests/sdk/node && POINTSMAN_PYTHON=$(abspath $(BIN)/python) node --test .

test-sdk-ark: $(RUNS) $(call SDK_READY,ark) ## the simulator of Ark against its official SDK (not part of test)
	$(call SDK_PYTEST,ark) tests/sdk/ark $(ARGS)

fuzz-smoke: $(TESTS) $(FUZZ_READY) ## generated requests for 40 s, always the same
	@$(BIN)/python -m tests.seen surfaces.3 --short

fuzz: $(TESTS) $(FUZZ_READY) ## 20,000 generated requests (about 5 minutes)
	@$(BIN)/python -m tests.seen surfaces.3

install: $(TESTS) ## everything, then use .venv/bin/pointsman
	@echo "installed: $(BIN)/pointsman"

check: $(TESTS) ## format, lint, types, and the matrix of docs/providers.md
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict router providers
	$(BIN)/python -m tests.providers.matrix --check

sim: $(TESTS) ## the simulator of time on SEEDS= seeds
	$(BIN)/python -m tests.sim --seeds $(SEEDS) $(ARGS)

seen: $(TESTS) $(if $(filter surfaces.3,$(ID)),$(FUZZ_READY)) ## show one promised sight with its figures, for example ID=spine.1
	$(if $(ID),,$(error say which one: make seen ID=spine.1))
	$(BIN)/python -m tests.seen $(ID) $(ARGS)

soak: $(TESTS) ## 200 tasks for each adapter while its provider misbehaves (ARGS='fal --tasks 50' for less)
	$(BIN)/python -m tests.providers.soak $(ARGS)

bench: $(TESTS) ## what the daemon costs, beside a bare aiohttp proxy (about 5 minutes; ARGS=--short for half a minute)
	$(BIN)/python -m tests.bench $(ARGS)

lock: ## make the requirements files anew from pyproject.toml (needs uv)
	$(UV) lock --upgrade --quiet
	$(EXPORT) --group build --output-file requirements.lock
	$(EXPORT) --group build --extra simulators --extra video --output-file requirements-demo.lock
	$(EXPORT) --group build --extra simulators --extra video --group dev --output-file requirements-dev.lock
	for name in current openai-2 openai-1 google-2 ark; do \
	  $(SDK_COMPILE) --output-file tests/sdk/$$name.lock tests/sdk/$$name.in > /dev/null || exit 1; \
	done
	$(SDK_COMPILE) --output-file tests/fuzz/fuzz.lock tests/fuzz/fuzz.in > /dev/null

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pointsman needs Python 3.11 or newer: make PYTHON=...")'
	@echo "creating $(VENV) with Python $(VERSION)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# A changed lock or project file, or another interpreter, installs again; nothing else does.
$(RUNS): $(MADE) requirements-demo.lock pyproject.toml
	@echo "installing what the daemon and its simulators need"
	@$(INSTALL_LOCK) requirements-demo.lock
	@$(INSTALL_PROJECT)
	@touch $@

# The test set contains the running set, so it serves the demo too.
$(TESTS): $(MADE) requirements-dev.lock pyproject.toml
	@echo "installing what the tests and checks need"
	@$(INSTALL_LOCK) requirements-dev.lock
	@$(INSTALL_PROJECT)
	@touch $(RUNS) $@

# An environment without a pip of its own: that of $(VENV) fills it, which saves half of the time.
define FILL
@echo "installing what $< names"
@$(PYTHON) -m venv --clear --without-pip $(@D)
@$(BIN)/python -m pip --python $(@D)/bin/python --disable-pip-version-check --no-input -qq \
  install --require-hashes --only-binary :all: --requirement $<
@touch $@
endef

$(SDK)/%/.ready-with-$(VERSION): tests/sdk/%.lock | $(MADE)
	$(FILL)

$(FUZZ_READY): tests/fuzz/fuzz.lock | $(MADE)
	$(FILL)
