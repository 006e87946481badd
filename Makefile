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
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

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

# A .venv whose Python has been removed or upgraded away is none.
$(shell test ! -L $(BIN)/python || test -x $(BIN)/python || rm -rf .venv)

.PHONY: help dev test lint fmt types check audit soak bench fuzz lock build clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile

dev: .venv/.dev ## install and run everything on this machine, with a stand-in for Ottu; Ctrl-C stops it
	@exec $(BIN)/cardsync dev $(ARGS)

test: .venv/.test ## install and run the tests
	@exec $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

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

soak: .venv/.test ## let everything fail by a seeded schedule while shoppers pay (ARGS="--minutes 30 --seed 7")
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

build: .venv/.test ## wheel and source distribution, into dist/
	$(BIN)/python -m hatchling build

lock: ## write the lock files anew from pyproject.toml (UPGRADE=--upgrade: newer versions)
	@python=$$($(pick_python)) && folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	"$$python" -m venv "$$folder/uv" && "$$folder/uv/bin/pip" install --quiet --disable-pip-version-check 'uv>=0.9,<1' && \
	PATH="$$folder/uv/bin:$$PATH" UPGRADE="$(UPGRADE)" sh requirements/lock.sh

clean: ## remove what was installed and built; the data of `make dev` (.cardsync) stays
	rm -rf .venv dist .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis

# Each stamp says: this set is installed, as the lock file has it. An interrupted installation leaves none.
.venv/.made:
	@python=$$($(pick_python)) && echo "Making .venv with $$("$$python" -V)" && "$$python" -m venv --clear .venv
	@touch $@

.venv/.dev .venv/.test .venv/.bench .venv/.fuzz: .venv/.%: requirements/%.txt pyproject.toml .venv/.made
	@echo "Installing requirements/$*.txt"
	@$(PIP) install -qq --require-hashes --no-deps --only-binary :all: -r requirements/$*.txt
	@$(PIP) install -qq --no-deps --no-build-isolation --no-index --editable .
	@touch $@
