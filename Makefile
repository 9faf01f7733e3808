# One command each to set up, test, lint, measure. Everything lives in .venv; PIP_* variables are honoured.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
NATIVE := $(wildcard csrc/*.h csrc/*.cpp csrc/cpu/*.h csrc/cpu/*.cpp csrc/cpu/kernels/*.cpp \
  csrc/cuda/*.h csrc/cuda/*.cu)

.PHONY: all demo test bench bench-compare experiments lint format clean

all: $(READY)

$(READY): pyproject.toml setup.py .ci/constraints.txt $(NATIVE)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint .ci/constraints.txt --editable '.[dev]'
	$(RUN) -m bimt_fast info
	touch $@

demo: $(READY)
	$(RUN) -m bimt_fast train products --out runs/demo --compare-published

test: $(READY)
	$(RUN) -m pytest -m "not slow"

experiments: $(READY)
	$(RUN) -m pytest -m slow -s

bench: $(READY)
	$(RUN) benchmarks/run.py
	$(RUN) benchmarks/growth.py

bench-compare: $(READY)
	$(RUN) benchmarks/compare.py $(REV)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(NATIVE)

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE)

clean:
	rm -rf $(VENV) build runs *.egg-info bimt_fast/*.so bimt_fast/_build.json
