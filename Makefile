# Each target makes .venv itself when it is missing, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
# Smalti beside the packages that benchmarks compare it with.
PEERS := .venv-peers
# For tests and benchmarks: the command chooses for itself. Spinning threads slow whatever else runs.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test slow coverage lint docs wheel bench peers results clean

demo: .venv/.installed
	$(BIN)/smalti demo --out demo

test: .venv/.dev lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

slow: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# Tracing makes the tests a third slower.
coverage: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=90

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# The documentation as a site, build/site/index.html; warnings are errors.
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# A wheel with the documentation, dist/smalti-*.whl.
wheel: docs
	rm -rf src/smalti/app/site && cp -r build/site src/smalti/app/site
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist . ; rm -rf src/smalti/app/site

# Small models sample on one thread; the rest is measured on one and on two.
ALONE := start memory long realtime sampling rollout wavenet
BOTH := search quantizers step resnet priors folder ragged photos

bench: $(PEERS)/.installed
	set -e; for name in $(ALONE) $(BOTH); do OMP_NUM_THREADS=1 $(PEERS)/bin/python benchmarks/$$name.py; done
	set -e; for name in $(BOTH); do OMP_NUM_THREADS=2 $(PEERS)/bin/python benchmarks/$$name.py --threads 2; done
	$(PEERS)/bin/python benchmarks/busy.py

peers: $(PEERS)/.installed

results: .venv/.installed
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/compared.py
	$(BIN)/python benchmarks/coupled.py

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audio,video]'
	touch $@

.venv/.dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(PEERS)/.installed: pyproject.toml constraints.txt benchmarks/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audio,video]' -r benchmarks/peers.txt
	touch $@

clean:
	rm -rf .venv $(PEERS) demo build dist src/*.egg-info
