"""A program as one writes it for AWS Lambda MicroVMs: boto3 and the standard library, and no word of Rekindle.

It takes an image and its microVMs through their whole life, as AWS's guides describe it, and says what it saw. Where it
runs is decided outside: `. client.env` points boto3 at a Rekindle, SSL_CERT_FILE names the CA of its endpoints.
"""

from __future__ import annotations

import io
import json
import sys
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

NAME = "agent-sandbox"
DEADLINE_S = 300
HOOKS = {
    "port": 9000,
    "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 120},
    "microvmHooks": {
        "run": "ENABLED",
        "runTimeoutInSeconds": 30,
        "resume": "ENABLED",
        "resumeTimeoutInSeconds": 30,
        "suspend": "ENABLED",
        "suspendTimeoutInSeconds": 30,
    },
}
IDLE = {"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 1800, "autoResumeEnabled": True}

microvms = boto3.client("lambda-microvms")
connectors = boto3.client("lambda-core")
s3 = boto3.client("s3")
region = microvms.meta.region_name


def main(folder: Path) -> None:
    account = boto3.client("sts").get_caller_identity()["Account"]
    bucket = f"microvm-artifacts-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    upload(folder, bucket)
    image = create_image(bucket, account)
    try:
        live(image)
        new_version(image, bucket)
        private_network(image, account)
    finally:
        clean_up(image, bucket)
    say("done")


# -- images ------------------------------------------------------------------------------------------------------------


def upload(folder: Path, bucket: str) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            if file.is_file():
                archive.write(file, file.name)
    s3.put_object(Bucket=bucket, Key="app.zip", Body=data.getvalue())


def settings(bucket: str, account: str) -> dict[str, Any]:
    return {
        "baseImageArn": f"arn:aws:lambda:{region}:aws:microvm-image:al2023-1",
        "buildRoleArn": f"arn:aws:iam::{account}:role/MicrovmBuildRole",
        "codeArtifact": {"uri": f"s3://{bucket}/app.zip"},
        "resources": [{"minimumMemoryInMiB": 512}],
        "hooks": HOOKS,
        "logging": {"cloudWatch": {"logGroup": "/aws/lambda-microvms/agent-sandbox"}},
    }


def create_image(bucket: str, account: str) -> str:
    created = microvms.create_microvm_image(
        name=NAME,
        description="one sandbox per session",
        environmentVariables={"STAGE": "test"},
        tags={"team": "agents"},
        **settings(bucket, account),
    )
    assert created["state"] == "CREATING", created
    image: str = created["imageArn"]
    assert image == f"arn:aws:lambda:{region}:{account}:microvm-image:{NAME}"
    refused("ValidationException", microvms.create_microvm_image, name=NAME, **settings(bucket, account))
    settled(image, "CREATED")
    build = microvms.list_microvm_image_builds(imageIdentifier=image, imageVersion="1.0")["items"][0]
    whole = microvms.get_microvm_image_build(imageIdentifier=image, imageVersion="1.0", buildId=build["buildId"])
    assert whole["buildState"] == "SUCCESSFUL", whole
    assert whole["snapshotBuild"]["memorySnapshotSizeInBytes"] > 0
    microvms.tag_resource(Resource=image, Tags={"cost-centre": "42"})
    microvms.untag_resource(Resource=image, TagKeys=["team"])
    assert microvms.list_tags(Resource=image)["Tags"] == {"cost-centre": "42"}
    say(f"{image} 1.0 is built")
    return image


def settled(image: str, state: str) -> None:
    until(lambda: microvms.get_microvm_image(imageIdentifier=image)["state"], state, f"{image} is {state}")


def new_version(image: str, bucket: str) -> None:
    """Update, start from the new version, take it back."""
    account = image.split(":")[4]
    updated = microvms.update_microvm_image(imageIdentifier=image, **settings(bucket, account))
    assert (updated["state"], updated["imageVersion"]) == ("UPDATING", "2.0"), updated
    settled(image, "UPDATED")
    version = microvms.get_microvm_image_version(imageIdentifier=image, imageVersion="2.0")
    assert (version["state"], version["status"]) == ("SUCCESSFUL", "ACTIVE"), version
    assert version.get("environmentVariables") is None, "an update replaces everything"
    microvms.update_microvm_image_version(imageIdentifier=image, imageVersion="2.0", status="INACTIVE")
    refused("ResourceNotFoundException", microvms.run_microvm, imageIdentifier=image, imageVersion="2.0")
    vm = microvms.run_microvm(imageIdentifier=image, runHookPayload="{}")
    assert vm["imageVersion"] == "1.0", "without a version it is the newest active one"
    end(vm["microvmId"])
    microvms.delete_microvm_image_version(imageIdentifier=image, imageVersion="2.0")
    settled(image, "UPDATED")
    pages = microvms.get_paginator("list_microvm_image_versions").paginate(imageIdentifier=image)
    assert [item["imageVersion"] for page in pages for item in page["items"]] == ["1.0"]
    say("2.0 came, was taken back and is gone")


# -- microVMs ----------------------------------------------------------------------------------------------------------


def live(image: str) -> None:
    """One session: start, talk, sleep, wake by a request, and the clientToken that finds it again."""
    token = str(uuid.uuid4())
    asked: dict[str, Any] = {
        "imageIdentifier": image,
        "executionRoleArn": "arn:aws:iam::123456789012:role/MicrovmExecutionRole",
        "idlePolicy": IDLE,
        "runHookPayload": json.dumps({"session": "s-1"}),
        "logging": {"cloudWatch": {"logGroup": "/aws/lambda-microvms/agent-sandbox"}},
        "ingressNetworkConnectors": [managed("HTTP_INGRESS")],
        "egressNetworkConnectors": [managed("INTERNET_EGRESS")],
        "maximumDurationInSeconds": 3600,
        "clientToken": token,
    }
    vm = microvms.run_microvm(**asked)
    vm_id = vm["microvmId"]
    assert microvms.run_microvm(**asked)["microvmId"] == vm_id
    refused("ConflictException", microvms.run_microvm, **(asked | {"maximumDurationInSeconds": 60}))
    headers = auth(vm_id)
    assert call(vm, headers, "x = 41; x + 1") == "42"
    microvms.suspend_microvm(microvmIdentifier=vm_id)
    state(vm_id, "SUSPENDED")
    assert call(vm, headers, "x + 2") == "43", "memory outlives the sleep"
    state(vm_id, "RUNNING")
    assert http(vm, {}, "/state")[0] == 403
    refused("ValidationException", microvms.delete_microvm_image, imageIdentifier=image)
    refused(
        "ValidationException", microvms.create_microvm_shell_auth_token, microvmIdentifier=vm_id, expirationInMinutes=5
    )
    listed = microvms.get_paginator("list_microvms").paginate(imageIdentifier=image)
    assert vm_id in [item["microvmId"] for page in listed for item in page["items"]]
    end(vm_id)
    refused("ValidationException", microvms.suspend_microvm, microvmIdentifier=vm_id)
    say(f"{vm_id} ran, slept, woke and ended")


def private_network(image: str, account: str) -> None:
    """A VPC connector from its creation to its end, with a microVM behind it."""
    made = connectors.create_network_connector(
        Name="to-the-vpc",
        Configuration={
            "VpcEgressConfiguration": {
                "SubnetIds": ["subnet-0123456789abcdef0"],
                "SecurityGroupIds": ["sg-0123456789abcdef0"],
                "NetworkProtocol": "IPv4",
                "AssociatedComputeResourceTypes": ["MicroVm"],
            }
        },
        OperatorRole=f"arn:aws:iam::{account}:role/ConnectorRole",
        ClientToken=str(uuid.uuid4()),
    )
    arn = made["Arn"]
    until(lambda: connectors.get_network_connector(Identifier=arn)["State"], "ACTIVE", f"{arn} is ACTIVE")
    vm = microvms.run_microvm(imageIdentifier=image, egressNetworkConnectors=[arn], runHookPayload="{}")
    assert vm["egressNetworkConnectors"] == [arn]
    assert call(vm, auth(vm["microvmId"]), "1 + 1") == "2"
    end(vm["microvmId"])
    connectors.delete_network_connector(Identifier=arn)
    gone(lambda: connectors.get_network_connector(Identifier=arn), arn)
    say(f"{arn} came and went")


def managed(name: str) -> str:
    return f"arn:aws:lambda:{region}:aws:network-connector:aws-network-connector:{name}"


def auth(vm_id: str) -> Mapping[str, str]:
    answer = microvms.create_microvm_auth_token(
        microvmIdentifier=vm_id, expirationInMinutes=30, allowedPorts=[{"port": 8080}]
    )
    headers: Mapping[str, str] = answer["authToken"]
    return headers


def call(vm: Mapping[str, Any], headers: Mapping[str, str], source: str) -> str:
    """Clients are told to poll the endpoint and to try a 502 again."""
    status, body = until_answered(vm, headers, source)
    assert status == 200, (status, body)
    return str(json.loads(body)["result"])


def until_answered(vm: Mapping[str, Any], headers: Mapping[str, str], source: str) -> tuple[int, bytes]:
    ends = time.monotonic() + DEADLINE_S
    while True:
        status, body = http(vm, headers, "/run", source.encode())
        if status != 502 or time.monotonic() > ends:
            return status, body
        time.sleep(0.2)


def http(vm: Mapping[str, Any], headers: Mapping[str, str], path: str, data: bytes | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(f"https://{vm['endpoint']}{path}", data=data, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def state(vm_id: str, wanted: str) -> None:
    until(lambda: microvms.get_microvm(microvmIdentifier=vm_id)["state"], wanted, f"{vm_id} is {wanted}")


def end(vm_id: str) -> None:
    microvms.terminate_microvm(microvmIdentifier=vm_id)
    state(vm_id, "TERMINATED")
    assert microvms.get_microvm(microvmIdentifier=vm_id)["stateReason"] == "Success."


# -- the end -----------------------------------------------------------------------------------------------------------


def clean_up(image: str, bucket: str) -> None:
    for page in microvms.get_paginator("list_microvms").paginate(imageIdentifier=image):
        for item in page["items"]:
            end(item["microvmId"])
    microvms.delete_microvm_image(imageIdentifier=image)
    gone(lambda: microvms.get_microvm_image(imageIdentifier=image), image)
    s3.delete_object(Bucket=bucket, Key="app.zip")
    s3.delete_bucket(Bucket=bucket)


def refused(code: str, operation: Callable[..., Any], **arguments: Any) -> None:
    found = code_of(operation, **arguments)
    assert found == code, f"{found}, not {code}, for {arguments}"


def code_of(operation: Callable[..., Any], **arguments: Any) -> str | None:
    """The error's code, or None when there was no error."""
    try:
        operation(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


def until(look: Callable[[], str], wanted: str, what: str) -> None:
    ends = time.monotonic() + DEADLINE_S
    while (found := look()) != wanted:
        assert not found.endswith("FAILED"), f"{what}: it is {found}"
        assert time.monotonic() < ends, f"not within {DEADLINE_S} s: {what}; it is {found}"
        time.sleep(0.2)


def gone(look: Callable[[], Any], what: str) -> None:
    until(lambda: code_of(look) or "there", "ResourceNotFoundException", f"{what} is gone")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
