# Every target sets up .venv first, if it is missing or stale.
VENV := .venv
PYTHON := $(abspath $(VENV))/bin/python
# two workers with one thread each: torch's own threads would fight over the cores
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-compare demo-new-word test lint format test-slow test-recipes corpus clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 16

venv: ## set up .venv from setup.py and constraints.txt
	@scripts/setup_venv.sh $(VENV)

demo: venv ## train and translate the bundled corpus (Spanish to English), about a quarter of an hour
	@PYTHON=$(PYTHON) OMP_NUM_THREADS=2 examples/demo/run.sh

demo-compare: demo ## the same, and fairseq's softmax on the same text beside it
	@PYTHON=$(PYTHON) OMP_NUM_THREADS=2 PREP_DIR=demo-out/prep RECIPE=softmax OUT_DIR=demo-out/softmax \
		examples/demo/run.sh
	@$(PYTHON) examples/lib/results_table.py demo-out/results.jsonl demo-out/softmax/results.jsonl

demo-new-word: demo ## the demonstration's model learns a word while it runs; then you may type
	@$(PYTHON) examples/demo/new_word.py

lint: venv ## check format and style
	@echo "lint: ruff"
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .

format: venv ## format the code
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

test: lint ## check style and run the tests, some minutes
	@echo "test: pytest in $(WORKERS) processes"
	@$(PYTHON) -m pytest -q -n $(WORKERS)

test-slow: venv ## run the tests that take minutes
	@$(PYTHON) -m pytest -q -n $(WORKERS) -m slow

test-recipes: venv ## run every example end to end on a slice of the bundled corpus
	@$(PYTHON) -m pytest -q -n $(WORKERS) -m recipes

corpus: venv ## extract the bundled corpus anew (needs Debian's sword-text-web, sword-text-sparv)
	@$(PYTHON) -m pip install --quiet --constraint constraints.txt pysword
	@$(PYTHON) scripts/extract_verses.py --output examples/demo/data

clean: ## delete .venv, the demo's output and caches
	rm -rf $(VENV) demo-out .pytest_cache .ruff_cache build dist *.egg-info
