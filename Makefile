# Two commands: make reproduce, make test. Both first create .venv and install this package into it.

PYTHON ?= python3
VENV ?= .venv
PROFILE ?= embedded
TEST_JOBS ?= 2

RUN := $(VENV)/bin/python

.PHONY: help reproduce test browser long bench lab check

help:
	@echo "make reproduce [PROFILE=embedded]  every notebook, figure and table of a profile"
	@echo "make test                          the tests"
	@echo "make browser                       notebooks in JupyterLab in headless Chromium (Debian: chromium-driver)"
	@echo "make long                          the laptop profile without a network; needs SEAP_DATA_DIR and time"
	@echo "make bench                         what is waited for, as ratios measured in one run → figures/bench"
	@echo "make lab                           JupyterLab on the notebooks"
	@echo "make check                         style, pins, links, notebooks without outputs"
	@echo "PYTHON=python3.12 chooses the Python that .venv is made with (3.11 or newer)"

reproduce: $(VENV)/installed
	$(RUN) -m seaplib reproduce --profile $(PROFILE)

# One thread a process: the tests share the cores.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(RUN) -m pytest -q -n $(TEST_JOBS) --dist loadfile -m "not browser and not long"

browser: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable ".[test,browser]"
	$(RUN) -m pytest -q -m browser

long: $(VENV)/installed
	$(RUN) -m pytest -q -m long

# All groups, or GROUPS="calibration decoding": see tests/bench/README.md.
bench: $(VENV)/installed
	$(RUN) -m tests.bench $(GROUPS)

lab: $(VENV)/installed
	$(RUN) -m jupyterlab notebooks

check: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m pytest -q tests/project

# Installed again only when what is to be installed has changed.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "seaplib needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable ".[test]"
	@touch $@
