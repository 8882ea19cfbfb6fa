from __future__ import annotations

import pytest

from rekindle.core.account import AccessKey
from rekindle.core.errors import Invalid, NotFound, Refused
from rekindle.store.db import Store

from .rows import ACCOUNT, OTHER


async def test_keys_belong_to_accounts(store: Store) -> None:
    await store.add_access_key("AKIA1", "s3cret", ACCOUNT, "default")
    made = AccessKey("AKIA1", "s3cret", ACCOUNT, "default", None, store._clock())
    assert await store.access_key("AKIA1") == made
    assert await store.access_key("AKIA2") is None
    assert await store.access_keys() == [made]
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


POLICY = '{"Statement": {"Effect": "Allow", "Action": "lambda:Get*", "Resource": "*"}}'


async def test_a_policy_is_kept_with_its_key_and_must_be_one(store: Store) -> None:
    await store.add_access_key("AKIA1", "s", ACCOUNT, "reader", POLICY)
    key = await store.access_key("AKIA1")
    assert key is not None
    assert (key.policy, key.principal) == (POLICY, f"arn:aws:iam::{ACCOUNT}:user/reader")
    with pytest.raises(Invalid, match="Effect must be Allow or Deny"):
        await store.add_access_key("AKIA2", "s", ACCOUNT, "x", '{"Statement": {"Action": "*", "Resource": "*"}}')
    with pytest.raises(Invalid, match="Name 'a b' must be"):
        await store.add_access_key("AKIA2", "s", ACCOUNT, "a b")
    assert await store.access_key("AKIA2") is None


async def test_the_last_unrestricted_key_of_the_own_account_stays(store: Store) -> None:
    await store.add_access_key("AKIA1", "s", ACCOUNT, "one")
    await store.add_access_key("AKIA2", "s", ACCOUNT, "restricted", POLICY)
    await store.add_access_key("AKIA3", "s", OTHER, "other")
    with pytest.raises(Refused, match="last unrestricted key"):
        await store.remove_access_key("AKIA1", keep_one_of=ACCOUNT)
    with pytest.raises(NotFound, match="no access key AKIA9"):
        await store.remove_access_key("AKIA9", keep_one_of=ACCOUNT)
    await store.remove_access_key("AKIA2", keep_one_of=ACCOUNT)
    await store.remove_access_key("AKIA3", keep_one_of=ACCOUNT)
    await store.add_access_key("AKIA4", "s", ACCOUNT, "two")
    await store.remove_access_key("AKIA1", keep_one_of=ACCOUNT)
    assert [key.key_id for key in await store.access_keys()] == ["AKIA4"]
