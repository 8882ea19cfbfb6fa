# The two commands of the README: `make demo` and `make test`. Both call `install`, which reuses what is there.
.PHONY: install demo test test-all test-faults test-kvm test-go lint go docs
PY := .venv/bin/python

install:
	@scripts/install

demo: install
	@$(PY) -m examples.demo

test: install lint test-go
	$(PY) -m pytest -m "not long"

test-all: install lint test-go
	$(PY) -m pytest -m "not campaign"

# On real KVM, in a machine that software emulation makes (docs/kvm.md). PARTS="driver demo" runs these alone.
test-kvm: install
	@$(PY) -m scripts.kvm $(PARTS)

# Every fault at every boundary of the works, and a second one where only a first leads. Hours; in parts: tests/faults/record.py.
test-faults: install
	FAULTS=all $(PY) -m pytest -s tests/faults

# The agent's tests boot real guests from the toolbox.
test-go:
	cd go && ../.venv/bin/go vet ./... && \
	  REKINDLE_TEST_TOOLS="$$(../.venv/bin/python -m rekindle.image.install --print)" ../.venv/bin/go test -count=1 ./...

go:
	@$(PY) scripts/build_go.py

lint:
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

docs:
	$(PY) scripts/docs.py
