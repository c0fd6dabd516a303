# The front door: `make` lists what can be made. Every step is quick when nothing has changed.
# `make book` goes from a fresh clone to book/_build/html/index.html.

VENV       ?= .venv
# An interpreter for the environment; empty: the first that fits of python3, python3.13, ...
PYTHON     ?=
# Options for pip that choose a build of torch, for instance a smaller one without CUDA.
TORCH_ARGS ?=
DATA       ?= data/icons
SCALE      ?= nano
# Image-text shards for a scale that trains on your own: SCALE=gpu SHARDS='data/{000000..000331}.tar'
SHARDS     ?=
CORES      ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# Set to anything to use only what earlier downloads left in the cache.
OFFLINE    ?=
PORT       ?= 8000
# Options for the resolver: --upgrade, or --upgrade-package NAME.
LOCK_ARGS  ?=

PY      = $(VENV)/bin/python
CLIPLIB = $(PY) -m cliplib
PAGE    = book/_build/html/index.html

export VENV PYTHON TORCH_ARGS

.DEFAULT_GOAL := help
.PHONY: help env corpus study book serve test browser-test bench coverage lint format lock clean

help: ## list the targets
	@printf 'make TARGET [NAME=value ...]\n\n'
	@awk -F ' ?## ?' '/^[a-z-]+:.*## / {sub(/:.*/, "", $$1); printf "  %-13s %s\n", $$1, $$2}' Makefile
	@printf '\nNames: VENV PYTHON TORCH_ARGS DATA SCALE SHARDS CORES OFFLINE PORT LOCK_ARGS\n'

env: ## install everything into VENV (.venv), once: about 3.5 GB to download
	@.ci/env

corpus: env ## fetch the icons and write the image-text shards into DATA (data/icons)
	@$(CLIPLIB) corpus --out $(DATA) $(if $(OFFLINE),--offline)

study: corpus ## train and evaluate the runs of SCALE (smoke, nano, micro, ...) on CORES cores
	@$(CLIPLIB) study --scale $(SCALE) --cores $(CORES) --data $(DATA) $(if $(SHARDS),--shards '$(SHARDS)')

book: study ## run the study, then build the book: book/_build/html/index.html
	@$(CLIPLIB) book --scale $(SCALE) $(if $(OFFLINE),--offline)

serve: ## show the built book at PORT (8000) of this machine
	@test -f $(PAGE) || { echo 'serve: there is no book yet; run `make book` first' >&2; exit 2; }
	@$(PY) -m http.server --bind 127.0.0.1 --directory $(dir $(PAGE)) $(PORT)

test: corpus ## run the tests; they need no browser
	@$(PY) -m pytest

browser-test: env ## open the built book in a headless Chromium: make book first
	@test -f $(PAGE) || { echo 'browser-test: no book yet; run `make book` first' >&2; exit 2; }
	@$(PY) -m pytest -o addopts= -q --strict-markers tests/browser

bench: corpus ## time our code against its peers in one run (well over an hour): book/data/bench.json
	@OMP_NUM_THREADS=1 CLIPLIB_CORPUS=$(DATA) $(PY) -m cliplib.bench --out book/data/bench.json

coverage: env ## simulate studies, count how often intervals hold: book/data/coverage.csv (half an hour)
	@OMP_NUM_THREADS=1 $(PY) -m cliplib.laws.coverage --out book/data/coverage.csv

lint: env ## check style, formatting and types, and that notebooks carry no outputs
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/nbstripout --verify $(wildcard notebooks/*.ipynb)

format: env ## rewrite code and notebooks in the project's style
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format
	@$(VENV)/bin/nbstripout $(wildcard notebooks/*.ipynb)

lock: env ## derive requirements.lock and environment.yml anew from pyproject.toml
	@$(PY) .ci/lock $(LOCK_ARGS)

clean: ## remove the built book and the tools' caches; VENV, DATA and runs/ stay
	@rm -rf book/_build book/runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
