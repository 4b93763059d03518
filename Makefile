# What a fresh machine needs is here, python3 and make: `make run`, `make test`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# As many workers as tests/conftest.py says.
TEST_ARGS ?= -n auto --dist worksteal

# How long `make run` runs, such as FOR=90s; until Ctrl-C when empty.
FOR ?=

# Locks are made from the public index alone, whatever the configuration of pip adds, so that their hashes hold everywhere.
LOCK := PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_EXTRA_INDEX_URL= CUSTOM_COMPILE_COMMAND="make lock" \
	$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url \
	--no-emit-find-links --no-emit-trusted-host --no-annotate

# npm packages of the tests; the stamp goes with them.
WASM := tests/wasm/node_modules/.stamp

.PHONY: run test check format bench notebooks lock venv wasm clean
.DEFAULT_GOAL := run

run: $(VENV)/.run
	$(BIN)/fleetpulse run --demo-fleet 20 $(if $(FOR),--for $(FOR))

test: $(VENV)/.dev $(WASM)
	$(BIN)/pytest $(TEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.dev
	$(BIN)/python -m bench

# Strips the notebooks of what they printed, and draws their pictures in docs/images anew.
notebooks: $(VENV)/.dev
	$(BIN)/python -m notebooks.pictures

lock: $(VENV)/.dev
	$(LOCK) --extra build --extra frames --output-file requirements.txt pyproject.toml
	$(LOCK) --extra build --extra frames --extra dev --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml
	$(BIN)/npm install --prefix tests/wasm --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund --loglevel=error

# Everything that working on fleetpulse takes.
venv: $(VENV)/.dev $(WASM)

# TimescaleDB for tests, compiled to WebAssembly.
wasm: $(WASM)

# The stamps say which locks the environment was made from: nothing is done when they are newer.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: $(PYTHON) is Python %d.%d, fleetpulse needs 3.11 or later: install it, or name one with make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "error: $(PYTHON) cannot make virtual environments: install its venv module (Debian: apt install python3-venv)" >&2; \
		exit 1; }

$(VENV)/.run: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# The lock holds hashes and no addresses: the packages come from whatever registry npm is told of.
$(WASM): tests/wasm/package-lock.json tests/wasm/package.json | $(VENV)/.dev
	$(BIN)/npm ci --prefix tests/wasm --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

clean:
	rm -rf $(VENV) tests/wasm/node_modules build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
