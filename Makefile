# Everything runs in .venv, which the first target that needs it makes.
# PYTHON picks the interpreter; by default the newest supported one that can make a venv.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

# The labs run in a venv of their own, by default on the system's Python: distributions build it
# with profile-guided optimization, which many self-built ones lack. Or: make bench BENCH_PYTHON=...
BENCH_PYTHON ?= $(shell /usr/bin/python3 -c 'import ensurepip, sys, venv; \
	sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo /usr/bin/python3 || echo $(PYTHON))
BENCH_VENV := .venv-bench
BENCH_READY := $(BENCH_VENV)/.ready
SERVERS_VENV := .venv-servers
SERVERS_READY := $(SERVERS_VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo swarm swarm-cost test test-swarm test-tls fuzz fuzz-parsers lint fmt docs bench \
	bench-affinity bench-pick bench-connects bench-hostile bench-stopping bench-rolling \
	bench-failing clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "stickyproxy needs Python 3.11, 3.12 or 3.13; none was found. Name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments."; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing Debian's python3-venv."; \
			apt-get update -qq && apt-get install -y -qq python3-venv; \
		else echo "On Debian: sudo apt-get install python3-venv"; exit 1; fi; }
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "Installing stickyproxy and its tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DOCS_READY): $(READY)
	@echo "Installing Sphinx into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

$(BENCH_READY): pyproject.toml constraints.txt bench/requirements.txt bench/install.sh
	@bench/install.sh $(BENCH_PYTHON) $(BENCH_VENV)
	@touch $@

$(SERVERS_READY): pyproject.toml constraints.txt bench/servers/requirements.txt bench/servers/install.sh
	@bench/servers/install.sh $(BENCH_PYTHON) $(SERVERS_VENV)
	@touch $@

demo: $(READY) ## the proxy with five demo replicas on 127.0.0.1:8080
	@$(BIN)/stickyproxy demo $(ARGS)

swarm: $(READY) ## the proxy and a demo service on a Docker Swarm
	@BASE=$(BASE) $(BIN)/python -m tests.swarm.playground

test: $(READY) ## the test suite
	$(BIN)/python -m pytest $(ARGS)

test-swarm: $(READY) ## the part of it that starts Docker engines of its own
	$(BIN)/python -m pytest tests/swarm $(ARGS)

test-tls: $(READY) ## testssl.sh against a TLS listener: nothing above "low" (a minute)
	$(BIN)/python -m pytest tests/test_testssl.py $(ARGS)

swarm-cost: $(READY) ## what watching a Swarm of 200 services costs (4 minutes)
	@$(BIN)/python -m tests.swarm.cost

fuzz: $(READY) ## mutated requests and responses through the proxy (SECONDS=60)
	$(BIN)/python -m tests.hostile.fuzz --seconds $(or $(SECONDS),60) $(ARGS)

# atheris has wheels for few Pythons, so it is no part of the dev tools.
fuzz-parsers: $(READY) ## parsers of cookies, labels and so on, guided by coverage (SECONDS=60 each)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install \
		--quiet --disable-pip-version-check atheris==3.0.0
	$(BIN)/python -m tests.hostile.parsers $(or $(TARGET),all) --seconds $(or $(SECONDS),60) $(ARGS)

lint: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(READY) ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(DOCS_READY) ## the documentation as a site in site/, its links checked
	@rm -rf site
	@$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/docs docs site
	@$(BIN)/python docs/check_site.py site
	@echo "Open $(CURDIR)/site/index.html"

bench: $(BENCH_READY) ## speed next to other proxies (40 minutes; QUICK=1: under 5)
	$(BENCH_VENV)/bin/python -m bench.lab $(if $(QUICK),--quick) $(ARGS)

bench-affinity: $(BENCH_READY) ## stickiness next to other proxies
	$(BENCH_VENV)/bin/python -m bench.affinity $(if $(QUICK),--quick) $(ARGS)

bench-pick: $(READY) ## time per pick and per rebuild of each policy
	$(BIN)/python -m bench.pick

bench-connects: $(READY) ## what connections cost that a connector makes, next to direct ones
	$(BIN)/python -m bench.connects

bench-hostile: $(BENCH_READY) ## what an attack costs other clients, next to nginx and HAProxy
	$(BENCH_VENV)/bin/python -m bench.hostile $(if $(QUICK),--quick) $(ARGS)

bench-stopping: $(SERVERS_READY) ## what servers do with connections when they stop (6 minutes; QUICK=1: 1)
	$(SERVERS_VENV)/bin/python -m bench.stopping $(if $(QUICK),--rounds 2) $(ARGS)

bench-rolling: $(SERVERS_READY) ## what fails while they are replaced behind stickyproxy (10 minutes)
	$(SERVERS_VENV)/bin/python -m bench.rolling $(if $(QUICK),--rounds 1) $(ARGS)

bench-failing: $(BENCH_READY) ## what a failing replica costs, next to HAProxy and Traefik (5 minutes)
	$(BENCH_VENV)/bin/python -m bench.failing $(ARGS)

clean: ## remove everything that make created
	rm -rf $(VENV) $(BENCH_VENV) $(SERVERS_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build \
		site *.egg-info
