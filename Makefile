# What a developer does, on a machine that has Python 3.11 or newer and make. Nothing is installed outside .venv.
#
# Rules: everything comes from requirements/*.txt, by hash; a target that has nothing to install starts at once;
# it works for root and for an ordinary user, with GNU make 3.81 and newer. ARGS is passed on: make test ARGS="-k cards".

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh

PYTHON ?=
ARGS ?=
# Tests at once, each with servers of its own. Most of them wait for processes: on two cores three took 3:10 min where one took
# 6:53. A file's tests stay together, since they share a system.
JOBS ?= 3
UPGRADE ?=
BIN := .venv/bin
PIP_OPTIONS := --disable-pip-version-check --no-input
PIP := $(BIN)/python -m pip $(PIP_OPTIONS)

# A Python that really runs: a version manager's shim may be on PATH for a version that is switched off, and Debian's
# python3 lacks ensurepip until python3-venv is installed.
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
define pick_python
for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
    if "$$python" -c '$(SUITABLE)' >/dev/null 2>&1; then echo "$$python"; exit 0; fi; \
done; \
echo "cardsync needs Python 3.11 or newer with venv, and none of these is one: $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python)." >&2; \
echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
exit 1
endef

# A .venv whose Python has been removed or upgraded away is none: it is made again by the next target that needs it.
IS_STALE := $(shell test ! -L $(BIN)/python || test -x $(BIN)/python || echo yes)

.PHONY: stale help dev test deploy-test lint fmt types check audit clients soak bench fuzz translations screenshots docs lock build clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile

dev: .venv/.dev ## install and run everything on this machine, with a stand-in for Ottu; Ctrl-C stops it
	@exec $(BIN)/cardsync dev $(ARGS)

test: .venv/.test ## install and run the tests
	@exec $(BIN)/python -m pytest -n $(JOBS) --max-worker-restart 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# What befalls cardsync where merchants run it: a pooler, a standby, a failover, an old primary, a broker that refuses, a stop.
DEPLOYMENT_TESTS := tests/e2e/test_pooler.py tests/e2e/test_standby.py tests/e2e/test_failover.py tests/e2e/test_synchronous_failover.py tests/e2e/test_silent_database.py tests/e2e/test_broker_address.py tests/e2e/test_threads.py tests/e2e/test_no_broker.py \
    tests/e2e/test_deploy.py tests/e2e/test_database_faults.py tests/e2e/test_broker_faults.py tests/e2e/test_far_database.py \
    tests/e2e/test_sentinel.py tests/e2e/test_shared_broker.py tests/e2e/test_broker_refuses.py tests/e2e/test_clocks.py \
    tests/workers/test_broker_check.py tests/workers/test_own_ticks.py tests/cli/test_cli_health.py \
    tests/store/access/test_restored_roles.py tests/e2e/test_change_capture.py tests/store/access/test_plain_owner.py \
    tests/web/test_server.py tests/web/test_database_clock.py tests/cli/test_cli_db.py tests/cli/test_cli_spool.py \
    tests/cli/test_cli_failover.py tests/cli/test_cli_doctor_room.py tests/cli/test_cli_capture.py \
    tests/test_redis_cluster.py tests/workers/test_redis_transport.py tests/e2e/test_stopping.py tests/stories/test_restores.py \
    tests/stories/test_bring_in.py tests/cli/test_cli_restored.py tests/db tests/unusual tests/web/test_database_full.py \
    tests/project/test_kubernetes.py tests/store/test_migrating.py

deploy-test: .venv/.test ## the tests of deployment conditions alone: poolers, failover, split brain, brokers, restores
	@exec $(BIN)/python -m pytest -n $(JOBS) --max-worker-restart 2 --dist loadfile --no-loadscope-reorder $(DEPLOYMENT_TESTS) $(ARGS)

lint: .venv/.test ## style, format, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

fmt: .venv/.test ## put the code into the house's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: .venv/.test ## strict type check
	$(BIN)/mypy

check: lint types test ## all that CI does

