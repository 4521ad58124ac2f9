# make pretrain [CONFIG=configs/X.py] [ARGS="--config.KEY=VALUE --workdir=DIR"]
# make evaluate [WORKDIR=runs/X] [ARGS="--evals=knn,geometry --eval.knn.k=20"]
# make benchmark [ARGS="--quick --out DIR"]
# make gate [ARGS="--out DIR --only laws,views"]
# make test | make lint | make docs
# Each does its own set-up in .venv; PYTHON names the interpreter (3.11 or newer) that makes it.

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/simclr_digits.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
ARGS ?=
RUN := $(VENV)/bin/python
# A process that crashes fails the tests at once: one in its place may wait for ever.
TWO := -n 2 --max-worker-restart=0

.PHONY: pretrain evaluate benchmark gate test test-all lint docs clean

pretrain: $(VENV)/.installed
	@$(RUN) experiments/pretrain.py --config $(CONFIG) $(ARGS)

evaluate: $(VENV)/.installed
	@test -f $(WORKDIR)/summary.json || $(RUN) experiments/pretrain.py --config $(CONFIG) --workdir $(WORKDIR)
	@$(RUN) experiments/evaluate.py --workdir $(WORKDIR) $(ARGS)

benchmark: $(VENV)/.installed-peers
	@$(RUN) experiments/benchmark.py $(if $(ARGS),$(ARGS),--out runs/benchmark)

gate: $(VENV)/.installed-peers
	@$(RUN) experiments/gate.py $(if $(ARGS),$(ARGS),--out runs/gate)

test: $(VENV)/.installed-dev
	$(RUN) -m pytest -q -m "not slow" $(TWO) --dist loadfile $(ARGS)

test-all: $(VENV)/.installed-dev
	$(RUN) -m pytest -q -m slow $(TWO) --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m basedpyright

docs: $(VENV)/.installed-docs
	$(RUN) -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html
	@! grep -rlE '(src|href)="https?://[^"]*\.(js|css|woff2?)"' docs/_build/html || (echo "these pages fetch something" && false)
	@echo docs/_build/html/index.html

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=python3.12")'
	@echo "setting up $(VENV) (once, some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# Peers that do not install are "not measured".
$(VENV)/.installed-peers: $(VENV)/.installed
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[peers]' || echo "peers: not all installed"
	@touch $@

clean:
	rm -rf $(VENV) .cache docs/_build
