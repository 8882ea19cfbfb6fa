"""Code artifacts are read over the S3 wire, from the embedded store or any other endpoint.

In the embedded store the node reads as the account whose image is built, with a key of its own that lives in memory
only, may only read, and dies with the service: what keys the account has, or has no longer, is no matter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import boto3
from botocore.config import Config as BotoConfig

from rekindle.config import Config
from rekindle.core.account import AccessKey, KeyLookup

READS = json.dumps(
    {
        "Statement": {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"],
            "Resource": "*",
        }
    }
)


class BuildKeys:
    """One key an account, made by `new_key` (id, secret) when it is first needed."""

    def __init__(self, new_key: Callable[[], tuple[str, str]]) -> None:
        self._new_key = new_key
        self._by_account: dict[str, AccessKey] = {}

    def of(self, account: str) -> AccessKey:
        if account not in self._by_account:
            key_id, secret = self._new_key()
            self._by_account[account] = AccessKey(key_id, secret, account, "rekindle-builds", READS)
        return self._by_account[account]

    def before(self, others: KeyLookup) -> KeyLookup:
        """A lookup that knows these keys and then those of `others`."""

        async def look(key_id: str) -> AccessKey | None:
            own = next((key for key in self._by_account.values() if key.key_id == key_id), None)
            return own or await others(key_id)

        return look


def reader_for(config: Config, keys: BuildKeys, store_url: str) -> Callable[[str], Awaitable[Any]]:
    """A function that gives a boto3 S3 client reading as an account.

    With `artifacts.endpoint_url` set, the machine's own AWS credentials are used (boto3's default chain).
    """

    async def reader(account: str) -> Any:
        if config.artifacts.endpoint_url:
            return await asyncio.to_thread(_client, config.artifacts.endpoint_url, config.region, None, None)
        key = keys.of(account)
        return await asyncio.to_thread(_client, store_url, config.region, key.key_id, key.secret)

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
