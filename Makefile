# The front door. `make help` lists the doors.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REQUIREMENTS := requirements.txt protos/pyproject.toml compiler/pyproject.toml agent/pyproject.toml hub/pyproject.toml
# As many tests at a time as there are cores, but no more than four: those on real processes take a gigabyte each. Files stay
# whole, because a file's tests share what they make. One after the other: make test PARALLEL=
PARALLEL ?= -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
RDFM ?= https://github.com/antmicro/rdfm.git
RDFM_COMMIT := 44557eba8e273fdaf981d5b699326209186fc6e5
PROTOS := $(wildcard protos/milonga/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-browser test-aarch64 test-container test-hubs test-kfp test-objects test-postgres test-ray check bench bench-peers soak fuzz fuzz-rest protos revision translations docs clean

help: ## Show what can be done
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv with everything in it (the other targets do this by themselves)

$(STAMP): $(REQUIREMENTS)
	@command -v $(PYTHON) >/dev/null || { echo "Milonga's hub needs Python 3.11 or newer: install it, or name yours: make PYTHON=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --progress-bar on -r requirements.txt
	@touch $@

demo: $(STAMP) ## Run the whole loop on this machine: hub, three agents, real data (DEMO_ARGS="--keep")
	$(BIN)/python -m tests.e2e.demo $(DEMO_ARGS)

test: $(STAMP) ## Run all tests, several at a time (TEST_ARGS="-k rollouts", PARALLEL= for one at a time)
	$(BIN)/python -m pytest $(PARALLEL) $(TEST_ARGS)

test-browser: $(STAMP) ## Run what needs a Chromium: every page, and the whole way by clicking; screenshots stay in artifacts/
	$(BIN)/python -m pytest -m browser $(TEST_ARGS)

test-aarch64: $(STAMP) ## Run TVM's cross-build and the agent in an aarch64 user-space, made of Debian's packages and emulated
	$(BIN)/python -m tests.aarch64 $(TEST_ARGS)

test-container: $(STAMP) ## Follow the Containerfiles of exported bundles in a user-space of Debian's packages, and ask what serves there (needs root)
	$(BIN)/python -m tests.containers $(TEST_ARGS)

test-objects: $(STAMP) ## Try stores of blobs with a server that speaks S3 too, which takes 90 MB more in .venv
	$(BIN)/python -m pip install --quiet --group objects
	$(BIN)/python -m pytest tests/blobs $(TEST_ARGS)

test-postgres: $(STAMP) ## Run all tests on PostgreSQL, a server of its own (TEST_ARGS=tests/telemetry)
	$(BIN)/python -m tests.postgres_server $(BIN)/python -m pytest $(PARALLEL) $(TEST_ARGS)

test-hubs: $(STAMP) ## Let two hubs on one PostgreSQL work, and kill and stop them meanwhile (needs PostgreSQL and mosquitto; minutes)
	$(BIN)/python -m pytest -m hubs tests/hubs $(TEST_ARGS)

test-ray: $(STAMP) ## Do a run on a Ray cluster of two workers on this machine, and hold it to the same run without (installs Ray and Ray Train)
	$(BIN)/python -m pip install --quiet --progress-bar on -e './hub[ray]'
	$(BIN)/python -m pytest -m ray tests/ray $(TEST_ARGS)

check: $(STAMP) ## Format, lint, types, protocol rules, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet --target=3.9- --violations --eval-annotations --no-tips --no-parse-comments agent/milonga_agent compiler/milonga_compiler >/dev/null
	@if command -v npx >/dev/null; then cd protos && npx --yes @bufbuild/buf lint; else echo "buf lint left out: it needs npx"; fi
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not browser" tests

test-kfp: $(STAMP) ## Do a hub's run again as a pipeline of Kubeflow, by its SDK on this machine, and compare (installs the SDK into .kfp)
	test -d .kfp/kfp || $(BIN)/python -m pip install --quiet --target .kfp "kfp>=2.17,<3"
	PYTHONPATH="$(CURDIR)/.kfp" $(BIN)/python -m pytest tests/exchange/test_kubeflow_pipeline.py $(TEST_ARGS)

bench: $(STAMP) ## Run the benchmarks, or one: make bench NAME=agent
	$(BIN)/python -m benchmarks $(NAME)

bench-peers: ## Fetch the known hubs that the benchmark "fleet" holds this one against (RDFM=URL takes another copy of RDFM's repository)
	test -x .bench/flower/bin/flower-superlink || { $(PYTHON) -m venv .bench/flower && .bench/flower/bin/python -m pip install --quiet --upgrade "pip>=25.1" && .bench/flower/bin/python -m pip install --quiet --group bench-flower; }
	test -d .bench/rdfm-source || { git clone --quiet --no-checkout $(RDFM) .bench/rdfm-source && git -C .bench/rdfm-source checkout --quiet $(RDFM_COMMIT) -- server common; }
	test -x .bench/rdfm/bin/gunicorn || { $(PYTHON) -m venv .bench/rdfm && .bench/rdfm/bin/python -m pip install --quiet --upgrade "pip>=25.1" && .bench/rdfm/bin/python -m pip install --quiet --group bench-rdfm; }

soak: $(STAMP) ## Kill an agent at every system call and cut its power, 10,000 times (SOAK_ARGS="--points 1000 --again")
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

fuzz: $(STAMP) ## Offer a million inputs that nobody means well at every door of hub and agent (FUZZ_ARGS="--inputs 10000")
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

fuzz-rest: $(STAMP) ## Call every operation of REST by schemathesis, which is installed into .fuzz, as an admin and as a viewer (FUZZ_ARGS="--only datasets")
	test -d .fuzz/schemathesis || $(BIN)/python -m pip install --quiet --target .fuzz "schemathesis>=4.32,<5"
	PYTHONPATH="$(CURDIR)/.fuzz" $(BIN)/python -m tests.fuzz.rest $(FUZZ_ARGS)

protos: $(STAMP) ## Generate the stubs in protos/milonga/v1 again, the services of milonga.client and docs/api
	cd protos && ../$(BIN)/python -m grpc_tools.protoc -I . --plugin=protoc-gen-mypy=../$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=../$(BIN)/protoc-gen-mypy_grpc --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS:protos/%=%)
	$(BIN)/python -m tools.codegen

revision: $(STAMP) ## Write a revision of the hub's tables after changing a model: make revision MESSAGE="what it does"
	$(BIN)/python -m tools.revision "$(MESSAGE)"

docs: $(STAMP) ## Make the documentation's site in site/: open site/index.html
	test -x .docs/venv/bin/mkdocs || { $(PYTHON) -m venv .docs/venv && .docs/venv/bin/python -m pip install --quiet --upgrade "pip>=25.1" && .docs/venv/bin/python -m pip install --quiet --group docs; }
	$(BIN)/python -m tools.site.reference .docs/reference
	.docs/venv/bin/mkdocs build --strict --clean --quiet

translations: $(STAMP) ## Bring the catalogues of the dashboard's languages up to date, and compile them (docs/translating.md)
	$(BIN)/python -m tests.web.translations

clean: ## Remove .venv and what tests and benchmarks wrote
	rm -rf $(VENV) benchmarks/results .pytest_cache .mypy_cache .ruff_cache demo-data artifacts .aarch64 .containers .bench .docs .kfp .fuzz site
