"""The managed base image: a trimmed minimal Debian, stored where every build can read it and none can change it.

It is an *additional image store* of containers-storage, so a build's own storage starts empty and shares these layers.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle import clock
from rekindle.core.errors import MachineError
from rekindle.image import debian, inside, shelf
from rekindle.image.toolbox import Toolbox, dpkg_packages
from rekindle.process import run_ok

Progress = shelf.Progress

NAME = "debian-13"
VERSION = "1"
#: Not `.../debian:13`: buildah takes a local image for any name that ends like it, and this one would then stand in for
#: everybody's `FROM debian:13`.
REFERENCE = "localhost/rekindle-base:debian-13"
#: Raise it when the recipe below changes.
FORMAT = 1

#: What an image built on a machine with direct internet uses. Builds cover it with the machine's own file.
PUBLIC_SOURCES = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
SOURCES_FILE = "etc/apt/sources.list.d/debian.sources"
#: Present and empty, so that a build's read-only mounts over them leave nothing behind in the image.
MOUNT_FILES = ("etc/apt/apt.conf.d/99rekindle-build", "etc/pip.conf", "etc/npmrc")

IMAGE_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_IMPORT = f"""
set -eu
c=$(buildah from scratch)
buildah add --quiet "$c" /w/base.tar /
buildah config --cmd bash --env {IMAGE_PATH} "$c"
buildah commit --quiet --format docker --rm "$c" {REFERENCE}
"""
_STORAGE_CONF = '[storage]\ndriver = "overlay"\nrunroot = "/run/containers"\ngraphroot = "/st"\n'


@dataclass(frozen=True, slots=True)
class BaseImage:
    """A whole base image. Builds name `reference` and read `store` as an additional image store."""

    name: str  #: as in the managed image's ARN
    version: str  #: a bare major
    reference: str  #: the name under which buildah finds it
    store: Path  #: graphroot of a containers-storage; read-only
    digest: str
    made_at_ms: int


def installed(tools_dir: Path) -> BaseImage | None:
    """The newest whole base image, or None. Older ones stay: layers of images built on them are there."""
    shelved = shelf.whole(_shelf(tools_dir))
    name = max(shelved, key=lambda one: (shelved[one]["made_at_ms"], one), default=None)
    return None if name is None else _base(tools_dir, name, shelved[name])


async def ensure(tools_dir: Path, toolbox: Toolbox, progress: Progress) -> BaseImage:
    """The newest base image; makes one when there is none of this recipe. Can be repeated, also by many at once.

    Raises MachineError naming what this machine lacks.
    """
    if (have := _current(tools_dir)) is not None:
        return have
    async with shelf.locked(_shelf(tools_dir), progress):
        return _current(tools_dir) or await _make(tools_dir, toolbox, progress)


async def update(tools_dir: Path, toolbox: Toolbox, progress: Progress) -> BaseImage:
    """A base image with today's packages: a new one, or the one that is here when it has them already."""
    async with shelf.locked(_shelf(tools_dir), progress):
        return await _make(tools_dir, toolbox, progress)


def _shelf(tools_dir: Path) -> Path:
    return tools_dir / "base"


def _current(tools_dir: Path) -> BaseImage | None:
    have = installed(tools_dir)
    if have is None or shelf.whole(_shelf(tools_dir))[have.digest]["format"] != FORMAT:
        return None
    return have


def _base(tools_dir: Path, name: str, facts: Mapping[str, Any]) -> BaseImage:
    return BaseImage(NAME, VERSION, REFERENCE, _shelf(tools_dir) / name, name, facts["made_at_ms"])


async def _make(tools_dir: Path, toolbox: Toolbox, progress: Progress) -> BaseImage:
    folder = _shelf(tools_dir)
    progress(f"making the base image {NAME}")
    async with shelf.making(folder) as scratch:
        tar = await _tar(scratch, progress)
        packages = await asyncio.to_thread(_packages, tar)
        lines = "".join(f"{package}={packages[package]}\n" for package in sorted(packages))
        name = shelf.name_of(f"base {FORMAT}\n{lines}")
        if name not in shelf.whole(folder):
            await _import(tar, scratch, toolbox, progress)
            facts = {"format": FORMAT, "made_at_ms": clock.wall_ms(), "packages": packages, "reference": REFERENCE}
            await shelf.put(folder, name, scratch / "store", facts)
        return _base(tools_dir, name, shelf.whole(folder)[name])


async def _tar(scratch: Path, progress: Progress) -> Path:
    tar = scratch / "base.tar"
    async with debian.workplace(scratch) as work:
        await debian.make_tar(
            tar,
            work,
            variant="minbase",
            include=("ca-certificates",),
            final_hooks=_final_hooks(work),
            progress=progress,
        )
    return tar


def _final_hooks(work: Path) -> tuple[str, str]:
    (work / "debian.sources").write_text(PUBLIC_SOURCES)
    files = " ".join(f'"$1/{name}"' for name in MOUNT_FILES)
    return (
        f"upload {work / 'debian.sources'} /{SOURCES_FILE}",
        f'for f in {files}; do : >"$f"; done; chmod 644 "$1/{SOURCES_FILE}" {files}',
    )


def _packages(tar: Path) -> dict[str, str]:
    with tarfile.open(tar) as archive:
        status = archive.extractfile("./var/lib/dpkg/status")
        if status is None:
            raise MachineError("The base image's tree has no dpkg status")
        return dict(dpkg_packages(status.read().decode()))


async def _import(tar: Path, scratch: Path, toolbox: Toolbox, progress: Progress) -> None:
    progress(f"importing the base image as {REFERENCE}")
    store, work = scratch / "store", scratch / "import"
    store.mkdir()
    work.mkdir()
    tar.rename(work / "base.tar")
    (work / "storage.conf").write_text(_STORAGE_CONF)
    (work / "registries.conf").write_text('unqualified-search-registries = []\nshort-name-mode = "disabled"\n')
    (work / "containers.conf").write_text("[engine]\n")
    (work / "auth.json").write_text(json.dumps({}))
    env = {
        "CONTAINERS_STORAGE_CONF": "/w/storage.conf",
        "CONTAINERS_REGISTRIES_CONF": "/w/registries.conf",
        "CONTAINERS_CONF": "/w/containers.conf",
        "REGISTRY_AUTH_FILE": "/w/auth.json",
        "BUILDAH_ISOLATION": "chroot",
        "TMPDIR": "/st/tmp",
    }
    (store / "tmp").mkdir()
    argv = inside.command(toolbox.root, ["sh", "-c", _IMPORT], binds={"/st": store, "/w": work}, env=env)
    await run_ok(argv, deadline_s=600)
    (store / "tmp").rmdir()
