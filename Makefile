# make demo and make test are all that a fresh machine needs, with 2.1 GB of disk space for .venv, which each sets up by itself
# (more where pip brings a PyTorch with CUDA). make release needs git, too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint docs release clean

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
	$(BIN)/python scripts/check_size.py

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	rm -rf docs/_build docs/how-to
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html
	@echo "look at docs/_build/html/index.html"

# The sdist, the wheel made of it, and what a user gets who installs that wheel and no extra. Built of a copy of the files that Git
# knows, with tools and a clean environment of their own: nothing that lies about comes in.
release:
	rm -rf dist build/source build/tools build/clean
	mkdir -p build/source
	git ls-files -z | tar --create --null --files-from=- | tar --extract --directory build/source
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet --constraint constraints.txt build mypy twine
	build/tools/bin/python -m build --outdir dist build/source
	build/tools/bin/twine check --strict dist/*
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	build/clean/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	build/tools/bin/python tests/scripts/release_check.py build/clean/bin/python dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs docs/_build docs/how-to build dist
