"""boto3's lambda-core and tag operations and the AWS CLI, unmodified, against the service on a loopback port."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.store.rows import ACCOUNT, OTHER, REGION

from .conftest import KEYS
from .test_clients import AWS, Service, cli_env
from .test_clients import service as service  # a fixture
from .test_connectors import ROLE, vpc

pytestmark = pytest.mark.slow


def core(service: Service, account: str = ACCOUNT) -> Any:
    key_id, secret = KEYS[account]
    return boto3.client(
        "lambda-core",
        endpoint_url=service.url,
        region_name=REGION,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
    )


def settle(service: Service) -> None:
    """What the node does."""
    service.on(service.store.settle_connectors())


def test_boto3_makes_changes_and_deletes_connectors(service: Service) -> None:
    aws = core(service)
    made = aws.create_network_connector(Name="net", Configuration=vpc(), OperatorRole=ROLE, Tags={"a": "1"})
    assert (made["ResponseMetadata"]["HTTPStatusCode"], made["State"]) == (202, "PENDING")
    settle(service)
    got = aws.get_network_connector(Identifier="net")
    assert (got["State"], got["LastModified"].tzinfo is not None) == ("ACTIVE", True)
    told = aws.update_network_connector(Identifier=made["Arn"], Configuration=vpc(SubnetIds=["subnet-2"]))
    assert (told["ResponseMetadata"]["HTTPStatusCode"], told["Version"]) == (202, 2)
    settle(service)
    pages = aws.get_paginator("list_network_connector_versions").paginate(
        Identifier="net", PaginationConfig={"PageSize": 1}
    )
    assert [one["Version"] for page in pages for one in page["NetworkConnectorVersions"]] == [2, 1]
    pages = aws.get_paginator("list_network_connectors").paginate()
    assert [one["LatestVersion"] for page in pages for one in page["NetworkConnectors"]] == [2]
    with pytest.raises(aws.exceptions.ResourceConflictException, match="already exists"):
        aws.create_network_connector(Name="net", Configuration=vpc(), OperatorRole=ROLE)
    assert aws.delete_network_connector(Identifier="net")["State"] == "DELETING"
    settle(service)
    with pytest.raises(aws.exceptions.ResourceNotFoundException, match="Network connector not found for: arn:"):
        aws.get_network_connector(Identifier="net")
    with pytest.raises(ClientError, match=r"UnsupportedOperationException.*ListRuntimes belongs to Lambda runtimes"):
        aws.list_runtimes()


def test_boto3_tags_connectors(service: Service) -> None:
    made = core(service).create_network_connector(Name="net", Configuration=vpc(), OperatorRole=ROLE, Tags={"a": "1"})
    aws = service.client()
    told = aws.tag_resource(Resource=made["Arn"], Tags={"b": "2"})
    assert told["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert aws.list_tags(Resource=made["Arn"])["Tags"] == {"a": "1", "b": "2"}
    aws.untag_resource(Resource=made["Arn"], TagKeys=["a", "b"])
    assert aws.list_tags(Resource=made["Arn"])["Tags"] == {}
    with pytest.raises(ClientError, match="AccessDenied"):
        service.client(OTHER).list_tags(Resource=made["Arn"])


def test_the_aws_cli_knows_five_of_the_operations(service: Service) -> None:
    env = cli_env(AWS_ENDPOINT_URL_LAMBDA_CORE=service.url)

    def aws(*words: str) -> tuple[Any, str]:
        done = subprocess.run([AWS, "lambda-core", *words], env=env, capture_output=True, text=True, timeout=120)
        return json.loads(done.stdout) if done.returncode == 0 else None, done.stderr

    named = ["--name", "net", "--operator-role", ROLE]
    made, said = aws("create-network-connector", *named, "--configuration", json.dumps(vpc()))
    assert not said
    assert (made["Name"], made["State"], made["Configuration"]) == ("net", "PENDING", vpc())
    settle(service)
    listed, _ = aws("list-network-connectors")
    assert [one["State"] for one in listed["NetworkConnectors"]] == ["ACTIVE"]
    told, _ = aws("update-network-connector", "--identifier", "net", "--operator-role", ROLE)
    assert told["LastUpdateStatusReason"] == "No configuration changes detected"
    nothing, said = aws("get-network-connector", "--identifier", "nc-x")
    assert nothing is None
    assert "(ResourceNotFoundException) when calling the GetNetworkConnector" in said
    gone, _ = aws("delete-network-connector", "--identifier", made["Id"])
    assert gone["State"] == "DELETING"
