# Only Python 3.11 or newer, pip and make are needed; everything else is put into .venv, once.
#   PYTHON=...  the interpreter that .venv is made with      VENV=...  another environment than .venv
#   JOBS=...    processes of the tests, one more than cores  ARGS=...  further words for pytest, bench, jupyter lab or rim reproduce
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null | awk '{ print ($$1 < 4) ? $$1 + 1 : 4 }' || echo 2)
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXCHANGE := .venv-exchange
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help setup reproduce test test-photo test-exchange test-slow docs bench gpu-day release lab clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)  ## make .venv with everything in it

reproduce: $(STAMP)  ## make the tables and figures of the toybox, in figures/toybox/
	$(BIN)/rim reproduce $(ARGS)

test: $(STAMP)  ## run the notebooks' fast cells, then the tests
	$(ONE_THREAD) $(BIN)/nbdev-test nbs --skip-folder-re '^([_.].*|paper)$$' --n-workers $(JOBS) --timing
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-photo: $(STAMP)  ## run the tests of trained weights, where rim weights fetch --keep has brought them
	$(ONE_THREAD) $(BIN)/python -m pytest -n 0 --photo -m photo -rs $(ARGS)

test-exchange: $(EXCHANGE)/.installed  ## read and write what is handed on with the tools' own code
	$(ONE_THREAD) $(BIN)/python -m pytest -n 0 -rs tests/test_exchange.py tests/test_exchange_tools.py $(ARGS)

test-slow: $(STAMP)  ## run the tests that take minutes, one by one, and put their figures onto the page of promises
	$(ONE_THREAD) $(BIN)/python -m pytest -n 0 --slow -m slow $(ARGS)
	$(BIN)/python tests/promises.py

test-all: test test-slow test-photo  ## run every test, one after the other

docs: $(STAMP)  ## build the site into _docs/
	$(BIN)/python docs/build.py

bench: $(STAMP)  ## time our code beside what one would use instead
	$(BIN)/python -m bench $(ARGS)

gpu-day: $(STAMP)  ## print what the paper's profile costs on a GPU, then run all of it, resumable
	$(BIN)/python -m bench.gpu_day $(ARGS)

release: $(STAMP)  ## build sdist, wheel, site and archive of results into dist/ and print their digests
	$(BIN)/python docs/release.py

lab: $(STAMP)  ## open the first tutorial in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=. --LabApp.default_url=/lab/tree/nbs/tutorials/01_first_steps.ipynb $(ARGS)

clean:  ## remove what was built; the environment, the store and the figures stay
	rm -rf _docs _proc jupyter_execute build dist .pytest_cache .hypothesis
	find rim nbs tests bench docs -name __pycache__ -prune -exec rm -rf {} +
	find . -name '*.partial.ipynb' -not -path './.venv/*' -delete
	rm -rf figures/*/.partial

# Labelling tools want other versions than we: an environment of their own, which looks into ours for torch.
$(EXCHANGE)/.installed: $(STAMP) tests/exchange.txt
	test -x $(EXCHANGE)/bin/python || $(BIN)/python -m venv $(EXCHANGE)
	$(BIN)/python -m uv pip install --python $(EXCHANGE)/bin/python --no-deps -r tests/exchange.txt || \
		$(EXCHANGE)/bin/python -m pip install --disable-pip-version-check --no-deps -r tests/exchange.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$($(EXCHANGE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_rim.pth"
	@touch $@

# uv resolves and unpacks several times faster than pip; where it cannot (a mirror that only pip is set up for), pip does it.
$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed, got '$(PYTHON)'; name one with PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m venv --without-pip --clear $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv || true
	$(BIN)/python -m uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]' || \
		$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
