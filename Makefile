.DEFAULT_GOAL := help
PYTHON ?= .venv/bin/python

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install:  ## a virtual environment with everything that development needs
	python3 -m venv .venv && .venv/bin/pip install -e ".[dev,kernels]"

fix:  ## let ruff mend what it can
	$(PYTHON) -m ruff check --fix . && $(PYTHON) -m ruff format .

check:  ## lint, format and types, changing nothing
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

test:  ## the quicker half of the tests: no network, no GPU, five minutes
	$(PYTHON) -m pytest -n logical

test-thorough:  ## the other half: diffusers, CUDA on a simulated device, every option with every model
	$(PYTHON) -m pytest -n logical -m "thorough and not slow and not weights and not gpu"

test-all:  ## the slow ones too: full-size models, training smoke run
	$(PYTHON) -m pytest -m "not weights and not gpu"

fuzz:  ## an hour of inputs that no program writes, for every parser; SANA_FUZZ_INPUTS=20000 counts instead
	$(if $(SANA_FUZZ_INPUTS),,SANA_FUZZ_SECONDS=3600) $(PYTHON) -m pytest tests/fuzz

parity:  ## agreement with diffusers, full sizes included
	$(PYTHON) -m pytest tests/parity -m "not weights and not gpu"

bench:  ## start-up times, written to benchmarks/results/
	$(PYTHON) -m benchmarks.startup

rehearse-gpu:  ## the CUDA path on a simulated device, with planted faults: no GPU, minutes
	$(PYTHON) -m pytest tests/rehearsal tests/unit/bench/test_gpu_suite.py -m "not weights and not gpu"

bench-gpu:  ## all that needs a CUDA device, the most telling first, in MINUTES=8; resumes where it ended
	$(PYTHON) -m benchmarks.gpu_suite --minutes $(or $(MINUTES),8) $(if $(OUT),--out $(OUT)) $(if $(REHEARSE),--rehearse)

docs:  ## docs/cli.md, from the commands themselves
	$(PYTHON) -m typer sana_cli.cli utils docs --name sana --output docs/cli.md

site:  ## the documents as pages in site/, every link checked
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

.PHONY: help install fix check test test-thorough test-all fuzz parity bench docs site bench-gpu rehearse-gpu
