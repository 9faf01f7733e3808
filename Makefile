# One command each to set up, test, lint, measure. Everything lives in .venv; PIP_* variables are honoured.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
NATIVE := $(wildcard csrc/*.h csrc/*.cpp csrc/cpu/*.h csrc/cpu/*.cpp csrc/cpu/kernels/*.cpp \
  csrc/cuda/*.h csrc/cuda/*.cu)
SIMULATED := $(wildcard tests/gpu/*.h tests/gpu/*.cpp)

.PHONY: all demo test test-all gpu-check gpu-test gpu-bench bench bench-compare experiments lint format clean

all: $(READY)

$(READY): pyproject.toml setup.py .ci/constraints.txt $(NATIVE)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint .ci/constraints.txt --editable '.[dev]'
	$(RUN) -m bimt_fast info
	touch $@

demo: $(READY)
	$(RUN) -m bimt_fast train products --out runs/demo --compare-published

test: $(READY)
	$(RUN) -m pytest -m "not slow" -n 2 --dist worksteal

test-all: $(READY)
	BIMT_FAST_TEST_ALL=1 $(RUN) -m pytest -m "not slow"

gpu-check: $(READY)
	$(RUN) benchmarks/gpu_check.py

gpu-test: $(READY)
	$(RUN) -c "import torch; torch.cuda.is_available() or exit('gpu-test: torch sees no GPU')"
	$(RUN) -m pytest tests/test_gpu.py tests/test_parity.py -k "cuda or triton or gpu"

gpu-bench: $(READY)
	$(RUN) benchmarks/gpu_bench.py

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
	$(VENV)/bin/clang-format --dry-run --Werror $(NATIVE) $(SIMULATED)

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE) $(SIMULATED)

clean:
	rm -rf $(VENV) build runs *.egg-info bimt_fast/*.so bimt_fast/_build.json
