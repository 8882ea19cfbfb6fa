"""Accounts, their access keys, and the service's own secrets."""

from __future__ import annotations

import re
import secrets

from rekindle.clock import Clock
from rekindle.core import policy as policies
from rekindle.core.account import AccessKey, Account
from rekindle.core.errors import Invalid, NotFound, Refused
from rekindle.store.database import Database, columns

_ACCOUNT = re.compile(r"[0-9]{12}")
_NAME = re.compile(r"[A-Za-z0-9+=,.@_-]{1,64}")  # IAM's rule for user names


class Accounts:
    _db: Database
    _clock: Clock

    async def add_account(self, account: str, name: str) -> None:
        """Make an account; one that exists stays as it is. Raises Invalid when it is not 12 digits."""
        if _ACCOUNT.fullmatch(account) is None:
            raise Invalid(f"Account '{account}' must be 12 digits")
        self._db.run("add_account", id=account, name=name, now_ms=self._clock())

    async def accounts(self) -> list[str]:
        return [one.id for one in await self.all_accounts()]

    async def all_accounts(self) -> list[Account]:
        return [Account(row["id"], row["name"], row["created_at_ms"]) for row in self._db.all("accounts")]

    async def add_access_key(
        self, key_id: str, secret: str, account: str, name: str, policy: str | None = None
    ) -> AccessKey:
        """A key of a user `name`. Raises Invalid when there is no such account, the key exists, the name is none that
        IAM takes, or the policy is no policy document.
        """
        if _NAME.fullmatch(name) is None:
            raise Invalid(f"Name '{name}' must be 1 to 64 letters, digits or any of +=,.@_-")
        if policy is not None:
            policies.parse(policy)
        if account not in await self.accounts():
            raise Invalid(f"There is no account {account}")
        if await self.access_key(key_id) is not None:
            raise Invalid(f"Access key {key_id} exists already")
        key = AccessKey(key_id, secret, account, name, policy, self._clock())
        self._db.run("add_access_key", **columns(key))
        return key

    async def access_key(self, key_id: str) -> AccessKey | None:
        row = self._db.one("access_key", key_id=key_id)
        return None if row is None else AccessKey(**dict(row))

    async def access_keys(self) -> list[AccessKey]:
        """Oldest first."""
        return [AccessKey(**dict(row)) for row in self._db.all("access_keys")]

    async def remove_access_key(self, key_id: str, *, keep_one_of: str) -> None:
        """From the next request on nobody is let in by it. Raises NotFound; Refused for the last unrestricted key of
        the account `keep_one_of`: the service hands it to its own clients.
        """
        with self._db.transaction():
            keys = [AccessKey(**dict(row)) for row in self._db.all("access_keys")]
            going = next((one for one in keys if one.key_id == key_id), None)
            if going is None:
                raise NotFound(f"There is no access key {key_id}")
            if going.account == keep_one_of and not any(
                one.key_id != key_id and one.account == keep_one_of and one.policy is None for one in keys
            ):
                raise Refused(f"{key_id} is the last unrestricted key of account {keep_one_of}; make another first")
            self._db.run("remove_access_key", key_id=key_id)

    async def secret(self, name: str) -> bytes:
        """32 random bytes, made at first use and the same ever after."""
        with self._db.transaction():
            row = self._db.one("secret", name=name)
            if row is not None:
                return bytes(row["value"])
            value = secrets.token_bytes(32)
            self._db.run("add_secret", name=name, value=value)
        return value
