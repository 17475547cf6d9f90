PYTHON ?= python3.11
VENV   ?= .venv
CLIPS  ?=
OUT    ?= runs/demo
BIN    := $(VENV)/bin
CORES  := -n $(shell n=$$(env -u OMP_NUM_THREADS nproc); echo $$((n < 4 ? n : 4))) --dist loadfile
ENV    := PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-fast lint clean

demo: $(VENV)/.ready  ## the main job, from raw clips to an emotion: make demo [CLIPS=folder-or-table]
	@$(ENV) python -m finetune.demo "output=$(OUT)" $(if $(CLIPS),"clips=$(CLIPS)")

test: $(VENV)/.ready  ## every test
	@$(ENV) python -m pytest -q $(CORES)

test-fast: $(VENV)/.ready  ## the tests that take seconds
	@$(ENV) python -m pytest -q $(CORES) -m "not slow and not distributed"

lint: $(VENV)/.ready
	@$(ENV) ruff check . && $(ENV) ruff format --check .

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade "pip>=25"
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

clean:  ## what make made; results in runs/ stay
	rm -rf $(VENV) build *.egg-info
