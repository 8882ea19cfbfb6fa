"""An account with one of each thing in each state, made by real requests and the facts that a node would report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from rekindle.core.image import Version
from rekindle.core.lifecycle import Fact
from rekindle.store.db import Store
from tests.store.rows import ACCOUNT, OTHER, REGION, arn, built_image

from .wire import BASE, ROLE, Wire, create_params

MANAGED = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
HOOKS = {
    "port": 9000,
    "microvmImageHooks": {"ready": "ENABLED"},
    "microvmHooks": {"run": "ENABLED", "runTimeoutInSeconds": 5},
}
VPC = {
    "VpcEgressConfiguration": {
        "SubnetIds": ["subnet-0123456789abcdef0"],
        "SecurityGroupIds": ["sg-0123456789abcdef0"],
        "NetworkProtocol": "IPv4",
        "AssociatedComputeResourceTypes": ["MicroVm"],
    }
}
IDLE = {"maxIdleDurationSeconds": 900, "suspendedDurationSeconds": 1800, "autoResumeEnabled": True}


@dataclass
class World:
    """`things` names what there is; the names stand in the golden exchanges as `${name}`."""

    wire: Wire
    other: Wire
    store: Store
    things: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.things[name]

    async def version(self, image: str, number: str = "1.0") -> Version:
        version = await self.store.version(image, number)
        assert version is not None
        return version

    async def build(self, image: str, number: str = "1.0", failure: str | None = None) -> None:
        """What the node does when a build ends."""
        building = await self.store.building(await self.version(image, number))
        if failure is not None:
            await self.store.build_failed(building, reason=failure)
            return
        sizes = {"memory_snapshot_bytes": 609_087_488, "disk_snapshot_bytes": 25_600_000, "code_install_bytes": 186_400}
        await self.store.built(building, folder=f"{building.account}/x", **sizes)

    async def image(self, name: str, *, built: bool = True, **more: Any) -> str:
        made = await self.wire.ok("CreateMicrovmImage", **create_params(name=name, **more))
        if built:
            await self.build(made["imageArn"])
        return str(made["imageArn"])

    async def vm(self, *facts: Fact | str, **params: Any) -> str:
        """Started, and then what happens to it: a node's facts and a caller's asks in turn."""
        started = await self.wire.ok("RunMicrovm", **({"imageIdentifier": self["image"]} | params))
        for fact in facts:
            await self.happen(started["microvmId"], fact)
        return str(started["microvmId"])

    async def happen(self, vm_id: str, fact: Fact | str) -> None:
        if isinstance(fact, str):
            await self.wire.ok(fact, microvmIdentifier=vm_id)
            return
        vm = await self.store.microvm(vm_id)
        assert vm is not None
        await self.store.report(vm, fact)

    async def connector(self, name: str) -> str:
        made = await self.wire.ok(
            "CreateNetworkConnector", Name=name, Configuration=VPC, OperatorRole=ROLE, ClientToken=name, Tags={"a": "b"}
        )
        return str(made["Arn"])


async def make_world(wire: Wire, other: Wire) -> World:
    world = World(wire, replace(other), wire.api.tools.store)
    things = world.things
    things |= {"base": BASE, "role": ROLE, "nobody": arn("nobody"), "theirs": arn("theirs", OTHER), "managed": MANAGED}
    things["user"] = f"arn:aws:iam::{ACCOUNT}:user/nobody"
    cpu = wire.api.tools.cpu
    things |= {"architecture": cpu.architecture, "chipset": cpu.chipset, "generation": cpu.chipset_generation}
    await _images(world)
    await _microvms(world)
    things["connector"] = await world.connector("office")
    await world.store.settle_connectors()
    things["connector.id"] = things["connector"].rpartition(":")[2]
    things["connectors"] = things["connector"].removesuffix(things["connector.id"])
    things["connector.pending"] = await world.connector("new")
    return world


async def _images(world: World) -> None:
    things = world.things
    things["image"] = await world.image("demo", tags={"team": "blue"})
    things["hooked"] = await world.image("hooked", hooks=HOOKS, environmentVariables={"MODE": "fast"})
    things["spare"] = await world.image("spare")
    things["pending"] = await world.image("pending", built=False)
    things["failed"] = await world.image("failed", built=False)
    await world.build(things["failed"], failure="The container image build failed.")
    [build] = (await world.wire.ok("ListMicrovmImageBuilds", imageIdentifier=things["image"], imageVersion="1.0"))[
        "items"
    ]
    things["build"] = build["buildId"]
    things["two"] = await world.image("two")
    await _update(world, things["two"])
    await world.build(things["two"], "2.0")
    things["fresh"] = arn("fresh")
    things["updating"] = await world.image("updating")
    await _update(world, things["updating"])
    await built_image(world.store, "theirs", OTHER)


async def _update(world: World, image: str) -> None:
    params = {name: value for name, value in create_params().items() if name != "name"}
    await world.wire.ok("UpdateMicrovmImage", imageIdentifier=image, **params)


async def _microvms(world: World) -> None:
    things = world.things
    running = (Fact.STARTED,)
    suspended = (*running, "SuspendMicrovm", Fact.SUSPENDED)
    things["vm.pending"] = await world.vm()
    things["vm.running"] = await world.vm(*running, idlePolicy=IDLE)
    things["vm.suspended"] = await world.vm(*suspended)
    things["vm.terminated"] = await world.vm(*running, "TerminateMicrovm", Fact.STOPPED)
    things["vm.hooked"] = await world.vm(*running, imageIdentifier=things["hooked"], runHookPayload="hello")
    shell = f"{MANAGED}SHELL_INGRESS"
    things["vm.shell"] = await world.vm(*running, ingressNetworkConnectors=[shell, f"{MANAGED}HTTP_INGRESS"])
    things["vm.both"] = await world.vm(*running, ingressNetworkConnectors=[shell, f"{MANAGED}ALL_INGRESS"])
    for vm in ("pending", "running", "suspended", "terminated"):
        assert (await world.wire.ok("GetMicrovm", microvmIdentifier=things[f"vm.{vm}"]))["state"] == vm.upper()
