from __future__ import annotations

import pytest

from rekindle.core.account import AccessKey
from rekindle.core.errors import Invalid
from rekindle.store.db import Store

from .rows import ACCOUNT, OTHER


async def test_keys_belong_to_accounts(store: Store) -> None:
    await store.add_access_key("AKIA1", "s3cret", ACCOUNT, "default")
    assert await store.access_key("AKIA1") == AccessKey("AKIA1", "s3cret", ACCOUNT)
    assert await store.access_key("AKIA2") is None
    assert await store.access_keys() == [AccessKey("AKIA1", "s3cret", ACCOUNT)]
    with pytest.raises(Invalid, match="exists already"):
        await store.add_access_key("AKIA1", "other", OTHER, "x")
    with pytest.raises(Invalid, match="no account 222222222222"):
        await store.add_access_key("AKIA2", "other", "222222222222", "x")


async def test_a_secret_key_is_not_printed(store: Store) -> None:
    assert "s3cret" not in repr(AccessKey("AKIA1", "s3cret", ACCOUNT))


async def test_accounts_are_twelve_digits_and_made_once(store: Store) -> None:
    await store.add_account(ACCOUNT, "again")
    assert await store.accounts() == [ACCOUNT, OTHER]
    with pytest.raises(Invalid, match="12 digits"):
        await store.add_account("12", "short")


async def test_a_secret_stays_the_same(store: Store) -> None:
    first = await store.secret("cursor")
    assert len(first) == 32
    assert await store.secret("cursor") == first
    assert await store.secret("tokens") != first
