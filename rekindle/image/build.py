"""A Dockerfile build: context folder -> `root.erofs` and what the image says about its main process.

One account's builds share a storage (layer cache), used by one build at a time; everything else of a build is in a work
folder that goes with it. After a crash the next build of that storage clears what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rekindle.core.errors import BuildFailed, Invalid
from rekindle.image import buildah, buildbox, buildenv, buildnet, dockerfile, shelf
from rekindle.image.base import BaseImage
from rekindle.image.buildah import ImageConfig
from rekindle.image.inside import PATH, USER_NAMESPACE
from rekindle.image.toolbox import Toolbox
from rekindle.process import run

__all__ = ["BuildRequest", "Built", "ImageConfig", "build", "remove_storage"]

_INSIDE = Path(__file__).with_name("inside.sh")
_BUILD_ID = re.compile(r"[A-Za-z0-9-]{1,100}")
_CACHE = re.compile(r"buildah-cache-\d+")
_MIB = 1 << 20
_MEASURE_EVERY_S = 1.0
_MEASURE_SHARE = 20  #: measuring may take one part in so many of the time
_KILLED = 137


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What to build and what it may use."""

    build_id: str
    context: Path  #: has the Dockerfile
    storage: Path  #: the account's folder: layers and caches of its earlier builds, nobody else's
    out: Path  #: gets `root.erofs`; made when missing
    timeout_s: int
    memory_mib: int
    pids: int
    storage_mib: int  #: what this build may add to `storage`
    insecure_registries: tuple[str, ...] = ()  #: HOST[:PORT] spoken to over HTTP; on this machine they become reachable
    host_services: tuple[str, ...] = ()  #: ADDRESS:PORT of this machine that the build may reach


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A finished build."""

    config: ImageConfig
    root_disk: Path
    code_install_bytes: int  #: sum of the sizes of the image's files, as `du --bytes` counts
    image_bytes: int  #: size of `root_disk`


async def build(toolbox: Toolbox, base: BaseImage, request: BuildRequest, log: Callable[[str], None]) -> Built:
    """Build the Dockerfile in `request.context`; every output line goes to `log` as it comes. Can be repeated.

    Raises BuildFailed: CONTAINER_BUILD_FAILED with the failing step and its exit status (or the limit that it broke),
    DISK_STORAGE_FULL. Raises MachineError when this machine cannot build at all. However it ends, also by cancellation,
    no process, mount, namespace or cgroup of it is left, and `root.erofs` exists only after success.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    root_disk = request.out / "root.erofs"
    root_disk.unlink(missing_ok=True)
    async with _workplace(request) as work:
        mounts = await _prepare(work, base, request)
        try:
            await _run(toolbox, base, request, work, log)
            part = request.out / "root.erofs.part"
            part.rename(root_disk)
        finally:
            (request.out / "root.erofs.part").unlink(missing_ok=True)
        log(f"root disk: {root_disk.stat().st_size} bytes; {len(mounts)} files of this machine were lent to RUN steps")
        return Built(
            config=buildah.config_of((work / "image.json").read_text()),
            root_disk=root_disk,
            code_install_bytes=int((work / "root-bytes").read_text()),
            image_bytes=root_disk.stat().st_size,
        )


async def remove_storage(storage: Path) -> None:
    """Forget every layer and cache of an account; its next build starts from nothing. Waits for a build that is
    at work there."""
    async with _alone(storage):
        for name in ("graph", "builds", "tmp"):
            if (storage / name).exists():
                await asyncio.to_thread(shelf.remove, storage / name)


