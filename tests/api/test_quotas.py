"""Quotas, room and sizes as a client sees them; and boto3 on a socket at the ceiling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import pytest
from botocore.exceptions import ClientError

from rekindle.api import model
from rekindle.api.app import Api
from rekindle.config import AWS_QUOTAS, Memory, Quotas
from rekindle.core import cpu
from rekindle.core.lifecycle import Ask, Fact, Phase
from rekindle.store import quotas
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, REGION, arn, built_image

from .conftest import KEYS
from .test_clients import Service
from .wire import BASE, RecordingEngine, Wire, create_params

SMALL = 512  #: memory of the image that `built_image` leaves
CONNECTOR = {
    "OperatorRole": "arn:aws:iam::000000000000:role/operator",
    "Configuration": {
        "VpcEgressConfiguration": {
            "SubnetIds": ["subnet-0123456789abcdef0"],
            "SecurityGroupIds": ["sg-0123456789abcdef0"],
            "NetworkProtocol": "IPv4",
            "AssociatedComputeResourceTypes": ["MicroVm"],
        }
    },
}


def with_config(api: Api, **changes: Any) -> Wire:
    """The same service under another configuration."""
    return Wire(Api(replace(api.tools, config=replace(api.tools.config, **changes))), KEYS[ACCOUNT])


async def sleep(store: Store, vm_id: str) -> None:
    vm = await store.microvm(vm_id)
    assert vm is not None
    await store.report(vm, Fact.STARTED)
    asleep = await store.ask(vm_id, Ask.SUSPEND)
    await store.report(asleep, Fact.SUSPENDED, snapshot=1)


# --- quotas


async def test_the_memory_ceiling_is_the_recorded_402(api: Api, store: Store, engine: RecordingEngine) -> None:
    """Spec Appendix A; a replay of the launch that filled it is answered (spec §1.9)."""
    await built_image(store)
    wire = with_config(api, quotas=Quotas(memory_mib=SMALL))
    first = await wire.ok("RunMicrovm", imageIdentifier=arn("demo"), clientToken="t")
    for asleep in (False, True):
        answer = await wire.call("RunMicrovm", imageIdentifier=arn("demo"))
        assert answer.status == HTTPStatus.PAYMENT_REQUIRED
        assert answer.reply.headers["X-Amzn-Errortype"] == "ServiceQuotaExceededException"
        assert answer.json == {
            "message": quotas.MEMORY,
            "quotaCode": None,
            "resourceId": None,
            "resourceType": None,
            "serviceCode": None,
        }
        if not asleep:
            await sleep(store, first["microvmId"])
    again = await wire.ok("RunMicrovm", imageIdentifier=arn("demo"), clientToken="t")
    assert again["microvmId"] == first["microvmId"]
    assert engine.admitted == [first["microvmId"]]


async def test_what_an_account_may_make(api: Api, store: Store) -> None:
    wire = with_config(api, quotas=Quotas(images=2, versions_per_image=1, concurrent_builds=1))
    await wire.ok("CreateMicrovmImage", **create_params())
    answer = await wire.call("CreateMicrovmImage", **create_params(name="second"))
    assert (answer.status, answer.error[0]) == (HTTPStatus.PAYMENT_REQUIRED, "ServiceQuotaExceededException")
    assert "maximum number of concurrent builds" in answer.error[1]
    version = await store.version(arn("demo"), "1.0")
    assert version is not None
    sizes = {"memory_snapshot_bytes": 1, "disk_snapshot_bytes": 1, "code_install_bytes": 1}
    await store.built(await store.building(version), folder="f", **sizes)
    update = {name: value for name, value in create_params().items() if name != "name"}
    answer = await wire.call("UpdateMicrovmImage", imageIdentifier=arn("demo"), **update)
    assert answer.status == HTTPStatus.PAYMENT_REQUIRED
    assert "number of versions (1)" in answer.error[1]
    await wire.ok("CreateMicrovmImage", **create_params(name="second"))
    answer = await wire.call("CreateMicrovmImage", **create_params(name="third"))
    assert answer.status == HTTPStatus.PAYMENT_REQUIRED
    assert "number of MicroVM images (2)" in answer.error[1]
    other = Wire(wire.api, KEYS[OTHER])
    await other.ok("CreateMicrovmImage", **create_params())


async def test_network_connectors_have_an_error_of_their_own(api: Api, store: Store) -> None:
    wire = with_config(api, quotas=Quotas(connectors=1, versions_per_connector=1))
    made = await wire.ok("CreateNetworkConnector", Name="a", ClientToken="a", **CONNECTOR)
    answer = await wire.call("CreateNetworkConnector", Name="b", ClientToken="b", **CONNECTOR)
    expected = (model.error_status("NetworkConnectorLimitExceededException"), "NetworkConnectorLimitExceededException")
    assert (answer.status, answer.error[0]) == expected
    await store.settle_connectors()
    role = "arn:aws:iam::000000000000:role/another"
    answer = await wire.call("UpdateNetworkConnector", Identifier=made["Arn"], OperatorRole=role)
    assert (answer.status, answer.error[0]) == expected


# --- room


async def test_a_full_machine_is_no_fault_of_the_client(api: Api, store: Store, engine: RecordingEngine) -> None:
    await built_image(store)
    wire = with_config(api, memory=Memory(host_mib=SMALL, overcommit=4, peak_factor=4))
    first = await wire.ok("RunMicrovm", imageIdentifier=arn("demo"))
    full = await wire.call("RunMicrovm", imageIdentifier=arn("demo"))
    assert (full.status, full.error[0]) == (HTTPStatus.INTERNAL_SERVER_ERROR, "InsufficientCapacityException")
    assert engine.admitted == [first["microvmId"]]
    await sleep(store, first["microvmId"])
    second = await wire.ok("RunMicrovm", imageIdentifier=arn("demo"))
    kicks = engine.kicks
    answer = await wire.call("ResumeMicrovm", microvmIdentifier=first["microvmId"])
    assert (answer.status, answer.error[0]) == (HTTPStatus.TOO_MANY_REQUESTS, "ThrottlingException")
    assert (answer.reply.headers["Retry-After"], engine.kicks) == ("1", kicks)
    assert (await wire.ok("GetMicrovm", microvmIdentifier=first["microvmId"]))["state"] == "SUSPENDED"
    await sleep(store, second["microvmId"])
    await wire.ok("ResumeMicrovm", microvmIdentifier=first["microvmId"])
    woken = await store.microvm(first["microvmId"])
    assert woken is not None
    assert woken.phase is Phase.RESUMING


# --- sizes


async def test_an_image_of_an_unknown_size_is_not_made(wire: Wire, store: Store) -> None:
    answer = await wire.call("CreateMicrovmImage", **create_params(resources=[{"minimumMemoryInMiB": 3072}]))
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert answer.json == {
        "message": f"The requested memory size of 3072 MiB is not supported by base MicroVM image {BASE}. "
        "Supported memory sizes in MiB are: [256, 512, 1024, 2048, 4096, 8192]."
    }
    assert await store.image(arn("demo")) is None


@pytest.mark.parametrize(("mib_per_vcpu", "vcpus"), [(2048, 1), (512, 2), (4096, 1)])
async def test_vcpus_are_what_the_operator_says_up_to_the_host(
    api: Api, store: Store, mib_per_vcpu: int, vcpus: int
) -> None:
    wire = with_config(api, memory=Memory(mib_per_vcpu=mib_per_vcpu))
    made = await wire.ok("CreateMicrovmImage", **create_params())
    assert made["resources"] == [{"minimumMemoryInMiB": 2048}]
    version = await store.version(arn("demo"), "1.0")
    assert version is not None
    assert (version.vcpus, version.memory_mib) == (vcpus, 2048)


@pytest.mark.parametrize(
    ("machine", "mine", "chipset", "foreign"),
    [("aarch64", "ARM_64", "GRAVITON", "X86_64"), ("x86_64", "X86_64", "INTEL", "ARM_64")],
)
async def test_guests_have_the_processor_of_the_host(
    api: Api, machine: str, mine: str, chipset: str, foreign: str
) -> None:
    wire = Wire(Api(replace(api.tools, cpu=cpu.of_machine(machine))), KEYS[ACCOUNT])
    answer = await wire.call("CreateMicrovmImage", **create_params(cpuConfigurations=[{"architecture": foreign}]))
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert answer.error[1] == f"Architecture {foreign} is not available; this machine offers {mine}."
    for name, asked in (("named", [{"architecture": mine}]), ("omitted", None)):
        made = await wire.ok("CreateMicrovmImage", **create_params(name=name, cpuConfigurations=asked))
        assert made["cpuConfigurations"] == [{"architecture": mine}]
        builds = await wire.ok("ListMicrovmImageBuilds", imageIdentifier=made["imageArn"], imageVersion="1.0")
        assert [(one["architecture"], one["chipset"]) for one in builds["items"]] == [(mine, chipset)]
    [base] = (await wire.ok("ListManagedMicrovmImageVersions", imageIdentifier=BASE))["items"]
    assert base["supportedCpuConfigurations"] == [{"architecture": mine}]


# --- boto3 on a socket


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Service]:
    """AWS's rates, with room for one microVM in the account."""
    service = Service(tmp_path, quotas=Quotas(**{**AWS_QUOTAS, "memory_mib": 256}))
    yield service
    service.close()


