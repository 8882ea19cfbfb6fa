"""At a start: what the last boot of the machine left, and what an earlier life of the service left half done."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from rekindle.driver import leftovers
from rekindle.driver.host import boot_id
from rekindle.node.layout import Layout
from rekindle.node.perform import Hands, remove_tree
from rekindle.store.db import Store

LOG = logging.getLogger(__name__)


async def after_boot(layout: Layout, store: Store, node: str) -> None:
    """When the machine was restarted since: no process of ours is left, whatever stands in rows and files.

    The files go first: while they are there a pid in them could be taken for a VMM's. Repeatable.
    """
    now = boot_id()
    if await store.last_boot(node) not in (None, now):
        for home in (*layout.vms.iterdir(), *layout.builds.iterdir()):
            leftovers.disown(home)
    for vm in await store.host_booted(node, now):
        LOG.warning("%s was %s when the host was restarted", vm.id, vm.phase.value)


async def sweep(at: Hands, store: Store, node: str) -> None:
    """Folders and routes that no row names: a crash between a rename and a row, a bake that was killed, a lost row."""
    layout = at.host.layout
    named = {vm.id for vm in await store.all_microvms(node)}
    for home in [*layout.builds.iterdir(), *(one for one in layout.vms.iterdir() if one.name not in named)]:
        LOG.info("sweeping %s", home.name)
        await _end_leftover(at, home)
    for vm_id in set(await at.relay.vms()) - named:
        await at.relay.drop_route(vm_id)
    folders = await store.version_folders()
    for account in layout.images.iterdir():
        for folder in account.iterdir():
            if f"{account.name}/{folder.name}" not in folders:
                await _remove_leftover(folder)


async def _end_leftover(at: Hands, home: Path) -> None:
    """What cannot be removed is told and left for the next start: it must not keep the service from serving."""
    try:
        await leftovers.end(home)
        await at.relay.drop_route(home.name)
    except Exception:
        LOG.exception("%s could not be swept", home)
    else:
        await _remove_leftover(home)


async def _remove_leftover(folder: Path) -> None:
    """`rekindle doctor` names what stays."""
    try:
        await asyncio.to_thread(remove_tree, folder)
    except OSError:
        LOG.exception("%s could not be swept", folder)
