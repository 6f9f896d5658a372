# `make demo` and `make test` need Python 3.11 or newer, make, and a package index; nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo demo-long app test test-all lint notebooks docs wheel release clean

demo: $(VENV)/.installed
	$(BIN)/python -m toklip_jax.main --config=configs/demo.py --workdir=runs/demo $(ARGS)

# An hour, for pictures that look right.
demo-long: $(VENV)/.installed
	$(BIN)/python -m toklip_jax.main --config=configs/demo.py:preset=long --workdir=runs/demo_long \
		$(ARGS)

# The page of docs/app.md, on the demo's weights unless ARGS say which.
app: $(VENV)/.installed
	$(BIN)/toklip app $(or $(ARGS),--weights=runs/demo/toklip/weights)

# Two processes: a test file stays in one, so that its fixtures are made once. A process that crashes
# ends the run: pytest-xdist waits for ever where it starts another near the end.
PYTEST = JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	--max-worker-restart=0
# Most of the suite's time is XLA's, which generates plain code in a third of it. What is compared
# with recordings, and all of `make test-all`, is compiled as users compile.
PLAIN_CODE = XLA_FLAGS="--xla_backend_optimization_level=0 $(PLAIN_FUSIONS) \
	--xla_llvm_disable_expensive_passes=true $(XLA_FLAGS)"
# XLA ends at a flag that it doesn't know, and the one of Python 3.12's JAX doesn't know this one.
FUSIONS = --xla_cpu_use_fusion_emitters=false
PLAIN_FUSIONS = $(shell JAX_PLATFORMS=cpu XLA_FLAGS=$(FUSIONS) $(BIN)/python -c \
	"import jax; jax.devices()" 2>/dev/null && echo $(FUSIONS))
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

# Each from its first cell to its last.
notebooks: $(VENV)/.installed
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/docs/test_notebooks.py $(ARGS)

# The documentation, in site/; a broken link or docstring ends it.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The wheel, installed and used in fresh environments, where the README's first commands run too.
wheel: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	PYTHON=$(abspath $(BIN))/python tools/check_pythons.sh dist/*.whl

# Builds and checks what is to be published, and says how; uploads nothing.
release: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet twine
	PYTHON=$(abspath $(BIN))/python tools/release.sh

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[app,demo,docs,test]"
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
