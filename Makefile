# Needs Python 3.11 or newer, make and a package index; everything else is installed into .venv by the first command.
#   make mnist            train on MNIST, results in runs/mnist    (ARGS="--data DIR --epochs 5" to change settings)
#   make test             run the tests
#   make lint             ruff and mypy
#   make gpu              the CUDA tests and the CPU-against-GPU report
#   make clean            remove .venv and caches; runs/ is kept
# PYTHON=python3.12 picks the interpreter, VENV=DIR the place of the virtual environment.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

RUN := $(VENV)/bin/python
READY := $(VENV)/.eqprop-installed
CODE := eqprop snn hardware benchmarks tests

.PHONY: mnist test lint gpu clean

# One thread: at batch 16 a second gains nothing (9.1 s of training against 7.5), and loses much on a busy machine.
mnist: $(READY)
	@$(RUN) -m benchmarks.mnist --rule ep --network 784-1024-10 --device auto --threads 1 --seed 0 \
		--out runs/mnist $(or $(filter --resume --overwrite,$(ARGS)),--overwrite) $(filter-out --resume --overwrite,$(ARGS))

# One thread a worker: two workers that each start a thread a core slow each other down.
test: export OMP_NUM_THREADS = 1
test: $(READY)
	@$(RUN) -m pytest -n 2 $(ARGS)

lint: $(READY)
	@$(RUN) -m ruff check $(CODE)
	@$(RUN) -m ruff format --check $(CODE)
	@$(RUN) -m mypy $(CODE)

gpu: $(READY)
	@$(RUN) -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make gpu: no CUDA device, so nothing was run")'
	@$(RUN) -m pytest -m gpu
	@$(RUN) -m benchmarks.gpu $(ARGS)

# The stamp is written last, so that an interrupted installation starts again.
$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make: got Python " + sys.version.split()[0] + \
		", needed 3.11 or newer; write make PYTHON=python3.11")'
	@echo "Installing PyTorch and the other requirements into $(VENV) (once; several GB, a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-input --editable '.[digits,test]'
	@touch $@

clean:
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