# --- the work folder --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _alone(storage: Path) -> AsyncIterator[None]:
    """Alone among all processes in this storage; waits as long as another build works there."""
    storage.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(storage / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.to_thread(fcntl.flock, fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@asynccontextmanager
async def _workplace(request: BuildRequest) -> AsyncIterator[Path]:
    """A fresh work folder in the storage, gone afterwards; what crashed builds left there is gone before."""
    if not _BUILD_ID.fullmatch(request.build_id):
        raise Invalid(f"Build id '{request.build_id}' must be letters, digits and '-'")
    async with _alone(request.storage):
        await _clear(request.storage)
        work = request.storage / "builds" / request.build_id
        work.mkdir(parents=True)
        for folder in ("graph", "tmp"):
            (request.storage / folder).mkdir(exist_ok=True)
        try:
            yield work
        finally:
            await asyncio.to_thread(_remove_leftovers, request.storage)


async def _clear(storage: Path) -> None:
    """Processes and cgroups of builds whose service was killed, and their files."""
    builds = storage / "builds"
    for left in sorted(builds.iterdir()) if builds.is_dir() else ():
        await buildbox.bounds(_cgroup_name(left.name)).clear()
    await asyncio.to_thread(_remove_leftovers, storage)


def _remove_leftovers(storage: Path) -> None:
    """Work folders and temporary files; the caches of `RUN --mount=type=cache` stay."""
    if (storage / "builds").exists():
        shelf.remove(storage / "builds")
    for entry in (storage / "tmp").iterdir() if (storage / "tmp").is_dir() else ():
        if not _CACHE.fullmatch(entry.name):
            shelf.remove(entry)


def _cgroup_name(build_id: str) -> str:
    return f"rekindle-build-{build_id}"


async def _prepare(work: Path, base: BaseImage, request: BuildRequest) -> Mapping[str, str]:
    """Everything that buildah reads, written; returns what RUN steps are lent."""
    source = (request.context / "Dockerfile").read_bytes().decode("utf-8", "surrogateescape")
    (work / "Dockerfile").write_bytes(dockerfile.without_link(source).encode("utf-8", "surrogateescape"))
    ignore = request.context / "Dockerfile.dockerignore"
    if ignore.is_file() and not ignore.is_symlink():
        shutil.copyfile(ignore, work / "Dockerfile.dockerignore")
    mounts = await buildenv.write(work / "files", os.environ)
    hosts = buildnet.hosts_file(Path("/etc/hosts").read_text())
    buildah.write_settings(work / "etc", insecure_registries=request.insecure_registries, hosts=hosts)
    if os.geteuid() == 0:
        arguments = buildah.build_arguments(mounts, _cgroup_name(request.build_id), buildah.WANTED_PROCESSES)
    else:
        arguments = buildah.build_arguments(mounts, None, request.pids)
    (work / "args").write_text("".join(f"{argument}\n" for argument in arguments))
    (work / "base").write_text(f"{base.reference}\n{buildah.BASE_STORED_NAME}:{buildah.BASE_TAG}\n")
    (work / "mount-points").write_text("".join(f"{path}\n" for path in (*mounts, *buildenv.MADE_FOLDERS)))
    shutil.copyfile(_INSIDE, work / "inside.sh")
    return mounts


# --- the run ----------------------------------------------------------------------------------------------------------


async def _run(
    toolbox: Toolbox, base: BaseImage, request: BuildRequest, work: Path, log: Callable[[str], None]
) -> None:
    progress = buildah.Progress()

    def on_line(text: str) -> None:
        progress.line(text)
        log(text)

    try:
        async with asyncio.timeout(request.timeout_s) as limit:
            async with buildbox.opened(_box(toolbox, base, request, work), _environment()) as running:
                code, fits = await _watched(running, on_line, request)
                out_of_memory = fits and code == _KILLED and running.bounds.hit_memory_limit()
    except TimeoutError as err:
        if not limit.expired():
            raise
        message = f"{progress.step or 'The build'}: not done after {request.timeout_s} s"
        raise BuildFailed("CONTAINER_BUILD_FAILED", message) from err
    if not fits:
        message = f"{progress.step or 'The build'}: more than {request.storage_mib} MiB of storage"
        raise BuildFailed("DISK_STORAGE_FULL", message)
    if code != 0:
        raise _failed(progress, code, work, request, out_of_memory=out_of_memory)


def _failed(
    progress: buildah.Progress, code: int, work: Path, request: BuildRequest, *, out_of_memory: bool
) -> BuildFailed:
    reason = progress.failure(code)
    if progress.no_space:
        return BuildFailed("DISK_STORAGE_FULL", f"No space left on this machine's disk: {reason}")
    phase = work / "phase"
    if phase.exists() and phase.read_text().strip() == "export":
        return BuildFailed("INTERNAL_PLATFORM_ERROR", f"The root disk could not be made: {reason}")
    if out_of_memory:
        reason += f" (killed: the build's memory limit is {request.memory_mib} MiB)"
    return BuildFailed("CONTAINER_BUILD_FAILED", reason)


def _box(toolbox: Toolbox, base: BaseImage, request: BuildRequest, work: Path) -> buildbox.Box:
    folders = {"work": work, "storage": request.storage, "context": request.context, "out": request.out}
    return buildbox.Box(
        name=_cgroup_name(request.build_id),
        tree=toolbox.root,
        folders={**folders, "base": base.store},
        doors=buildnet.doors(request.insecure_registries, request.host_services, os.environ),
        memory_mib=request.memory_mib,
        pids=request.pids,
    )


def _environment() -> dict[str, str]:
    """All of buildah's environment. Of it, RUN steps see the proxies alone."""
    return {
        "PATH": PATH,
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": "/rk/storage/tmp",
        "REGISTRY_AUTH_FILE": "/rk/work/etc/auth.json",
        "SSL_CERT_FILE": "/rk/work/files/ca.crt",
        **buildenv.proxies(os.environ),
    }


async def _watched(
    running: buildbox.Running, on_line: Callable[[str], None], request: BuildRequest
) -> tuple[int, bool]:
    """The exit code, and whether the build stayed within its storage; it is stopped when it does not."""
    ended = asyncio.Event()
    limit_bytes = await _used_bytes(request.storage) + request.storage_mib * _MIB
    async with asyncio.TaskGroup() as group:
        fits = group.create_task(_kept_within(limit_bytes, request.storage, running, ended))
        group.create_task(running.bounds.keep(ended))
        code = await running.lines(on_line)
        ended.set()
    return code, fits.result()


async def _kept_within(limit_bytes: int, storage: Path, running: buildbox.Running, ended: asyncio.Event) -> bool:
    """Measure again and again until the build has ended (True) or is too big (killed, False)."""
    while not ended.is_set():
        before_s = time.monotonic()
        if await _used_bytes(storage) > limit_bytes:
            await running.bounds.clear()
            return False
        pause_s = max(_MEASURE_EVERY_S, _MEASURE_SHARE * (time.monotonic() - before_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await ended.wait()
    return True


async def _used_bytes(folder: Path) -> int:
    """What the folder takes on disk. `du` runs beside us (a storage has very many files) and complains of those that
    vanish under it; its sum stands."""
    argv = ["du", "--summarize", "--block-size=1", str(folder)]
    done = await run(argv if os.geteuid() == 0 else ["unshare", *USER_NAMESPACE, *argv], deadline_s=600)
    return int(done.stdout.split()[0])