def impatient(service: Service, name: str = "lambda-microvms") -> Any:
    """A client that shows every answer: botocore tries again by itself otherwise."""
    key_id, secret = KEYS[ACCOUNT]
    return boto3.client(
        name,
        endpoint_url=service.url,
        region_name=REGION,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )


@pytest.mark.slow
def test_boto3_sees_402_and_429(small: Service) -> None:
    aws = impatient(small)
    made = aws.create_microvm_image(**create_params(resources=[{"minimumMemoryInMiB": 256}]))
    small.on(small.build("demo"))
    aws.run_microvm(imageIdentifier=made["imageArn"])
    with pytest.raises(aws.exceptions.ServiceQuotaExceededException) as over:
        aws.run_microvm(imageIdentifier=made["imageArn"])
    assert over.value.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.PAYMENT_REQUIRED
    assert over.value.response["Error"]["Message"] == quotas.MEMORY
    throttled = None
    for _ in range(100):
        try:
            aws.suspend_microvm(microvmIdentifier="microvm-x")
        except aws.exceptions.ThrottlingException as err:
            throttled = err
            break
        except aws.exceptions.ResourceNotFoundException:
            continue
    assert throttled is not None, "two a second are let through"
    answer = throttled.response["ResponseMetadata"]
    assert (answer["HTTPStatusCode"], answer["RetryAttempts"]) == (HTTPStatus.TOO_MANY_REQUESTS, 0)
    assert answer["HTTPHeaders"]["retry-after"] == "1"
    assert throttled.response["retryAfterSeconds"] == 1
    assert throttled.response["Error"]["Message"] == "Rate exceeded"


@pytest.mark.slow
def test_an_ordinary_client_comes_back_by_itself(small: Service) -> None:
    """botocore waits and tries again: a program with AWS's rates in its way ends well."""
    aws = small.client()
    for _ in range(4):
        with pytest.raises(ClientError, match="MicroVM not found"):
            aws.suspend_microvm(microvmIdentifier="microvm-x")
