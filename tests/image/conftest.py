"""The machine's own toolbox and base image, made when they are not there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekindle.image import base, buildnet, toolbox
from tests import leaks
from tests.image.building import Room


@pytest.fixture(scope="session")
def tools(tools_dir: Path) -> toolbox.Toolbox:
    return asyncio.run(toolbox.ensure(tools_dir, print))


@pytest.fixture(scope="session")
def base_image(tools_dir: Path, tools: toolbox.Toolbox) -> base.BaseImage:
    return asyncio.run(base.ensure(tools_dir, tools, print))


@pytest.fixture(scope="session")
def rooms(tools: toolbox.Toolbox, base_image: base.BaseImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for build storages (shared by the tests of a session: they share the layer cache as well)."""
    if os.geteuid() != 0 and (missing := buildnet.why_none()):
        pytest.skip(missing)
    return tmp_path_factory.mktemp("rooms")


@pytest.fixture
def room(rooms: Path, tools: toolbox.Toolbox, base_image: base.BaseImage) -> Iterator[Room]:
    """A place to build in; after the test nothing of its builds is left but storage and results."""
    before = leaks.snapshot(None, rooms)
    made = Room(tools, base_image, rooms)
    yield made
    assert [leak for leak in leaks.settled(before) if _is_of_builds(leak, made)] == []
    assert not (made.storage / "builds").exists()


def _is_of_builds(leak: leaks.Leak, room: Room) -> bool:
    """Services and builds that somebody else starts on the machine meanwhile are not ours."""
    if leak.kind == "cgroup":
        return any(build_id in leak.what for build_id in room.build_ids)
    if leak.kind == "temp":
        return not Path(leak.what).name.startswith("rekindle-")  # of services and benches; builds have buildah's names
    others = leak.kind in ("process", "socket", "namespace") and str(room.folder) not in leak.what
    return not others or any(name in leak.what for name in ("buildah", "runc", "slirp4netns", "unshare", "mkfs"))
