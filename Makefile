# The two commands of the README: `make demo` and `make test`. Both call `install`, which reuses what is there.
.PHONY: install demo test test-all lint go docs clean
PY := .venv/bin/python

install:
	@scripts/install

demo: install
	@$(PY) -m examples.demo

test: install lint
	cd go && ../.venv/bin/go vet ./... && ../.venv/bin/go test ./...
	$(PY) -m pytest -m "not long"

test-all: install lint
	cd go && ../.venv/bin/go vet ./... && ../.venv/bin/go test -race ./...
	$(PY) -m pytest

go:
	@$(PY) scripts/build_go.py

lint:
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

docs:
	$(PY) scripts/docs.py
