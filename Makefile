# make run: the panel on http://127.0.0.1:8000/ . make test: all tests. See README.md.
# Both read PORT, DATABASE_URL (default: an embedded PostgreSQL) and DATA_DIR (default: var/).

SHELL := /bin/sh
VENV := .venv
PYTHON := $(VENV)/bin/python

.PHONY: run test coverage lint types migrations-check benchmark mutation installation architecture hooks lock clean

# PostgreSQL itself is installed only where DATABASE_URL names no server.
NEEDED := $(if $(DATABASE_URL),production,embedded)
run: $(VENV)/installed-$(NEEDED)
	@exec $(PYTHON) manage.py serve

# Two processes; the one that finishes first takes over tests of the other. More processes would
# need more connections than PostgreSQL allows.
test: $(VENV)/installed-dev
	$(PYTHON) -m pytest --numprocesses 2 --dist worksteal $(ARGS)

# Checks that the last `make test ARGS=--cov` covered enough of the rules of money, and of the rest.
coverage: $(VENV)/installed-dev
	$(PYTHON) -m tests.coverage

lint: $(VENV)/installed-dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m deptry .
	$(PYTHON) -m deptry . --exclude '\.venv' --ignore DEP004

types: $(VENV)/installed-dev
	$(PYTHON) -m mypy

migrations-check: $(VENV)/installed-dev
	$(PYTHON) manage.py makemigrations --check --dry-run

# The table of docs/benchmarks.md, on a new embedded PostgreSQL or the server of DATABASE_URL. Takes
# some minutes, and some gigabytes where temporary files are (--scratch). All of the page:
# ARGS="--servers 18 15 --write"; ARGS=--help lists the options.
benchmark: $(VENV)/installed-dev
	$(PYTHON) -m tests.benchmarks $(ARGS)

# Checks that the tests notice small mistakes in the rules of money: docs/mutation.md.
mutation: $(VENV)/installed-dev
	$(PYTHON) -m tests.mutation $(ARGS)

# Sets the panel up on a bare Debian, as docs/deployment.md says, and uses it. Needs root and some
# minutes. ARGS=--help lists the options.
installation: $(VENV)/installed-dev
	$(PYTHON) -m tests.installation $(ARGS)

# Draws the picture and the table of imports in docs/architecture.md from the code.
architecture: $(VENV)/installed-dev
	$(PYTHON) -m tests.architecture

# Has git check each commit as .pre-commit-config.yaml says.
hooks: $(VENV)/installed-dev
	$(VENV)/bin/pre-commit install

# An environment whose Python no longer runs is made again.
ifneq ($(shell $(PYTHON) -c 'print(1)' 2>/dev/null),1)
$(shell rm -f $(VENV)/created $(VENV)/installed-*)
endif

$(VENV)/created:
	@python=$$(sh .ci/find-python) && echo "Setting up $(VENV) with $$python …" && \
	rm -rf $(VENV) && "$$python" -m venv $(VENV) && touch $@

$(VENV)/installed-production $(VENV)/installed-embedded: \
$(VENV)/installed-%: requirements/%.txt | $(VENV)/created
	@echo "Installing what the panel needs, some minutes once …"
	@sh deploy/install-packages $(PYTHON) $<
	@touch $@

$(VENV)/installed-dev: requirements/development.txt | $(VENV)/created
	@echo "Installing what the tests need, some minutes once …"
	@sh deploy/install-packages $(PYTHON) requirements/development.txt
	@touch $@

# Resolves the dependencies of pyproject.toml again, with hashes and without addresses of package
# indexes. Needs uv (`pip install uv`).
LOCK := uv pip compile pyproject.toml --universal --python-version 3.12 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet
lock:
	$(LOCK) --output-file requirements/production.txt
	$(LOCK) --extra embedded --output-file requirements/embedded.txt
	$(LOCK) --extra embedded --group dev --output-file requirements/development.txt

clean:
	rm -rf $(VENV) .coverage .pytest_cache .mypy_cache .ruff_cache
