# Every chore of this project, each in one word. `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test determinism engines lint format docs bench sanitize fuzz build clean

demo: $(VENV)/installed ## install into .venv and tell the whole story on the embedded model
	$(BIN)/halfpint demo

test: $(VENV)/tested ## install the tests' needs and run them
	$(BIN)/python -m pytest -n 2 --dist loadfile

determinism: $(VENV)/tested ## run the tests that promise bits under the kernels of other processors
	$(BIN)/python tests/determinism.py

engines: $(VENV)/tested ## install llama.cpp, transformers and vLLM beside the project, for the tests that run them
	$(BIN)/python tests/engines/install.py

lint: $(VENV)/linted ## style, types, layers, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/linted ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed ## write the generated pages of docs/ anew
	$(BIN)/python docs/generate.py

bench: $(VENV)/tested ## the claims of README and docs, measured here
	$(BIN)/python benchmarks/run.py

sanitize: $(VENV)/tested ## the native module under the address, undefined-behaviour and thread sanitizers
	$(BIN)/python -m pip install --quiet nanobind ninja
	PATH="$(abspath $(BIN)):$$PATH" PYTHON=$(BIN)/python .ci/sanitize

fuzz: $(VENV)/tested ## every reader against mutated files, ten minutes each
	for target in fuzz/fuzz_*.py; do $(BIN)/python $$target --seconds 600 || exit 1; done

SOURCES := pyproject.toml CMakeLists.txt $(shell find native src -name '*.py' -o -name '*.?pp' 2>/dev/null)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet .
	touch $@

# Not `.[test]`: that would compile the package once more.
EXTRA := import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -c '$(EXTRA)' test > $(VENV)/test.txt
	$(BIN)/python -m pip install --quiet -r $(VENV)/test.txt
	touch $@

$(VENV)/linted: $(VENV)/tested
	$(BIN)/python -c '$(EXTRA)' lint > $(VENV)/lint.txt
	$(BIN)/python -m pip install --quiet -r $(VENV)/lint.txt
	touch $@

clean: ## remove what was built and installed
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
