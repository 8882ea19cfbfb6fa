"""Ceilings, checked inside the transaction that wrote the row: whoever raises here takes the row back.

Called behind the write, so that what exists already (a client token, a taken name) is answered first.
"""

from __future__ import annotations

from rekindle.core.errors import NoCapacity, OverQuota
from rekindle.core.quota import Ceilings, Room
from rekindle.store.database import Database, Row

#: Recorded: spec §1.8. The other texts of this file are ours.
MEMORY = "The base maximum allocated memory limit has been reached for this account."


def microvms(db: Database, account: str, ceilings: Ceilings) -> None:
    """Raises OverQuota when the account has more memory or more microVMs than it may."""
    if not ceilings.memory_mib and not ceilings.microvms:
        return
    row = db.one("live_of_account", account=account)
    if _over(row, ceilings.memory_mib, "memory_mib"):
        raise OverQuota(MEMORY)
    if _over(row, ceilings.microvms):
        raise OverQuota(f"The maximum number of MicroVMs ({ceilings.microvms}) has been reached for this account.")


def room(db: Database, node: str, limit: Room) -> None:
    """Raises NoCapacity when the microVMs of the node that have a process need more memory than it has."""
    if not limit.guest_mib:
        return
    row = db.one("awake_memory", node=node)
    if row is not None and not limit.holds(row["memory_mib"]):
        raise NoCapacity(
            f"This machine has no memory for another MicroVM: together they may have {limit.guest_mib} MiB."
        )


def images(db: Database, account: str, ceilings: Ceilings) -> None:
    """Raises OverQuota when the account has more images than it may."""
    if _over(db.one("count_images", account=account), ceilings.images):
        raise OverQuota(f"The maximum number of MicroVM images ({ceilings.images}) has been reached for this account.")


def versions(db: Database, image_arn: str, ceilings: Ceilings) -> None:
    """Raises OverQuota when the image has more versions than it may, failed ones too."""
    if _over(db.one("count_all_versions", image_arn=image_arn), ceilings.versions_per_image):
        raise OverQuota(
            f"The maximum number of versions ({ceilings.versions_per_image}) has been reached for MicroVM image "
            f"{image_arn}."
        )


def builds(db: Database, account: str, ceilings: Ceilings) -> None:
    """Raises OverQuota when the account has more builds that go on or wait than it may."""
    if _over(db.one("count_builds_owed", account=account), ceilings.concurrent_builds):
        raise OverQuota(
            f"The maximum number of concurrent builds ({ceilings.concurrent_builds}) has been reached for this account."
        )


def connectors(db: Database, account: str, ceilings: Ceilings) -> None:
    """Raises OverQuota when the account has more network connectors than it may."""
    if _over(db.one("count_connectors", account=account), ceilings.connectors):
        raise OverQuota(
            f"The maximum number of network connectors ({ceilings.connectors}) has been reached for this account."
        )


def connector_versions(db: Database, connector: str, ceilings: Ceilings) -> None:
    """Raises OverQuota when the connector has more versions than it may."""
    if _over(db.one("count_connector_versions", connector=connector), ceilings.versions_per_connector):
        raise OverQuota(
            f"The maximum number of versions ({ceilings.versions_per_connector}) has been reached for this connector."
        )


def _over(row: Row | None, ceiling: int, counted: str = "count") -> bool:
    return ceiling > 0 and row is not None and row[counted] > ceiling
