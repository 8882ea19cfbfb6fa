"""From a version's row to a version that can run: fetch, build, bake, validate; one folder, renamed in when whole.

After a crash the row still owes a build and everything starts again; what an earlier attempt left is swept first.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from rekindle import threads
from rekindle.clock import Clock
from rekindle.core.errors import BuildFailed, NoCapacity, RekindleError, Stale
from rekindle.core.image import Version, VersionState
from rekindle.core.microvm import Event
from rekindle.driver import files
from rekindle.driver.base import Snapshot
from rekindle.image import archive, artifact, build
from rekindle.image.base import BaseImage
from rekindle.node import bake, confirm
from rekindle.node.bake import Oven
from rekindle.node.perform import remove_tree
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
MIB = 1024**2
LAST_LINES = 200  #: of a log that is full
LAST_CHARS = 2000  #: of each of them
INTERNAL = "The build ended by a failure of this machine; its log says which."
UNTRUSTED = (
    'Builds are switched off: a Dockerfile build shares this host\'s kernel. Set build.trust = "operator" in '
    "rekindle.toml if every Dockerfile given to this service is your own."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """What builds are done with. `s3_of` gives a boto3 client that reads as an account."""

    oven: Oven
    base: BaseImage
    store: Store
    clock: Clock
    s3_of: Callable[[str], Awaitable[Any]]


class BuildLog:
    """A build's log file: lines flushed as they come, `max_chars` at most, and then the last ones at its end: a build
    may print for as long as it lasts.
    """

    def __init__(self, path: Path, max_chars: int = 16 * MIB) -> None:
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._left = max_chars
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._left_out = 0

    def __call__(self, text: str) -> None:
        for line in text.splitlines() or [""]:
            self._left -= len(line) + 1
            if self._left >= 0:
                print(line, file=self._file, flush=True)
            else:
                self._left_out += 1
                self._last.append(line[:LAST_CHARS])

    def close(self) -> None:
        with self._file:
            if self._left_out:
                print(
                    f"[{self._left_out - len(self._last)} lines are left out here]",
                    *self._last,
                    sep="\n",
                    file=self._file,
                )


async def make(shop: Workshop, version: Version) -> None:
    """Build one version to its end, good or bad; the row says which. Raises nothing that belongs to the image, but
    Stale when the row moved on."""
    version = await shop.store.building(version)
    build_id = (await shop.store.builds(version.image_arn, version.version))[0].id
    log = BuildLog(shop.oven.host.layout.build_log(build_id))
    try:
        await _make(shop, version, build_id, log)
    except BuildFailed as err:
        await _failed(shop, version, log, err)
    except NoCapacity as err:
        await _failed(shop, version, log, BuildFailed("INTERNAL_PLATFORM_ERROR", err.message))
    except RekindleError as err:
        LOG.exception("build %s failed", build_id)
        log(f"{type(err).__name__}: {err.message}")  # this machine's business: paths and programs of the host
        await _failed(shop, version, log, BuildFailed("INTERNAL_PLATFORM_ERROR", INTERNAL))
    finally:
        log.close()


async def broken(shop: Workshop, image_arn: str, version: str) -> None:
    """A bug ended the build: say so in the row, or it would be built again for ever."""
    row = await shop.store.version(image_arn, version)
    if row is not None and row.state in (VersionState.PENDING, VersionState.IN_PROGRESS):
        await shop.store.build_failed(row, reason="INTERNAL_PLATFORM_ERROR: The build ended by a fault of Rekindle.")


async def _failed(shop: Workshop, version: Version, log: BuildLog, err: BuildFailed) -> None:
    log(f"FAILED {err.code}: {err.message}")
    await shop.store.build_failed(version, reason=f"{err.code}: {err.message}")
    await _tell(shop, version, "build failed", f"{err.code}: {err.message}")


async def _make(shop: Workshop, version: Version, build_id: str, log: BuildLog) -> None:
    layout = shop.oven.host.layout
    work = layout.builds / build_id
    folder = f"{version.account}/{uuid.uuid4()}"
    making = layout.images / version.account / f".making-{build_id}"
    await threads.finish(_fresh, work, making)
    try:
        built = await _build(shop, version, work, making, log)
        snapshot = await bake.bake(shop.oven, version, built.config, making, log)
        await bake.validate(shop.oven, version, making, log)
        await threads.finish(_keep, making, layout.image(folder), built)
        try:
            await _built(shop, version, folder, built, snapshot)
        except Stale:
            await threads.finish(remove_tree, layout.image(folder))
            raise
        log(f"SUCCESSFUL memory {snapshot.memory_bytes} bytes, disk {snapshot.disk_bytes} bytes")
    finally:
        for left in (making, work):
            await _cleared(left)


async def _cleared(folder: Path) -> None:
    """How the build ended does not depend on it, nor what else is to be removed; the next start sweeps."""
    try:
        await threads.finish(remove_tree, folder)
    except OSError as err:
        LOG.error("%s stays until the next start: %s", folder.name, err)


async def _build(shop: Workshop, version: Version, work: Path, out: Path, log: BuildLog) -> build.Built:
    settings = shop.oven.host.config.build
    if settings.trust != "operator":
        raise BuildFailed("CONTAINER_BUILD_FAILED", UNTRUSTED)
    log(f"Fetching {version.artifact_uri}")
    limits = archive.Limits(max_bytes=settings.archive_max_mib * MIB, max_entries=settings.archive_max_entries)
    context = await artifact.fetch(await shop.s3_of(version.account), version.artifact_uri, work / "context", limits)
    request = build.BuildRequest(
        build_id=work.name,
        context=context,
        storage=shop.oven.host.layout.account(version.account),
        out=out,
        timeout_s=settings.timeout_s,
        memory_mib=settings.memory_mib,
        pids=settings.pids,
        storage_mib=settings.storage_mib,
        insecure_registries=settings.insecure_registries,
        host_services=settings.host_services,
    )
    return await build.build(shop.oven.toolbox, shop.base, request, log)


async def _built(shop: Workshop, version: Version, folder: str, built: build.Built, snapshot: Snapshot) -> None:
    await shop.store.built(
        version,
        folder=folder,
        memory_snapshot_bytes=snapshot.memory_bytes,
        disk_snapshot_bytes=snapshot.disk_bytes,
        code_install_bytes=built.code_install_bytes,
    )
    await _tell(shop, version, "built")


async def _tell(shop: Workshop, version: Version, what: str, why: str | None = None) -> None:
    detail = {"version": version.version}
    await shop.store.add_event(Event(subject=version.image_arn, at_ms=shop.clock(), what=what, why=why, detail=detail))


def _fresh(work: Path, making: Path) -> None:
    for folder in (work, making):
        remove_tree(folder)
        folder.mkdir(mode=0o700, parents=True)


def _keep(making: Path, final: Path, built: build.Built) -> None:
    """Write what the image is beside its snapshot and give the folder its lasting name; durable when this returns.

    The snapshot is durable already.
    """
    (making / "image.json").write_text(json.dumps({"config": asdict(built.config), "confirms": confirm.ALL}, indent=1))
    for path in (making / "image.json", built.root_disk, making):
        files.sync(path)
    making.rename(final)
    for path in (final.parent, final.parent.parent):  # the account's first image has made the folder above, too
        files.sync(path)
