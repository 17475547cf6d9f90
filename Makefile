PYTHON ?= python3.11
VENV   ?= .venv
CLIPS  ?=
OUT    ?= runs/demo
BIN    := $(VENV)/bin
CORES  := -n $(shell n=$$(env -u OMP_NUM_THREADS nproc); echo $$((n < 4 ? n : 4))) --dist loadfile --no-loadscope-reorder
ENV    := PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false

unexport PYTHON  # which the launch scripts would take for the Python to run with

.PHONY: demo test test-fast gpu-check lint docs clean

demo: $(VENV)/.ready  ## the main job, from raw clips to an emotion: make demo [CLIPS=folder-or-table]
	@$(ENV) python -m finetune.demo "output=$(OUT)" $(if $(CLIPS),"clips=$(CLIPS)")

test: $(VENV)/.ready  ## every test
	@$(ENV) python -m pytest -q $(CORES)

test-fast: $(VENV)/.ready  ## the tests that take seconds
	@$(ENV) python -m pytest -q $(CORES) -m "not slow and not distributed"

gpu-check: $(VENV)/.ready  ## first on a new node: does its GPU compute what a CPU does? minutes
	@$(ENV) python -m pretrain.check

lint: $(VENV)/.ready
	@$(ENV) ruff check . && $(ENV) ruff format --check .

docs: $(VENV)/.ready  ## the pages of docs/ as a site: build/docs/index.html
	@$(ENV) NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25"
	$(BIN)/python -m pip install -q -e ".[dev]"
	$(BIN)/python -m pip install -q --no-deps "resemblyzer==0.1.4"  # its weights are all we read
	touch $@

clean:  ## what make made; results in runs/ stay
	rm -rf $(VENV) build *.egg-info
