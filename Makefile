# The README's two commands are `make run` and `make test`. Each sets everything up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EVERYTHING := .[train,bench,cluster,dev,docs]
# What `make run` installs: all of it where a GPU can use it, elsewhere what serves with ONNX Runtime.
GPU := $(shell nvidia-smi -L 2>/dev/null | grep -c GPU)
RUN_SET := $(if $(filter-out 0,$(GPU)),.[torch],.)
SERVES := $(VENV)/.serves$(if $(filter-out 0,$(GPU)),-gpu)
# CI takes the very files whose hashes are known.
LOCK := $(if $(CI),--constraint lock.txt)
PYTEST := $(BIN)/python -m pytest
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml
# Tests in so many processes, a file's all in one, in the order of tests/conftest.py; what has a GPU to itself or measures
# runs in one (make drill).
WORKERS ?= 2
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 40

.PHONY: run test test-slow drill check site format clean

run: $(SERVES)
	$(BIN)/stmixer serve $(ARGS)

test: $(READY)
	$(PYTEST) $(PARALLEL) -m "not slow and not drill" $(ARGS)

test-slow: $(READY)
	$(PYTEST) $(PARALLEL) -m "slow and not drill" $(ARGS)

drill: $(READY)
	$(BIN)/uv pip install --quiet --constraint constraints.txt --editable '.[drill]'
	$(PYTEST) -m drill $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -q tests/test_walls.py
	$(SITE) --quiet

# The documents, to out/site/index.html.
site: $(READY)
	$(SITE)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Installed again whenever the project's needs or the pins change. Where everything is, that serves too.
$(READY): pyproject.toml constraints.txt .ci/uv.txt
	$(call install,$(EVERYTHING))
	touch $@ $(VENV)/.serves $(VENV)/.serves-gpu

$(SERVES): pyproject.toml constraints.txt .ci/uv.txt
	$(call install,$(RUN_SET))
	touch $@

define install
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .ci/uv.txt
$(BIN)/uv pip install --quiet --constraint constraints.txt $(LOCK) --editable '$(1)'
endef

clean:
	rm -rf $(VENV) build out *.egg-info .mypy_cache .ruff_cache .pytest_cache
