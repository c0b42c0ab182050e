# Every target makes its own environment first; the second time that takes a second.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_LONG := $(VENV)/.ready-long

# oracles of curvature, without what they declare: that would bring a torchvision that does not fit
PEERS := curvlinops-for-pytorch backpack-for-pytorch linear_operator einops einconv opt-einsum unfoldNd jaxtyping \
	wadler-lindig hessian-eigenthings PyHessian

CONFORMANCE ?= $(wildcard ../shared/conformance/run)

.PHONY: demo test test-long conformance check bench stubs snapshots clean

demo: $(READY)  ## compare eight optimizers on real data and write runs/demo/report.html
	$(BIN)/descend compare --task digits --quick --out runs/demo

test: $(READY)  ## the suite that every commit passes
	$(BIN)/python -m pytest -n 2 -m "not long"

test-long: $(READY_LONG)  ## what is slow: kill studies, long fuzzing, browsers, other people's stacks
	$(BIN)/python -m pytest -n 2 -m long

conformance: $(READY)  ## PyTorch's own optimizer suite for every class, where that runner is
	@test -n "$(CONFORMANCE)" || { echo "name the suite's runner: make conformance CONFORMANCE=..."; exit 2; }
	PYTHON=$(BIN)/python $(CONFORMANCE) $$($(BIN)/python tests/torch_suite.py)

check: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## ratios to torch.optim and to the memory's bandwidth, into docs/benchmarks.md: use a quiet machine
	$(BIN)/descend bench --out docs/benchmarks.md

stubs: $(READY)  ## write src/descend/optim.pyi anew from the rules
	$(BIN)/python -m descend.stubs

snapshots: $(READY)  ## write the generated kernels in tests/snapshots anew
	$(BIN)/python tests/test_source_cpp.py

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(READY_LONG): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,long]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps $(PEERS)
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
