# Two commands: make reproduce, make test. Both first create .venv and install this package into it.

PYTHON ?= python3
VENV ?= .venv
PROFILE ?= embedded
TEST_JOBS ?= 2

RUN := $(VENV)/bin/python
# Byte code is made where a module is first imported: for every file of every package it takes minutes.
INSTALL = -m pip install --quiet --no-compile --constraint requirements.lock --editable
# So one process imports what a run needs, and compiles UMAP: in the run itself two kernels would do it, both all of it.
FIRST_USE := import datasets, ipykernel.kernelapp, lm_eval.evaluator, lm_eval.tasks, numpy, papermill, umap, seaplib; \
	from transformers.models.auto import modeling_auto; from transformers import LlamaForCausalLM; \
	umap.UMAP(init='pca', n_jobs=1, random_state=0).fit(numpy.random.default_rng(0).normal(size=(100, 8)))
# One thread a process: the tests share the cores.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(RUN) -m pytest -q
SPREAD = -n $(TEST_JOBS) --dist loadfile
CHECKED := tests/project/test_project.py tests/project/test_walls.py

# Where this is set, as in many containers, each of the many processes would compile again all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help reproduce test browser long coverage chaos mutants bench lab docs check ci lock

help:
	@echo "make reproduce [PROFILE=embedded]  every notebook, figure and table of a profile"
	@echo "make test                          the tests"
	@echo "make browser                       notebooks in JupyterLab in headless Chromium (Debian: chromium-driver)"
	@echo "make long                          the laptop profile without a network (SEAP_DATA_DIR), the first steps of training"
	@echo "make coverage                      lines and branches that the tests reach, kernels and workers included"
	@echo "make chaos                         20 processes killed at random and code edited while notebooks run; nothing is lost"
	@echo "make mutants                       small errors in the numeric core, one at a time; do the unit tests notice?"
	@echo "make bench                         what is waited for, as ratios measured in one run → figures/bench"
	@echo "make lab                           JupyterLab on the project, opened at its notebooks"
	@echo "make docs                          tables and numbers of README, docs and cards, and the API pages, written anew"
	@echo "make check                         style, pins, links, who may import whom"
	@echo "make ci                            check, test, and what takes longer: all notebooks, kernels, the wheel, training"
	@echo "make lock                          requirements.lock written anew: the newest versions within the ranges"
	@echo "PYTHON=python3.12 chooses the Python that .venv is made with (3.11 or newer)"

reproduce: $(VENV)/installed
	$(RUN) -m seaplib reproduce --profile $(PROFILE)

test: $(VENV)/installed
	$(PYTEST) $(SPREAD) -m "not browser and not long and not slow"

browser: $(VENV)/installed
	$(RUN) $(INSTALL) ".[test,browser]"
	$(RUN) -m pytest -q -m browser

long: $(VENV)/installed
	$(RUN) -m pytest -q -m long

# coverage starts itself in every process: the tests', the runner's workers, the kernels.
coverage: $(VENV)/installed
	$(RUN) $(INSTALL) ".[test,coverage]"
	$(RUN) -m coverage erase
	OMP_NUM_THREADS=1 $(RUN) -m coverage run -m pytest -q $(SPREAD) -m "not browser and not long"
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

# Its count of kills is kept in tests/chaos.csv.
chaos: $(VENV)/installed
	$(RUN) tests/chaos.py --kills 20

# A seeded sample; survivors and why they survive are in tests/mutants.csv. An hour or two.
mutants: $(VENV)/installed
	$(RUN) $(INSTALL) ".[test,mutants]"
	$(RUN) tests/mutants.py --sample 300 --jobs $(TEST_JOBS)

# All groups, or GROUPS="calibration decoding": see tests/bench/README.md.
bench: $(VENV)/installed
	$(RUN) -m tests.bench $(GROUPS)

lab: $(VENV)/installed
	$(RUN) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks

docs: $(VENV)/installed
	$(RUN) docs/pages.py

check: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(PYTEST) $(CHECKED)

# check, then those tests that it has not run, with those that make test leaves out: wheel, and kernels.
ci: check
	$(PYTEST) $(SPREAD) -m "not browser and not long" $(addprefix --ignore=,$(CHECKED))

# The newest versions that the ranges of pyproject.toml allow, installed apart; then run the tests with them.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet ".[test,browser]"
	$(VENV)-lock/bin/python -m pip freeze --all --exclude pip --exclude seaplib | sed 's/+[a-z0-9.]*$$//' \
		| grep -vE '^(nvidia|cuda|triton)' | sed '1i # Every package of the tested environment; written by make lock.' \
		> requirements.lock
	rm -rf $(VENV)-lock

# Installed again only when what is to be installed has changed.
$(VENV)/installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "seaplib needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(INSTALL) ".[test]"
	$(RUN) -c "$(FIRST_USE)"
	@touch $@
