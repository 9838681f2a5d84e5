# One line of work each; `make setup` needs Python ≥ 3.11 and nothing else, everything below runs it first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= quickstart
LOCKS := images/locks
# How images are built (images/README.md): base image (empty: the Dockerfile's), folder with a torch wheel, certificates, index, network of the build.
BASE ?=
WHEELS ?= $(PIP_FIND_LINKS)
CA ?= $(SSL_CERT_FILE)
INDEX ?=
NETWORK ?=
COMPILE = $(BIN)/uv pip compile -q --no-header --no-annotate --no-emit-package torch -c $(LOCKS)/constraints.txt
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_COMPILE_BYTECODE := 1
export UV_LINK_MODE := copy
export HF_HUB_OFFLINE ?= 1
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false

.PHONY: help setup run test test-slow test-docker check bench bench-gpu evidence-methods images image-base compile docs chart locks clean
help:      ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## */\t/' | expand -t 14
setup: $(VENV)/.ready ## a virtual environment with everything, from pinned versions
run: setup ## fine-tune a real model on the shipped example and show the verdict (RECIPE=naive to see a gate close)
	$(BIN)/retain run $(RECIPE)
test: setup ## every test that needs no engine, no GPU and no outside data, in under 15 minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not docker and not gpu"
test-slow: setup ## the main job on real public data (../shared/data or RETAIN_DATA), tens of minutes
	$(BIN)/pytest -m slow -s
test-docker: setup ## the whole pipeline in the containers of `make images`, beside an S3 store and an MLflow server
	$(BIN)/pytest -m docker -s tests/images
check: setup ## ruff, mypy and the rule of the faces
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/pytest -q tests/pipelines/test_faces.py
bench: setup ## speed and memory beside a peer, in one run
	for bench in $(filter-out %_gpu.py,$(wildcard tests/bench/bench_*.py)); do $(BIN)/python $$bench || exit 1; done
bench-gpu: setup ## on a CUDA GPU: an 8B model's speed and memory in training (T2, T3), the plan's peaks, every method, the scorer
	$(BIN)/python tests/bench/bench_gpu.py
evidence-methods: setup ## what each method learns and forgets, into pipelines/EVIDENCE.md (real data; goes on where it was killed)
	$(BIN)/python tests/bench/evidence_methods.py --main-seeds 3
images: setup ## build retain-cpu and retain-gpu with this machine's container engine (BASE= WHEELS= CA= INDEX= NETWORK=)
	$(BIN)/python images/build.py --base "$(BASE)" --wheels "$(WHEELS)" --ca "$(CA)" --index "$(INDEX)" --network "$(NETWORK)"
image-base: ## retain-base:bookworm from Debian's packages, for BASE= where no image registry is reached (root, mmdebstrap)
	mmdebstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm - | docker import - retain-base:bookworm
compile: setup ## write the kept pipeline specs
	$(BIN)/retain compile --out pipelines/compiled
docs: setup ## write the generated pages
	$(BIN)/python -m retain_pipelines.catalogue
	$(BIN)/python -m tests.retain.train.methods_page
chart: setup ## write the chart's values.yaml and table of values from its schema
	$(BIN)/python charts/generate.py
locks: $(BIN)/uv ## choose versions again: for this checkout, then the same ones for the images
	$(COMPILE) --extra dev pyproject.toml -o $(LOCKS)/dev.txt
	for image in cpu gpu; do $(COMPILE) -c $(LOCKS)/dev.txt --extra $$image pyproject.toml -o $(LOCKS)/$$image.txt || exit 1; done
	printf '%s\n' hatchling uv cyclonedx-bom | $(COMPILE) -c $(LOCKS)/dev.txt - -o $(LOCKS)/build.txt
clean: ## remove what setup and runs made
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q uv
# torch stands on a line of its own: a CPU build where one is offered, the registry's CUDA build elsewhere.
$(VENV)/.ready: $(BIN)/uv pyproject.toml $(LOCKS)/dev.txt $(LOCKS)/constraints.txt $(LOCKS)/example.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q -r $(LOCKS)/dev.txt -c $(LOCKS)/constraints.txt torch
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps -r $(LOCKS)/example.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps -e .
	touch $@
