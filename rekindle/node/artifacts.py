"""Code artifacts are read over the S3 wire with an account's own key, from the embedded store or any other endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import boto3
from botocore.config import Config as BotoConfig

from rekindle.config import Config
from rekindle.core.errors import BuildFailed
from rekindle.store.db import Store


def reader_for(config: Config, store: Store, store_url: str) -> Callable[[str], Awaitable[Any]]:
    """A function that gives a boto3 S3 client reading as an account.

    With `artifacts.endpoint_url` set, the machine's own AWS credentials are used (boto3's default chain); the embedded
    store knows the account's first key.
    """

    async def reader(account: str) -> Any:
        if config.artifacts.endpoint_url:
            return await asyncio.to_thread(_client, config.artifacts.endpoint_url, config.region, None, None)
        keys = [key for key in await store.access_keys() if key.account == account]
        if not keys:
            raise BuildFailed("S3_ACCESS_DENIED", f"Account {account} has no access key to read its artifacts with.")
        return await asyncio.to_thread(_client, store_url, config.region, keys[0].key_id, keys[0].secret)

    return reader


def _client(url: str, region: str, key_id: str | None, secret: str | None) -> Any:
    session = boto3.session.Session()
    own = BotoConfig(proxies={}) if key_id else BotoConfig()
    return session.client(
        "s3",
        endpoint_url=url,
        region_name=region,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=own,
    )
