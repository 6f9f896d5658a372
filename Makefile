# `make demo` and `make test` need Python 3.11 or newer, make, and a package index; nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint wheel release clean

demo: $(VENV)/.installed
	$(BIN)/python -m toklip_jax.main --config=configs/demo.py --workdir=runs/demo $(ARGS)

# Two processes: a test file stays in one, so that its fixtures are made once.
PYTEST = JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# Most of the suite's time is XLA's, which generates plain code in a third of it. What is compared
# with recordings, and all of `make test-all`, is compiled as users compile.
PLAIN_CODE = XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false \
	--xla_llvm_disable_expensive_passes=true $(XLA_FLAGS)"
RECORDED = $(addprefix tests/,api evaluation models nn ops training)# as in tests/conftest.py
NONE_CHOSEN = 5# pytest's status where ARGS choose no test

test: $(VENV)/.installed
	$(PLAIN_CODE) $(PYTEST) -m "not slow and not recorded" $(ARGS) || test $$? = $(NONE_CHOSEN)
	$(PYTEST) -m "not slow and recorded" $(or $(ARGS),$(RECORDED)) || test $$? = $(NONE_CHOSEN)

# The slow tests too: kills, full-size plans (where libtpu is installed), three stages on two hosts.
test-all: $(VENV)/.installed
	$(PYTEST) $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The wheel, installed and used in a fresh environment.
wheel: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	PYTHON=$(abspath $(BIN))/python tools/check_wheel.sh dist/*.whl

# Builds and checks what is to be published, and says how; uploads nothing.
release: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet twine
	PYTHON=$(abspath $(BIN))/python tools/release.sh

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[demo,test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
