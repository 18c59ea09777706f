PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The driver decides which of the two exclusive builds of ONNX Runtime is installed.
RUNTIME := $(if $(wildcard /proc/driver/nvidia/version),gpu,cpu)

export BENTOML_DO_NOT_TRACK := true
export ORT_DISABLE_TELEMETRY := 1
export NO_MKDOCS_2_WARNING := 1
# Tests begin hundreds of processes: what they import is compiled once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo serve docs check test test-full test-release test-container lock clean

help:
	@echo "make demo            train, export, prove and serve a small model, end to end"
	@echo "make serve           serve the model that the repository ships"
	@echo "make docs            build the documentation into build/site"
	@echo "make check           ruff and mypy"
	@echo "make test            check, and the tests: under 6 minutes on two cores"
	@echo "make test-full       the slow rest of the tests"
	@echo "make test-release    those of them that install the wheel, extra by extra"
	@echo "make test-container  build the CPU image, run it locked down, and verify it"
	@echo "make lock            lock anew what the images install"
	@echo "make clean           remove what make made"

$(VENV)/toolkit: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[train,serve,package,batch,dicom,$(RUNTIME)]'
	@touch $@

$(VENV)/dev: $(VENV)/toolkit
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[train,serve,package,batch,dicom,$(RUNTIME),docs,dev]'
	@touch $@

demo: $(VENV)/toolkit
	@$(BIN)/python examples/demo.py

serve: $(VENV)/toolkit
	@$(BIN)/bentoml serve

docs: $(VENV)/dev
	@$(BIN)/mkdocs build

check: $(VENV)/dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

test: check
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not full and not container" -n 2 --dist loadfile

test-full: $(VENV)/dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "full and not alone" -n 2 --dist loadfile
	@$(BIN)/python -m pytest -m "full and alone"

test-release: $(VENV)/dev
	@$(BIN)/python -m pytest -m full tests/release

test-container: $(VENV)/dev
	@$(BIN)/python -m pytest -m container -rs tests/container

# For every platform and Python that the extras allow; --upgrade takes what is newest.
lock: $(VENV)/dev
	@for runtime in cpu gpu; do \
	  $(BIN)/uv pip compile pyproject.toml --extra serve --extra dicom --extra $$runtime \
	    --universal --python-version 3.11 --generate-hashes --upgrade --no-header --no-annotate \
	    --quiet --output-file bento/image/requirements-$$runtime.txt || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
