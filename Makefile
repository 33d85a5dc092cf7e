# Everything a newcomer needs: `make demo` and `make test` do all set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard csrc/*) CMakeLists.txt pyproject.toml constraints.txt
MODULES := $(shell find dpid triton_kernels -name '*.py' | LC_ALL=C sort | cksum | cut -d ' ' -f 1)
CXX_FILES := $(wildcard csrc/*.h csrc/*.cpp csrc/*.cu tests/cpp/*.cpp tests/cpp/*/*.h)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
UV := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test pages docs sanitize lint format bench calibrate train clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## install into .venv, make a picture with the embedded model and explain it (in demo/)
	$(BIN)/dpid demo --out demo/

test: $(VENV)/.installed-test  ## install into .venv and run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

pages: $(VENV)/.installed-test  ## the tests of the page of `dpid app` in a browser (Chromium), in some minutes
	DPID_BROWSER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/app/test_page.py $(if $(ONLY),-k $(ONLY))

docs: $(VENV)/.installed-docs $(VENV)/.installed-test  ## the documentation, in build/site; a broken link fails
	$(BIN)/python benchmarks/measurements.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

sanitize:  ## the C++ tests under sanitizers of addresses and undefined behaviour; on an emulated GPU, of races
	mkdir -p build/sanitize
	$(CXX) -std=c++17 -O1 -g -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all \
	  -DDPID_SANITIZE -Icsrc tests/cpp/test_ops.cpp csrc/noisy_channel_cpu.cpp csrc/accumulate_cpu.cpp -fopenmp \
	  -o build/sanitize/test_ops
	build/sanitize/test_ops
	$(CXX) -std=c++20 -O1 -g -Wall -Wextra -Wno-unknown-pragmas -Werror -fsanitize=thread -DDPID_SANITIZE -Icsrc \
	  -Itests/cpp/cuda_on_cpu tests/cpp/test_cuda_ops.cpp csrc/noisy_channel_cpu.cpp csrc/accumulate_cpu.cpp \
	  -pthread -o build/sanitize/test_cuda_ops
	build/sanitize/test_cuda_ops

lint: $(VENV)/.installed-dev  ## ruff, mypy --strict, import-linter, clang-format, workflows, citation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --offline --quiet .github/workflows

format: $(VENV)/.installed-dev  ## rewrite all files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

bench: $(VENV)/.installed-test  ## measure the embedded model; into benchmarks/results.csv and the pages that show it
	$(BIN)/python benchmarks/bench_model.py
	$(BIN)/python benchmarks/measurements.py

calibrate: $(VENV)/.installed-test  ## how often intervals contain the truth, in ten minutes; likewise
	$(BIN)/python benchmarks/bench_truth.py --count 200 --samples 32
	$(BIN)/python benchmarks/calibrate.py
	$(BIN)/python benchmarks/measurements.py

train: $(VENV)/.installed  ## train the embedded model again (hours on a CPU; resumes), then copy train/out
	$(BIN)/python -m dpid.zoo.emoji.train --work train/work --out train/out

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Editable: an edit of a Python file counts at once. Installed again where one was moved, for the list of modules is part
# of it, or where what is compiled has changed.
$(VENV)/.installed: $(VENV)/.modules-$(MODULES) $(NATIVE)
	$(PIP) -C cmake.define.CMAKE_COMPILE_WARNING_AS_ERROR=ON -e .
	touch $@

$(VENV)/.modules-$(MODULES): | $(VENV)/bin/python
	rm -f $(VENV)/.modules-*
	touch $@

# What the package itself needs, torch above all, comes from where pip is told to look; the rest comes faster by uv, which
# compiles it, as pip does: what Python says of old code then is no error of a test.
$(BIN)/uv: $(VENV)/.installed
	$(PIP) uv
	touch $@

$(VENV)/.installed-test: $(BIN)/uv
	$(UV) "dpid[test,pipelines,pages]"
	touch $@

$(VENV)/.installed-%: $(BIN)/uv
	$(UV) "dpid[$*]"  # of the package that is installed: no second build
	touch $@
