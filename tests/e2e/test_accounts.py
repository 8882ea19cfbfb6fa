"""Nothing of one account is visible to another."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from rekindle.clock import wall_ms
from rekindle.identity.keys import new_access_key
from rekindle.store.db import Store
from tests.e2e.cloud import Cloud, Vm

OTHER = "111122223333"


@pytest.fixture(scope="module")
def stranger(cloud: Cloud) -> dict[str, str]:
    """A second account's key, put into the store as an operator would."""
    key_id, secret = new_access_key()

    async def add() -> None:
        store = await Store.open(cloud.state / "rekindle.db", wall_ms)
        await store.add_account(OTHER, "other")
        await store.add_access_key(key_id, secret, OTHER, "other")
        await store.close()

    asyncio.run(add())
    return {"key_id": key_id, "secret": secret}


def test_a_key_held_to_one_image(cloud: Cloud, image: str, vm_running: Vm, tmp_path: Path) -> None:
    """May look at the VMs of one image and wake them; may not suspend, start or read artifacts."""
    statement = {"Effect": "Allow", "Action": ["lambda:GetMicrovm", "lambda:ResumeMicrovm"], "Resource": image}
    document = tmp_path / "policy.json"
    document.write_text(json.dumps({"Version": "2012-10-17", "Statement": statement}))
    key = json.loads(cloud.cli("key", "create", "--name", "ann", "--policy", str(document), "--json").stdout)
    ann = {"key_id": key["key_id"], "secret": key["secret"]}
    held = cloud.client(**ann)
    assert held.get_microvm(microvmIdentifier=vm_running.id)["state"] == "RUNNING"
    held.resume_microvm(microvmIdentifier=vm_running.id)
    s3 = cloud.client("s3", **ann)
    for call, arguments in (
        (held.suspend_microvm, {"microvmIdentifier": vm_running.id}),
        (held.run_microvm, {"imageIdentifier": image}),
        (held.list_microvms, {}),
        (s3.get_object, {"Bucket": "artifacts", "Key": "interpreter.zip"}),
    ):
        with pytest.raises(ClientError) as refused:
            call(**arguments)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    cloud.cli("key", "rm", key["key_id"])
    with pytest.raises(ClientError, match="security token"):
        held.get_microvm(microvmIdentifier=vm_running.id)


def test_lists_show_only_ones_own(cloud: Cloud, vm_running: Vm, stranger: dict[str, str]) -> None:
    other = cloud.client(**stranger)
    assert [item["microvmId"] for item in cloud.client().list_microvms()["items"]].count(vm_running.id) == 1
    assert other.list_microvms()["items"] == []
    assert other.list_microvm_images()["items"] == []
    assert cloud.client("s3", **stranger).list_buckets()["Buckets"] == []


def test_a_strangers_microvm_does_not_exist(cloud: Cloud, vm_running: Vm, stranger: dict[str, str]) -> None:
    other = cloud.client(**stranger)
    calls = [other.get_microvm, other.suspend_microvm, other.resume_microvm, other.terminate_microvm]
    for call in calls:
        with pytest.raises(ClientError) as refused:
            call(microvmIdentifier=vm_running.id)
        assert refused.value.response["Error"]["Code"] == "ResourceNotFoundException"
    with pytest.raises(ClientError):
        other.create_microvm_auth_token(
            microvmIdentifier=vm_running.id, expirationInMinutes=5, allowedPorts=[{"port": 8080}]
        )
    assert vm_running.row()["state"] == "RUNNING"


def test_a_strangers_image_and_artifacts_are_denied(cloud: Cloud, image: str, stranger: dict[str, str]) -> None:
    other = cloud.client(**stranger)
    for call in (other.get_microvm_image, other.run_microvm):
        with pytest.raises(ClientError) as refused:
            call(imageIdentifier=image)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    with pytest.raises(ClientError) as refused:
        cloud.client("s3", **stranger).get_object(Bucket="artifacts", Key="interpreter.zip")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
