# One command each: `make demo` shows it running, `make test` checks all of it. Everything lives in .venv and .tools.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
PYTEST_WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Generated low, so that the stubs run on every later grpcio and protobuf; it wants protobuf < 6, hence a venv of its own.
GRPCIO_TOOLS := 1.71.2
PROTOS_VENV := .tools/protos
PAGE := server/sheepfold_server/dashboard/web

# A venv copied along with its checkout still imports the old checkout: forget what was installed into it.
$(shell grep -qsF '$(CURDIR)/$(VENV)' $(VENV)/bin/activate || rm -f $(VENV)/installed-*)

.PHONY: help demo test lint docs bench-kernel bench-dashboard bench-goodput bench-plan bench-recovery bench-scale bench-step sim study chaos soak overload security chart chart-tools chart-files image image-check wheels page examples protos protos-tool clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "make %-16s %s\n", $$1, $$2}'

demo: $(VENV)/installed-all ## train LeNet on Fashion-MNIST on this machine (ARGS=--json)
	@$(BIN)/sheepfold demo $(ARGS)

test: lint ## static checks, then every test (PYTEST_ARGS="-k lease")
	@$(BIN)/python -m pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/installed-dev ## ruff, mypy --strict, arrow of imports
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev ## build the user guide into client/guide/site, without a network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file client/guide/mkdocs.yml

bench-kernel: $(VENV)/installed-dev ## time one optimizer step beside public ones, 3 minutes (ARGS="--threads 1")
	@$(BIN)/python -m tests.bench.kernel $(ARGS)

bench-dashboard: $(VENV)/installed-dev ## time charts of 1,000,000 steps x 400 slices, 15 minutes (ARGS="--steps 40000")
	@$(BIN)/python -m tests.bench.dashboard $(ARGS)

sim: $(VENV)/installed-dev ## simulate 20,000 seeds of faults and every ablation, 10 minutes (SEEDS=2000)
	@$(BIN)/python -m tests.sim.campaign --seeds $(or $(SEEDS),20000) $(ARGS)

study: $(VENV)/installed-dev ## LAMB and rivals against batch size, into tests/study/REPORT.md, 40 minutes on 2 cores (QUICK=1: 6, FULL=1: 15 hours)
	@$(BIN)/python -m tests.study $(if $(FULL),full,$(if $(QUICK),quick,normal)) $(ARGS)

chaos: $(VENV)/installed-dev ## kill real processes 200 times, at random and at every failpoint, over bad links (KILLS=20)
	@$(BIN)/python -m tests.faults.chaos --kills $(or $(KILLS),200) $(ARGS)

soak: $(VENV)/installed-dev ## train under faults for an hour and see that nothing grows (MINUTES=8)
	@$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),60) $(ARGS)

overload: $(VENV)/installed-dev ## ten times what a shard takes, then 200 workers over TLS, 4 minutes
	@$(BIN)/python -m tests.faults.overload $(ARGS)

security: $(VENV)/installed-dev ## attack decoders and calls by 120,000 odd inputs, 5 minutes (ARGS="--inputs 1000000")
	@$(BIN)/python -m pytest -q tests/security
	@$(BIN)/python -m tests.security.campaign $(ARGS)

bench-goodput: $(VENV)/installed-dev ## steps while a worker dies every 10, beside torchrun (and torchft), 8 minutes (ARGS="--torchft PYTHON")
	@$(BIN)/python -m tests.bench.goodput $(ARGS)

bench-plan: $(VENV)/installed-dev ## what `sheepfold plan` predicts beside what steps take, 2 minutes (ARGS="--save FILE")
	@$(BIN)/python -m tests.bench.plan $(ARGS)

bench-scale: $(VENV)/installed-dev ## what a step costs as parameters, tensors, workers, shards grow (ARGS="--only workers")
	@$(BIN)/python -m tests.bench.scale $(ARGS)

bench-step: $(VENV)/installed-dev ## time a step beside all-reduce, torch RPC and others, 10 minutes (ARGS="--workers 2")
	@$(BIN)/python -m tests.bench.step $(ARGS)

bench-recovery: $(VENV)/installed-dev ## time from the kill of a shard of 109 M parameters to its return (ARGS="--rounds 3")
	@$(BIN)/python -m tests.bench.recovery $(ARGS)

