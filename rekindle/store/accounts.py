"""Accounts, their access keys, and the service's own secrets."""

from __future__ import annotations

import re
import secrets

from rekindle.clock import Clock
from rekindle.core.account import AccessKey
from rekindle.core.errors import Invalid
from rekindle.store.database import Database, Row

_ACCOUNT = re.compile(r"[0-9]{12}")


class Accounts:
    _db: Database
    _clock: Clock

    async def add_account(self, account: str, name: str) -> None:
        """Make an account; one that exists stays as it is. Raises Invalid when it is not 12 digits."""
        if _ACCOUNT.fullmatch(account) is None:
            raise Invalid(f"Account '{account}' must be 12 digits")
        self._db.run("add_account", id=account, name=name, now_ms=self._clock())

    async def accounts(self) -> list[str]:
        return [row["id"] for row in self._db.all("accounts")]

    async def add_access_key(self, key_id: str, secret: str, account: str, name: str) -> None:
        """Raises Invalid when there is no such account or the key exists."""
        if account not in await self.accounts():
            raise Invalid(f"There is no account {account}")
        if await self.access_key(key_id) is not None:
            raise Invalid(f"Access key {key_id} exists already")
        self._db.run("add_access_key", key_id=key_id, secret=secret, account=account, name=name, now_ms=self._clock())

    async def access_key(self, key_id: str) -> AccessKey | None:
        row = self._db.one("access_key", key_id=key_id)
        return None if row is None else _access_key(row)

    async def access_keys(self) -> list[AccessKey]:
        """Oldest first."""
        return [_access_key(row) for row in self._db.all("access_keys")]

    async def secret(self, name: str) -> bytes:
        """32 random bytes, made at first use and the same ever after."""
        with self._db.transaction():
            row = self._db.one("secret", name=name)
            if row is not None:
                return bytes(row["value"])
            value = secrets.token_bytes(32)
            self._db.run("add_secret", name=name, value=value)
        return value


def _access_key(row: Row) -> AccessKey:
    return AccessKey(key_id=row["key_id"], secret=row["secret"], account=row["account"])
