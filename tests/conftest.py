"""Shared by all tests: where the toolbox is. Fixtures of one room live in that room's conftest.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekindle import config


@pytest.fixture(scope="session", autouse=True)
def _own_environment() -> Iterator[None]:
    """Nothing of the developer's own service or AWS account reaches a test."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(("AWS_", "REKINDLE_"))}
    yield
    os.environ.update(kept)


@pytest.fixture(scope="session")
def tools_dir() -> Path:
    """The toolbox that `make install` made (`REKINDLE_TOOLS_DIR`, else the default place)."""
    return _TOOLS_DIR


_TOOLS_DIR = config.load().tools_dir
