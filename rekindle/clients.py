"""The first key of a state folder, and the files from which its clients know where the service is and who they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rekindle import identity
from rekindle.clock import Clock
from rekindle.config import Config, host_port
from rekindle.core.account import AccessKey
from rekindle.identity.keys import new_access_key
from rekindle.store.db import Store


async def equip(config: Config, store: Store, api_url: str, store_url: str, who: identity.Identity) -> None:
    """The first account and key if there are none; `client.env` and the profile again: ports may have moved."""
    if config.account not in await store.accounts():
        await store.add_account(config.account, "default")
    if not await _keys(config, store):
        key_id, secret = new_access_key()
        await store.add_access_key(key_id, secret, config.account, "default")
    key, *_ = await _keys(config, store)
    identity.write_client_files(config, key, api_url, store_url, who.ca_pem)


async def prepare(config: Config, clock: Clock) -> Sequence[Path]:
    """What `equip` makes, before the service has ever run; the files that clients read.

    Nothing is made, and none returned, when a port is 0: it is known once the service listens.
    """
    listen = (config.listen, config.artifacts.listen)
    if any(host_port(address)[1] == 0 for address in listen):
        return []
    who = identity.ensure(config, clock)
    store = await Store.open(config.state / "rekindle.db", clock)
    try:
        api_url, store_url = (f"http://{address}" for address in listen)
        await equip(config, store, api_url, store_url, who)
    finally:
        await store.close()
    return [config.state / name for name in ("client.env", "aws/config", "aws/credentials")]


async def _keys(config: Config, store: Store) -> list[AccessKey]:
    """Those that the service may hand to its own clients, oldest first."""
    return [key for key in await store.access_keys() if key.account == config.account and key.policy is None]
