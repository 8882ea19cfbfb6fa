"""Other AWS services at the service's root, asked by unmodified boto3 with the files that rekindle writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config as BotoConfig
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from rekindle import identity
from rekindle.api import front
from rekindle.api.app import Api
from rekindle.api.context import Raw
from rekindle.core.account import AccessKey
from tests.store.rows import ACCOUNT, OTHER, REGION

from .conftest import KEYS
from .test_clients import Service, service  # noqa: F401  # a fixture
from .wire import raw as raw_of

pytestmark = pytest.mark.slow


@pytest.fixture
def session(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:  # noqa: F811
    """What a program has that starts from our profile: not one endpoint is named in the program."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    identity.write_client_files(
        service.config, AccessKey(*KEYS[ACCOUNT], ACCOUNT), service.url, "http://127.0.0.1:1", tmp_path / "ca.pem"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws/config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws/credentials"))
    return boto3.Session()


def attempts(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["RetryAttempts"])


def test_sts_tells_the_account(session: boto3.Session) -> None:
    answer = session.client("sts").get_caller_identity()
    assert answer["Account"] == ACCOUNT
    assert answer["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/test"
    assert answer["UserId"] == "AIDA" + KEYS[ACCOUNT][0][4:]
    assert re.fullmatch(r"[0-9a-f-]{36}", answer["ResponseMetadata"]["RequestId"])


def test_sts_tells_each_key_its_own_account(session: boto3.Session) -> None:
    key_id, secret = KEYS[OTHER]
    sts = session.client("sts", aws_access_key_id=key_id, aws_secret_access_key=secret, region_name="eu-west-3")
    assert sts.get_caller_identity()["Account"] == OTHER


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_presigned_identity_request_is_answered(session: boto3.Session, method: str) -> None:
    url = session.client("sts").generate_presigned_url("get_caller_identity", HttpMethod=method)
    assert f"<Account>{ACCOUNT}</Account>" in httpx.request(method, url).raise_for_status().text
    forged = httpx.request(method, url.replace("GetCallerIdentity", "GetSessionToken"))
    assert (forged.status_code, "<Code>SignatureDoesNotMatch</Code>" in forged.text) == (403, True)


@pytest.mark.parametrize(
    ("key", "code"),
    [((KEYS[ACCOUNT][0], "wrong"), "SignatureDoesNotMatch"), (("AKIANOBODY", "x"), "InvalidClientTokenId")],
)
def test_a_stranger_is_told_nothing(session: boto3.Session, key: tuple[str, str], code: str) -> None:
    sts = session.client("sts", aws_access_key_id=key[0], aws_secret_access_key=key[1])
    with pytest.raises(ClientError) as refused:
        sts.get_caller_identity()
    error = refused.value.response
    assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == (code, 403)
    logs = session.client("logs", aws_access_key_id=key[0], aws_secret_access_key=key[1])
    with pytest.raises(ClientError) as refused:
        logs.describe_log_groups()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


@pytest.mark.parametrize("mode", ["standard", "legacy", "adaptive"])
@pytest.mark.parametrize(
    ("name", "call", "params", "code", "says"),
    [
        ("logs", "describe_log_groups", {}, "UnsupportedOperationException", "`rekindle logs`"),
        (
            "logs",
            "get_log_events",
            {"logGroupName": "/aws/lambda-microvms/x", "logStreamName": "y"},
            "UnsupportedOperationException",
            "GetLogEvents is not there. Rekindle does not serve CloudWatch Logs; `rekindle logs` shows",
        ),
        (
            "sts",
            "assume_role",
            {"RoleArn": "arn:aws:iam::000000000000:role/x", "RoleSessionName": "xyz"},
            "InvalidAction",
            "AssumeRole is not there. Rekindle has no STS but GetCallerIdentity",
        ),
        (
            "sts",
            "assume_role_with_web_identity",
            {"RoleArn": "arn:aws:iam::000000000000:role/x", "RoleSessionName": "xyz", "WebIdentityToken": "abcd"},
            "InvalidAction",
            "AssumeRoleWithWebIdentity is not there",
        ),
        ("iam", "list_roles", {}, "InvalidAction", "ListRoles is not there. Rekindle has no IAM"),
    ],
)
def test_the_rest_is_refused_once_and_says_why(
    session: boto3.Session, mode: Any, name: Any, call: str, params: dict[str, Any], code: str, says: str
) -> None:
    client: Any = session.client(name, config=BotoConfig(retries={"mode": mode}))
    with pytest.raises(ClientError) as refused:
        getattr(client, call)(**params)
    error = refused.value.response["Error"]
    assert error["Code"] == code
    assert says in error["Message"]
    assert attempts(refused.value) == 0


def test_any_other_service_is_refused_in_its_protocol(session: boto3.Session, service: Service) -> None:  # noqa: F811
    for name, call in (("dynamodb", "list_tables"), ("sns", "list_topics")):
        client: Any = session.client(name, endpoint_url=service.url)
        with pytest.raises(ClientError, match=r"is not there\. Rekindle serves Lambda MicroVMs"):
            getattr(client, call)()


def request(headers: dict[str, str], body: str, method: str = "POST", path: str = "/") -> Raw:
    path, _, query = path.partition("?")
    return Raw("0", method, path, query, tuple(headers.items()), body.encode())


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (request({}, "Action=GetCallerIdentity&Version=2011-06-15"), ("sts", "GetCallerIdentity")),
        (request({}, "", "GET", "/?Action=GetUser&Version=2010-05-08"), ("iam", "GetUser")),
        (request({"X-Amz-Target": "Logs_20140328.PutLogEvents"}, "{}"), ("logs", "PutLogEvents")),
        (request({}, "Action=%3Cb%3E&Version=2011-06-15"), None),
        (request({"x-amz-target": "<b>.<i>"}, "{}"), None),
        (request({}, "{}"), None),
        (request({}, "Action=X", path="/2025-09-09/microvms"), None),
        (request({}, "&" * 2000 + "Action=X"), None),
    ],
)
def test_what_is_asked_of_whom(raw: Raw, found: tuple[str, str] | None) -> None:
    foreign = front.asked(raw)
    assert (foreign and (foreign.service, foreign.operation)) == found


async def test_without_a_signature_nobody_has_an_identity(api: Api) -> None:
    reply = await api.answer(request({"host": "x"}, "Action=GetCallerIdentity&Version=2011-06-15"))
    assert reply.status == 403
    assert b"<Code>MissingAuthenticationToken</Code>" in reply.body


async def test_a_signature_for_one_service_is_none_for_another(api: Api) -> None:
    """A signature captured on a Logs call must not open the identity: the scope is part of what is signed."""
    signed = AWSRequest(
        "POST",
        "http://127.0.0.1:7070/",
        data="Action=GetCallerIdentity&Version=2011-06-15",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    SigV4Auth(Credentials(*KEYS[ACCOUNT]), "logs", REGION).add_auth(signed)
    as_logs = raw_of(signed)
    forged = tuple((name, value.replace("/logs/", "/sts/")) for name, value in as_logs.headers)
    reply = await api.answer(Raw("0", "POST", "/", "", forged, as_logs.body))
    assert b"<Code>SignatureDoesNotMatch</Code>" in reply.body
    assert b"InvalidAction" in (await api.answer(as_logs)).body
