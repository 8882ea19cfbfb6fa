"""The toolbox: one private Debian tree with every program that touches a guest, and the guest's kernel.

Made once from the machine's own apt sources, named by its package versions, never changed afterwards: an upgrade of the
machine changes nothing for a snapshot, and a suspended VM resumes on the very QEMU that froze it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle import clock
from rekindle.core.errors import MachineError, NotFound
from rekindle.image import debian, kernelpackage, shelf
from rekindle.process import run_ok

Progress = shelf.Progress

#: Raise it when the recipe below changes: trees of another recipe stay for their snapshots, `ensure` makes a new one.
FORMAT = 3
PACKAGES = (
    "buildah",
    "ca-certificates",
    "e2fsprogs",
    "erofs-utils",
    "iproute2",
    "netavark",  # buildah does not start without it, whatever the network of a build
    "nftables",
    "qemu-system-x86",
    "qemu-utils",
    "runc",
    "slirp4netns",
    "uidmap",
    "zstd",
)
#: Debian's kernel for virtual machines; the package that it depends on has the kernel itself.
KERNEL = "linux-image-cloud-amd64"
#: Empty places in the tree that others bind something onto: the jail (image, vm), builds (st, w, build).
MOUNT_POINTS = ("image", "vm", "st", "w", "build")
MOUNT_FILES = ("etc/resolv.conf", "etc/hosts")

_FETCH_KERNEL = f"""
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$1/rekindle"
cd "$1/rekindle"
name=$(apt-cache depends --no-recommends --no-suggests {KERNEL} | sed -n 's/^ *Depends: //p' | head -n 1)
apt-get download --quiet -o APT::Sandbox::User=root "$name"
"""
_MOUNT_POINTS = "\n".join(
    (
        f'cd "$1" && mkdir -p {" ".join(MOUNT_POINTS)}',
        *(f': >"$1/{name}"' for name in MOUNT_FILES),
    )
)


@dataclass(frozen=True, slots=True)
class Toolbox:
    """A whole tree. `root` is the root of a Debian file system; nobody writes to it."""

    digest: str
    root: Path
    vmlinux: Path
    modules: Path
    packages: Mapping[str, str]  #: name -> version
    made_at_ms: int

    @property
    def qemu_version(self) -> str:
        """As QEMU says it, like 10.0.13: Debian's version without epoch and revision."""
        upstream = re.match(r"(?:\d+:)?(\d+(?:\.\d+)+)", self.packages["qemu-system-x86"])
        if upstream is None:
            raise MachineError(f"Package qemu-system-x86 has an unknown version {self.packages['qemu-system-x86']}")
        return upstream[1]


def installed(tools_dir: Path) -> list[Toolbox]:
    """The whole trees in `tools_dir`, newest first."""
    found = [_toolbox(tools_dir, name, facts) for name, facts in shelf.whole(tools_dir).items()]
    return sorted(found, key=lambda toolbox: (toolbox.made_at_ms, toolbox.digest), reverse=True)


def by_digest(tools_dir: Path, digest: str) -> Toolbox:
    """The tree that a snapshot names. Raises NotFound when it is not here any more."""
    for toolbox in installed(tools_dir):
        if toolbox.digest == digest:
            return toolbox
    raise NotFound(
        f"Toolbox {digest} is not in {tools_dir}, and what was frozen with it resumes on no other: bring that folder "
        f"and its .json back from a backup, or build the image again (rekindle image build)"
    )


async def ensure(tools_dir: Path, progress: Progress) -> Toolbox:
    """The newest tree of this recipe; makes one when there is none. Can be repeated, also by many at once.

    Raises MachineError naming what this machine lacks.
    """
    if (have := _current(tools_dir)) is not None:
        return have
    async with shelf.locked(tools_dir, progress):
        return _current(tools_dir) or await _make(tools_dir, progress)


async def update(tools_dir: Path, progress: Progress) -> Toolbox:
    """A tree with today's packages: a new one, or the one that is here when it has them already."""
    async with shelf.locked(tools_dir, progress):
        return await _make(tools_dir, progress)


