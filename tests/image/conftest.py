"""The machine's own toolbox and base image, made when they are not there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rekindle.image import base, toolbox


@pytest.fixture(scope="session")
def tools(tools_dir: Path) -> toolbox.Toolbox:
    return asyncio.run(toolbox.ensure(tools_dir, print))


@pytest.fixture(scope="session")
def base_image(tools_dir: Path, tools: toolbox.Toolbox) -> base.BaseImage:
    return asyncio.run(base.ensure(tools_dir, tools, print))