chart: $(VENV)/installed-dev chart-tools ## check the Helm chart with real helm 4 and 3, 2 minutes
	@$(BIN)/python -m tests.chart

chart-tools: $(VENV)/installed-dev ## helm 4 and 3, in .tools
	@$(BIN)/python -m tests.chart.get_helm

chart-files: $(VENV)/installed-dev ## renew what the chart holds of deploy/monitoring, and its README
	@$(BIN)/python -m tests.chart.chart_files

image: ## build sheepfold:VERSION by docker or buildah, and its SBOM into dist (TARGET=cuda, ARGS="--build-arg EXTRAS=...")
	@deploy/docker/build.sh $(or $(TARGET),cpu) $(ARGS)

wheels: dist/wheels/complete ## what the image is made of, into dist/wheels: builds then ask no package index

image-check: $(VENV)/installed-dev dist/wheels/complete ## lint and build the image without a network, train with it, as root, 20 minutes
	@$(BIN)/python -m tests.image

page: ## build the dashboard's page into the package; needs Node 20.19 or newer
	cd $(PAGE) && npm ci --silent && npm run --silent build

examples: $(VENV)/installed-dev ## run every example by its documented command and kill one worker of each
	@$(BIN)/python -m tests.bench.examples

protos: protos-tool ## regenerate the stubs beside protos/sheepfold_wire/v1/*.proto
	$(PROTOS_VENV)/bin/python -m grpc_tools.protoc -I protos \
		--python_out=protos --pyi_out=protos --grpc_python_out=protos protos/sheepfold_wire/v1/*.proto

protos-tool: $(PROTOS_VENV)/grpcio-tools-$(GRPCIO_TOOLS) ## the generator of the stubs, in .tools/protos

clean: ## remove .venv, .tools and every cache
	rm -rf $(VENV) .tools $(PAGE)/node_modules client/guide/site build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find client server protos tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than what was installed from; installing dev installs all, so it renews both.
$(VENV)/installed-all: pyproject.toml constraints.txt
	$(call make_venv,$(VENV))
	@echo "installing sheepfold[all] into $(VENV) (about 1 minute)..." >&2
	@$(PIP) install -qq -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt
	$(call make_venv,$(VENV))
	@echo "installing sheepfold[dev] into $(VENV) (about 1 minute)..." >&2
	@$(PIP) install -qq -c constraints.txt -e '.[dev]'
	@# Only timm asks for torchvision, and transformers imports what it finds: one that does not fit this torch must go.
	@$(BIN)/python -c 'import torchvision' 2>/dev/null || $(PIP) uninstall -qq -y torchvision
	@touch $@ $(VENV)/installed-all

# For the Python of the image's base. The tools are needed to build it, and do not stay in it.
dist/wheels/complete: $(VENV)/installed-all deploy/docker/sbom-tool.txt
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "the image has Python 3.11, $(VENV) another: make PYTHON=python3.11 wheels" >&2; exit 2; }
	@rm -rf dist/wheels && mkdir -p dist/wheels
	@$(PIP) download -qq -c constraints.txt -d dist/wheels '.[server,cli,s3]' hatchling -r deploy/docker/sbom-tool.txt
	@touch $@

$(PROTOS_VENV)/grpcio-tools-$(GRPCIO_TOOLS):
	$(call make_venv,$(PROTOS_VENV))
	@echo "installing grpcio-tools $(GRPCIO_TOOLS) into $(PROTOS_VENV)..." >&2
	@$(PROTOS_VENV)/bin/python -m pip --disable-pip-version-check install -qq grpcio-tools==$(GRPCIO_TOOLS) 'setuptools<81'
	@touch $@

# A venv that works here is kept, whoever made it; one that was moved with its checkout, or has lost its Python, is made anew.
define make_venv
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON): not found; name a Python 3.11 or newer: make PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), but sheepfold needs 3.11 or newer: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'sudo apt-get install -y python3-venv' >&2; exit 2; }
	@if ! { grep -qF '$(CURDIR)/$(1)' $(1)/bin/activate && $(1)/bin/python -c ''; } 2>/dev/null; then \
		rm -rf $(1) && $(PYTHON) -m venv $(1); fi
endef
