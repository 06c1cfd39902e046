# Every target makes the virtual environment it needs from pyproject.toml, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint test-slow test-web test-mteb test-ray test-extras docs compare mutation fuzz bench bench-quick gpu-check gpu-pretrain clean

demo: $(READY)  ## the main job on built-in images, offline
	$(BIN)/fewvit demo

test: lint  ## style, types, and the whole suite, a process for each core
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=40

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-slow: $(READY)  ## minutes: repeated kills, full-size images
	$(BIN)/python -m pytest -m slow --timeout=1800

test-web: $(READY)  ## the search page in a browser; installs the distribution's Chromium where there is none
	command -v chromium >/dev/null && command -v chromedriver >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[web]'
	$(BIN)/python -m pytest -m web tests/web

test-mteb: $(READY)  ## beside the installed mteb package: the same draws, scores and features
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[mteb]'
	$(BIN)/python -m pytest -m mteb tests/parity

test-ray: $(READY)  ## a sweep on a local Ray cluster, one of whose nodes is killed; installs ray
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[ray]'
	$(BIN)/python -m pytest -m ray tests/faults/test_ray_faults.py --timeout=900

test-extras: $(READY)  ## each extra resolves with wheels alone on every Python that is supported; asks the package index; the package tabpfn on untrained weights
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/python -m pytest -m extras tests/test_extras.py
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[tabpfn]'
	$(BIN)/python -m pytest -m extras tests/test_tabpfn.py

docs: $(READY)  ## the documentation as a site, in site/; every link and anchor must hold
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict --quiet

compare: $(READY)  ## OLD=revision: whether it gave the same features, files and results; NEW=, ARGS=--quick
	$(BIN)/python tests/compare_checkouts.py $(or $(OLD),HEAD) $(NEW) $(ARGS)

mutation: $(READY)  ## a seeded sample of mutants of what computes
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[mutation]'
	$(BIN)/python -m tests.mutation

fuzz: $(READY)  ## ten thousand damaged and hostile files, from a seed; ARGS="bundle --seed 3"
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

bench: $(READY)  ## every claim of speed, beside its peer; writes benchmarks/results
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.run_all

bench-quick: $(READY)
	$(BIN)/python -m benchmarks.run_all --quick

gpu-check:  ## needs no installation: runs with the packages that are there
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu_check

gpu-pretrain:  ## the next bundled backbone on one GPU, and whether it is better; ARGS=--rehearse on a CPU, in small
	PYTHONPATH=. $(PYTHON) -m benchmarks.gpu_pretrain $(ARGS)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test,lint]'
	touch $(READY)

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
