# make demo and make test are all that a fresh machine needs; each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint docs clean

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/rieszflow train digits --preset cpu --out runs/demo
	$(BIN)/rieszflow evaluate runs/demo
	@echo "look at runs/demo/report.html"

# Two tests at a time, each on one thread; `$(BIN)/python -m pytest tests/test_x.py` runs some as usual.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/pdoc --math --docformat google -o docs/api rieszflow rieszflow.errors rieszflow.data rieszflow.permutations rieszflow.metrics rieszflow.report rieszflow.generative rieszflow.directions rieszflow.engines

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs docs/api build
