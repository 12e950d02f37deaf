PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test quick lint clean

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

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@