# pip-audit stands in a place of its own: what it asks must not choose what we install.
AUDIT_SECONDS := 120
audit: .venv/.test ## look up known vulnerabilities, where there is a network (ARGS=--required: fail where there is none)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(BIN)/python -m venv "$$folder/venv" && \
	{ timeout $(AUDIT_SECONDS) "$$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3' && \
	timeout $(AUDIT_SECONDS) "$$folder/venv/bin/pip-audit" --require-hashes --disable-pip --progress-spinner off \
	    --format json --output "$$folder/report.json" -r requirements/run.txt || true; } >/dev/null 2>&1; \
	$(BIN)/python requirements/audit.py "$$folder/report.json" $(ARGS)

clients: .venv/.clients ## install what lints the API's description and makes clients of it, for tests/e2e/clients

# In a place of their own: what generates clients must not choose what we install. Node comes from a wheel, by hash like the rest.
CLIENTS := .venv/clients
.venv/.clients: tests/e2e/clients/requirements.txt tests/e2e/clients/package-lock.json .venv/.made
	@echo "Installing what makes clients of the API's description"
	@rm -rf $(CLIENTS) && $(BIN)/python -m venv $(CLIENTS)/python
	@$(CLIENTS)/python/bin/python -m pip --disable-pip-version-check --no-input install -qq --require-hashes --no-deps \
	    --only-binary :all: -r tests/e2e/clients/requirements.txt
	@cp tests/e2e/clients/package.json tests/e2e/clients/package-lock.json $(CLIENTS)/
	@cd $(CLIENTS) && PATH="$$PWD/python/bin:$$PATH" npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

soak: .venv/.test ## let everything fail by a seeded schedule while shoppers pay (ARGS="--minutes 30 --database-milliseconds 5 --seed 7")
	@exec $(BIN)/python -m tests.soak.run $(ARGS)

bench: .venv/.bench ## the benchmarks
	@exec $(BIN)/python benchmarks/run.py $(ARGS)

# Bodies against the endpoint, then ten times as many through the parsing path where atheris runs; both stop by themselves.
# CARDSYNC_FUZZ_SEED=N says again what a run found.
FUZZ_BODIES := 100000
FUZZ_SECONDS := 900

fuzz: .venv/.fuzz ## try 100,000 malicious bodies on the endpoint, and more on the parsing
	@CARDSYNC_FUZZ_BODIES=$(FUZZ_BODIES) CARDSYNC_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -s -o faulthandler_timeout=0 tests/fuzz $(ARGS)
	@if [ "$$(uname)" = Linux ]; then \
	exec $(BIN)/python -m tests.fuzz.branches -runs=$(FUZZ_BODIES)0 -max_total_time=$(FUZZ_SECONDS) -timeout=5 -print_final_stats=1; \
	fi

# The console's texts. A language's file keeps what is translated; a test names what is not.
TRANSLATIONS := cardsync/web/console/translations

translations: .venv/.test ## collect the console's texts into its catalogues, to be translated there
	@pot=$$(mktemp) && trap 'rm -f "$$pot"' EXIT && \
	$(BIN)/pybabel -q extract -F $(TRANSLATIONS)/babel.cfg -k N_ -k ngettext:1,2 --no-location --omit-header -o "$$pot" cardsync/core cardsync/web/console && \
	for file in $(TRANSLATIONS)/*/LC_MESSAGES/messages.po; do \
	    language=$${file#$(TRANSLATIONS)/} && $(BIN)/pybabel -q update -i "$$pot" -o "$$file" -l "$${language%%/*}" -w 120 \
	        --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date || exit 1; \
	done

screenshots: .venv/.test ## write pictures of every page of the console into .cardsync/screenshots (needs Debian's chromium)
	@exec $(BIN)/python -m tests.web.console.browser.screenshots $(ARGS)

docs: .venv/.docs ## build the documentation site into dist/docs; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml && echo "Built dist/docs/index.html"

build: .venv/.test ## wheel and source distribution, into dist/
	$(BIN)/python -m hatchling build

lock: ## write the lock files again from pyproject.toml (UPGRADE=--upgrade: newer versions)
	@python=$$($(pick_python)) && folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	"$$python" -m venv "$$folder/uv" && "$$folder/uv/bin/pip" install --quiet --disable-pip-version-check 'uv>=0.9,<1' && \
	PATH="$$folder/uv/bin:$$PATH" UPGRADE="$(UPGRADE)" sh requirements/lock.sh

clean: ## remove what was installed and built; the data of `make dev` (.cardsync) stays
	rm -rf .venv dist .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis

# Each stamp says: this set is installed, as the lock file has it. An interrupted installation leaves none. Modules are compiled when
# they are first imported, by processes that start side by side; ours before, since what installs uses one core. Where Python has a pip
# that can install for another Python, that is faster than to put its own into .venv first.
INSTALLER := install -qq --require-hashes --no-deps --only-binary :all: -r requirements/installer.txt
.venv/.made: requirements/installer.txt $(if $(IS_STALE),stale)
	@python=$$($(pick_python)) && echo "Making .venv with $$("$$python" -V)" && rm -rf .venv && \
	{ "$$python" -m compileall -qq cardsync workers & } && \
	if "$$python" -m venv --without-pip .venv && "$$python" -m pip --python $(BIN)/python $(PIP_OPTIONS) $(INSTALLER) 2>/dev/null; \
	then :; else "$$python" -m venv --clear .venv || exit 1; $(PIP) $(INSTALLER) || \
	    echo "There is no uv for this machine, so pip installs: that takes longer."; fi; wait
	@touch $@

EDITABLE := --no-deps --no-build-isolation --no-index --editable .
.venv/.dev .venv/.test .venv/.bench .venv/.fuzz .venv/.docs: .venv/.%: requirements/%.txt requirements/install.py pyproject.toml .venv/.made
	@$(BIN)/python requirements/install.py requirements/$*.txt
	@$(BIN)/uv -q pip install --python $(BIN)/python --offline --reinstall $(EDITABLE) 2>/dev/null || $(PIP) install -qq $(EDITABLE)
	@touch $@
