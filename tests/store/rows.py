"""Rows to put into a store, and a clock that moves when told."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from rekindle.core.connector import Connector, ConnectorState
from rekindle.core.image import Build, Hook, Hooks, Image, ImageState, Version, VersionState, VersionStatus
from rekindle.core.lifecycle import Phase
from rekindle.core.microvm import IdlePolicy, MicroVM
from rekindle.store.db import Store

ACCOUNT = "000000000000"
OTHER = "111111111111"
REGION = "us-east-1"
PORTS = range(20000, 20010)


@dataclass
class HandClock:
    """A clock moved by hand."""

    now_ms: int = 1_785_400_000_000

    def __call__(self) -> int:
        return self.now_ms

    def pass_minutes(self, minutes: int) -> None:
        self.now_ms += minutes * 60_000


def arn(name: str, account: str = ACCOUNT) -> str:
    return f"arn:aws:lambda:{REGION}:{account}:microvm-image:{name}"


def image_rows(name: str = "demo", account: str = ACCOUNT) -> tuple[Image, Version, Build]:
    image = Image(
        id=str(uuid.uuid4()),
        arn=arn(name, account),
        account=account,
        region=REGION,
        name=name,
        state=ImageState.CREATING,
        created_at_ms=1,
        updated_at_ms=1,
        tags={"team": "blue"},
    )
    version = Version(
        image_arn=image.arn,
        account=account,
        region=REGION,
        version="1.0",
        state=VersionState.PENDING,
        status=VersionStatus.INACTIVE,
        revision=0,
        request={"description": "x", "resources": [{"minimumMemoryInMiB": 512}]},
        base_image_version="1.0",
        artifact_uri="s3://code/demo.zip",
        memory_mib=512,
        vcpus=1,
        environment={"A": "b"},
        hooks=Hooks(port=9000, enabled=(Hook(name="ready", timeout_s=60), Hook(name="run", timeout_s=1))),
        os_capabilities_all=False,
        egress=("INTERNET_EGRESS",),
        created_at_ms=1,
        updated_at_ms=1,
    )
    return image, version, build_row(version)


def build_row(version: Version) -> Build:
    return Build(
        id=str(uuid.uuid4()),
        image_arn=version.image_arn,
        version=version.version,
        state=VersionState.PENDING,
        architecture="X86_64",
        chipset="INTEL",
        chipset_generation="1",
        created_at_ms=1,
    )


def vm_row(clock: HandClock, name: str = "demo", account: str = ACCOUNT) -> MicroVM:
    return MicroVM(
        id=f"microvm-{uuid.uuid4()}",
        account=account,
        region=REGION,
        node="local",
        phase=Phase.PENDING,
        revision=0,
        generation=1,
        image_arn=arn(name, account),
        image_version="1.0",
        endpoint_id=str(uuid.uuid4()),
        endpoint_port=0,
        memory_mib=512,
        vcpus=1,
        idle=IdlePolicy(max_idle_s=60, suspended_s=600, auto_resume=True),
        max_duration_s=28800,
        ingress=("HTTP_INGRESS",),
        egress=("INTERNET_EGRESS",),
        started_at_ms=clock(),
        logging={"disabled": {}},
        run_hook_payload="hello",
    )


async def built_image(store: Store, name: str = "demo", account: str = ACCOUNT) -> Version:
    image, version, build = image_rows(name, account)
    await store.create_image(image, version, build, client_token=None, token_digest="")
    version = await store.building(version)
    return await store.built(
        version, folder=f"{account}/{build.id}", memory_snapshot_bytes=3, disk_snapshot_bytes=2, code_install_bytes=1
    )


async def updated_image(store: Store, name: str = "demo", account: str = ACCOUNT, *, good: bool = True) -> Version:
    """A second or later version of a built image, its build over."""
    _, row, build = image_rows(name, account)
    _, version = await store.update_image(row, build, client_token=None, token_digest="")
    version = await store.building(version)
    if not good:
        return await store.build_failed(version, reason="CONTAINER_BUILD_FAILED: step 2")
    return await store.built(
        version, folder=f"{account}/{build.id}", memory_snapshot_bytes=3, disk_snapshot_bytes=2, code_install_bytes=1
    )


async def started(store: Store, clock: HandClock, name: str = "demo", account: str = ACCOUNT) -> MicroVM:
    vm = vm_row(clock, name, account)
    return await store.run_microvm(vm, PORTS, client_token=None, token_digest="")


def connector_row(name: str = "vpc", account: str = ACCOUNT) -> Connector:
    connector_id = f"nc-{uuid.uuid4()}"
    return Connector(
        id=connector_id,
        arn=f"arn:aws:lambda:{REGION}:{account}:network-connector:{connector_id}",
        account=account,
        region=REGION,
        name=name,
        state=ConnectorState.PENDING,
        state_reason="Initial creation",
        number=1,
        configuration={
            "VpcEgressConfiguration": {
                "SubnetIds": ["subnet-1"],
                "SecurityGroupIds": ["sg-1"],
                "NetworkProtocol": "IPv4",
                "AssociatedComputeResourceTypes": ["MicroVm"],
            }
        },
        operator_role="arn:aws:iam::000000000000:role/operator",
        tags={"team": "blue"},
        created_at_ms=1,
        updated_at_ms=1,
    )


async def settled_connector(store: Store, name: str = "vpc", account: str = ACCOUNT) -> Connector:
    """ACTIVE, as the node leaves it; its client token is its name."""
    made = await store.create_connector(connector_row(name, account), client_token=name, token_digest="d")
    await store.settle_connectors()
    found = await store.connector(made.arn)
    assert found is not None
    return found
