"""What network connectors owe. No interface is made for one, so each owes a row's change and nothing else."""

from __future__ import annotations

import logging

from rekindle.store.db import Store

LOG = logging.getLogger(__name__)


async def settle(store: Store) -> None:
    """New and changed connectors become ACTIVE, those that are DELETING go; done again after a crash."""
    for done in await store.settle_connectors():
        LOG.info("%s", done)
