"""Images and versions that are DELETING: their files go first, the row last, so a crash anywhere is made good later.

There is no other way in which an image goes: the AWS API and `rekindle image rm` both move rows to DELETING.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from rekindle import threads
from rekindle.core.errors import Stale
from rekindle.core.image import Version
from rekindle.node.layout import Layout
from rekindle.node.perform import remove_tree
from rekindle.rest import rest
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)
AGAIN_S = 30.0


class Removals:
    """`forget` is told each folder that is gone."""

    def __init__(self, layout: Layout, store: Store, forget: Callable[[str], object]) -> None:
        self._layout = layout
        self._store = store
        self._forget = forget
        self._at_work: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()

    async def taken(self) -> list[Version]:
        """What is owed and not yet at work. The caller must `remove` each of them."""
        owed = [one for one in await self._store.versions_deleting() if _key(one) not in self._at_work]
        self._at_work.update(map(_key, owed))
        return owed

    async def remove(self, version: Version) -> None:
        """Return when nothing of the version is left; what fails is told and tried again, and ends nothing else."""
        try:
            while True:
                try:
                    await self._removed(version)
                    return
                except Exception:
                    LOG.exception("%s %s could not be removed; tried again", *_key(version))
                await rest(AGAIN_S)
        finally:
            self._at_work.discard(_key(version))
            self._changed.set()

    async def gone(self, arn: str, version: str | None) -> None:
        """Return when nothing of the image, or of its one version, is left to remove."""
        while any(
            one.image_arn == arn and version in (None, one.version) for one in await self._store.versions_deleting()
        ):
            self._changed.clear()
            await self._changed.wait()

    async def sweep_logs(self) -> None:
        """Logs of builds that no row names: a removal that was cut off behind its row, or came from a backup."""
        named = await self._store.build_ids()
        for path in (self._layout.state / "logs/builds").glob("*.log"):
            if path.stem not in named:
                LOG.info("sweeping %s", path.name)
                path.unlink(missing_ok=True)

    async def _removed(self, version: Version) -> None:
        try:
            await self._remove_files(version)
            await self._store.version_removed(version)
        except Stale as err:
            LOG.info("%s", err)

    async def _remove_files(self, version: Version) -> None:
        if version.folder is not None:
            await threads.finish(remove_tree, self._layout.image(version.folder))
            self._forget(version.folder)
        for build in await self._store.builds(version.image_arn, version.version):
            self._layout.build_log(build.id).unlink(missing_ok=True)


def _key(version: Version) -> tuple[str, str]:
    return version.image_arn, version.version