async def prune(tools_dir: Path, in_use: Collection[str]) -> list[str]:
    """Remove the trees that no snapshot names (`in_use`: digests), never the newest. The digests that are gone."""
    async with shelf.locked(tools_dir, _silent):
        gone = [toolbox.digest for toolbox in installed(tools_dir)[1:] if toolbox.digest not in in_use]
        for digest in gone:
            await asyncio.to_thread(shelf.take_away, tools_dir, digest)
    return gone


def _silent(_: str) -> None:
    """For work that is too short to speak of."""


def _current(tools_dir: Path) -> Toolbox | None:
    facts = shelf.whole(tools_dir)
    return next((one for one in installed(tools_dir) if facts[one.digest]["format"] == FORMAT), None)


def _toolbox(tools_dir: Path, name: str, facts: Mapping[str, Any]) -> Toolbox:
    root = tools_dir / name
    own = root / "rekindle"
    return Toolbox(name, root, own / "vmlinux", own / "modules", facts["packages"], facts["made_at_ms"])


async def _make(tools_dir: Path, progress: Progress) -> Toolbox:
    if platform.machine() != "x86_64":
        raise MachineError(f"The toolbox is for x86_64 machines, this one is {platform.machine()}")
    progress("making the toolbox: QEMU, buildah and a guest kernel from this machine's Debian sources")
    async with shelf.making(tools_dir) as scratch:
        root = await _tree(scratch, progress)
        packages = dict(dpkg_packages((root / "var/lib/dpkg/status").read_text()))
        packages |= await _kernel(root, scratch, progress)
        name = digest_of(packages)
        if name not in shelf.whole(tools_dir):
            facts = {"format": FORMAT, "made_at_ms": clock.wall_ms(), "packages": packages}
            await shelf.put(tools_dir, name, root, facts)
    return by_digest(tools_dir, name)


def digest_of(packages: Mapping[str, str]) -> str:
    """Name of a tree of this recipe with these package versions."""
    return shelf.name_of(f"toolbox {FORMAT}\n" + "".join(f"{name}={packages[name]}\n" for name in sorted(packages)))


async def _tree(scratch: Path, progress: Progress) -> Path:
    tar, root = scratch / "tree.tar", scratch / "root"
    async with debian.workplace(scratch) as work:
        await debian.make_tar(
            tar,
            work,
            variant="apt",
            include=PACKAGES,
            hooks=(_FETCH_KERNEL,),
            final_hooks=(_MOUNT_POINTS,),
            progress=progress,
        )
    progress("unpacking the toolbox")
    await unpack(tar, root)
    tar.unlink()
    return root


async def unpack(tar: Path, root: Path) -> None:
    """A file system from its tar, as the calling user's own: no devices, and for an ordinary user no other owners."""
    root.mkdir()
    argv = ["tar", "--extract", f"--file={tar}", f"--directory={root}", "--exclude=./dev/*", "--numeric-owner"]
    argv += ["--same-owner", "--same-permissions"] if os.geteuid() == 0 else ["--no-same-owner", "--same-permissions"]
    await run_ok(argv, deadline_s=600)


async def _kernel(root: Path, scratch: Path, progress: Progress) -> dict[str, str]:
    """Unpack the kernel package that the tree was made with; its name and version."""
    own = root / "rekindle"
    package = next(own.glob("*.deb"), None)
    if package is None:
        raise MachineError(f"The suite {debian.SUITE} has no kernel package {KERNEL}")
    progress(f"unpacking {package.name}")
    name_and_version = await run_ok(
        ["dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(package)], deadline_s=30
    )
    await kernelpackage.unpack(package, own, scratch / "kernel", root)
    package.unlink()
    name, _, version = name_and_version.decode().partition(" ")
    return {name: version}


def dpkg_packages(status: str) -> Iterator[tuple[str, str]]:
    """Name and version of every installed package in a dpkg status file."""
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        if fields.get("Status") == "install ok installed":
            yield fields["Package"], fields["Version"]
