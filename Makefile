# Each target sets up $(VENV) by itself and works alone from a bare clone: Python >= 3.11, pip, make.
PYTHON ?= python3
VENV ?= .venv
OUT ?= out
WORKERS ?= 2

BIN := $(VENV)/bin
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
BENCH := $(VENV)/.bench
PINS := pyproject.toml requirements.lock
SOURCES := jaxmd_sign tests notebooks docs $(wildcard benchmarks)
NOTEBOOKS := $(sort $(basename $(wildcard notebooks/*.ipynb notebooks/*.py)))

# What no file may hold, written so that this file does not match it: package hosts, machine paths.
FORBIDDEN := pypi[.]org|pythonhosted[.]org|anaconda[.](org|com)|index[-]url|://[^ ]*/simple\b
FORBIDDEN := $(FORBIDDEN)|(^|[^[:alnum:]_.])/(work|root|home|Users|opt|mnt)/

.PHONY: help reproduce test lint format notebooks docs benchmark benchmark-quick lock clean distclean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:  ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 18
	@echo "  Settings: PYTHON=$(PYTHON) VENV=$(VENV) OUT=$(OUT) WORKERS=$(WORKERS)"

reproduce: $(CORE)  ## the figures of the source and their numbers, into $(OUT); installs the core only
	$(BIN)/jaxmd-sign reproduce --out $(OUT)

test: $(DEV)  ## the test suite, then every notebook from top to bottom
	$(BIN)/python -m pytest -n $(WORKERS) tests
	$(if $(NOTEBOOKS),$(BIN)/python -m pytest -n $(WORKERS) --nbmake notebooks)

lint: $(DEV)  ## ruff, pyright, notebooks in step with their .py, no package host or machine path
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	@for nb in $(NOTEBOOKS:=.ipynb); do \
	  $(BIN)/jupytext --quiet --to py:percent --opt notebook_metadata_filter=-all --output - $$nb \
	    | diff - $${nb%.ipynb}.py || { echo "$$nb and its .py differ: make format"; exit 1; }; done
	@! { git ls-files -z --cached --others --exclude-standard 2>/dev/null \
	  || find . -type f ! -path './.*/*' -print0; } \
	  | xargs -0 grep -nIsE '$(FORBIDDEN)' || { echo "package host or machine path above"; exit 1; }

format: $(DEV)  ## rewrite the sources in the house style; notebooks follow their .py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(NOTEBOOKS),$(BIN)/jupytext --quiet --update --to ipynb $(NOTEBOOKS:=.py))

notebooks: format  ## run every notebook and keep its outputs
	$(BIN)/python -m pytest --nbmake --overwrite notebooks

docs: $(DEV)  ## the site, into $(OUT)/site; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir $(OUT)/site
	@echo "$(OUT)/site/index.html"

benchmark: $(BENCH)  ## against other solvers, into benchmarks/results, README and docs; 15 to 30 minutes
	$(BIN)/python -m benchmarks

benchmark-quick: $(BENCH)  ## less of the same, in a few minutes, into a file of its own
	$(BIN)/python -m benchmarks --quick

lock: $(CORE)  ## solve the versions of every extra but cuda and bench again
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 \
	  --extra all --extra dev --no-header --no-annotate --output-file requirements.lock

clean:  ## remove outputs and caches
	rm -rf $(OUT) build dist .pytest_cache .ruff_cache .hypothesis
	find $(wildcard $(SOURCES)) -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove the virtual environment too
	rm -rf $(VENV)

# Set-up. Done once; done again when the pins change. `dev` goes on top of the core.
define SETUP
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "Python >= 3.11 is needed: make PYTHON=..."; exit 1; }
@echo "Setting up $(VENV) with $(1) ..."; start=$$(date +%s); set -e; \
if ! test -x $(BIN)/python; then $(PYTHON) -m venv $(VENV) \
  || { $(PYTHON) -m venv --without-pip $(VENV); \
       $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }; fi; \
$(BIN)/python -m pip install --quiet -c requirements.lock $(1); \
touch $(CORE) $@; echo "Set-up took $$(( $$(date +%s) - start )) s."
endef

$(CORE): $(PINS)
	$(call SETUP,-e .)

$(DEV): $(PINS)
	$(call SETUP,-e '.[dev]')

# Each peer by itself: one that cannot be had (numbalsoda needs a Fortran compiler) is left out, and
# the results say why. PyTorch, for its size, only by hand: pip install -e '.[bench-torch]'.
LIST_PEERS := import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  print(*project["optional-dependencies"]["bench"], sep="\n")
$(BENCH): $(PINS)
	$(call SETUP,-e '.[store]')
	@$(BIN)/python -c '$(LIST_PEERS)' | while read -r peer; do \
	  CMAKE_POLICY_VERSION_MINIMUM=3.5 $(BIN)/python -m pip install --quiet -c requirements.lock \
	    "$$peer" </dev/null || echo "$$peer could not be installed; the others are timed."; done
