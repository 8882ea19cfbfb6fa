"""Accounts and keys on the command line; what a key may do is asked of the service itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from rekindle.cli.session import read_exports
from tests.cli.ground import KEY, Ground

#: Holds for who calls from this machine, in clear: what the service itself must have seen.
POLICY = """{"Statement": {"Effect": "Allow", "Action": "lambda:ListMicrovms", "Resource": "*", "Condition": {
    "IpAddress": {"aws:SourceIp": "127.0.0.0/8"}, "Bool": {"aws:SecureTransport": "false"},
    "StringLike": {"aws:UserAgent": "Boto3/*"}}}}"""


async def test_an_account_and_its_keys(here: Ground, tmp_path: Path) -> None:
    made = (await here.cli("account", "create", "blue", "--id", "111122223333", "--json")).json
    assert made == {"id": "111122223333", "name": "blue"}
    assert "exists already" in (await here.cli("account", "create", "blue", "--id", "111122223333")).err
    document = tmp_path / "policy.json"
    document.write_text(POLICY)
    words = ("--account", "111122223333", "--name", "ann", "--policy", str(document), "--json")
    key = (await here.cli("key", "create", *words)).json
    assert key["principal"] == "arn:aws:iam::111122223333:user/ann"
    listed = (await here.cli("key", "ls", "--json")).json
    assert [one["key_id"] for one in listed] == [KEY.key_id, key["key_id"]]
    assert "secret" not in listed[1]
    assert [one["keys"] for one in (await here.cli("account", "ls", "--json")).json] == [1, 1]
    assert await asked(here, key, "list_microvms") is None
    assert await asked(here, key, "list_microvm_images") == "AccessDeniedException"
    assert (await here.cli("key", "rm", key["key_id"])).code == 0
    assert await asked(here, key, "list_microvms") == "UnrecognizedClientException"


async def test_a_policy_that_is_none_makes_no_key(here: Ground) -> None:
    done = await here.cli("key", "create", "--policy", "-", stdin=b"{}")
    assert (done.code, "Statement must be" in done.err) == (1, True)
    assert len((await here.cli("key", "ls", "--json")).json) == 1


async def test_client_env_never_names_a_key_that_is_gone(here: Ground) -> None:
    assert "last unrestricted key" in (await here.cli("key", "rm", KEY.key_id)).err
    made = read_exports((await here.cli("key", "create", "--name", "second")).out)
    assert (await here.cli("key", "rm", KEY.key_id)).code == 0
    given = read_exports((here.config.state / "client.env").read_text())
    assert given["AWS_ACCESS_KEY_ID"] == made["AWS_ACCESS_KEY_ID"]
    assert given["AWS_SECRET_ACCESS_KEY"] == made["AWS_SECRET_ACCESS_KEY"]


async def asked(here: Ground, key: dict[str, Any], operation: str) -> str | None:
    """The error code of a call by that key, or None."""
    url = read_exports((here.config.state / "client.env").read_text())["AWS_ENDPOINT_URL_LAMBDA_MICROVMS"]
    client = boto3.client(
        "lambda-microvms",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key["key_id"],
        aws_secret_access_key=key["secret"],
    )
    try:
        await asyncio.to_thread(getattr(client, operation))
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    finally:
        client.close()
    return None
