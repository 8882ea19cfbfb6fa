"""A keeper's surroundings: a real store, and a relay, a guest and a driver that fail when told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from rekindle.config import Config
from rekindle.core.errors import GuestError, MachineError, NoCapacity
from rekindle.core.image import Hooks
from rekindle.core.microvm import MicroVM
from rekindle.driver.base import Accel, Exit, ExitKind, Handle, MachineSpec, Snapshot
from rekindle.guest.client import AppEnd, HookCall, HookResult, NoRoute, RelayGone, Thawed, Wishes
from rekindle.image.toolbox import Toolbox
from rekindle.node.confirm import boot_id_of
from rekindle.node.layout import Layout
from rekindle.node.machine import Baked, Host
from rekindle.node.perform import Hands
from rekindle.node.relay import Relay
from tests.store.rows import HandClock

NOWHERE = Path("/nonexistent")
TOOLS = Toolbox(digest="none", root=NOWHERE, vmlinux=NOWHERE, modules=NOWHERE, packages={}, made_at_ms=0)


class Driver:
    """Machines are numbers. `failing`: what the next call of a method raises."""

    def __init__(self) -> None:
        self.alive: dict[int, asyncio.Event] = {}
        self.failing: dict[str, list[Exception]] = {}
        self.calls: list[str] = []
        self.ends = Exit(kind=ExitKind.DIED)  #: how a machine ends
        self.may_restore = asyncio.Event()
        self.may_restore.set()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.failing.get(name):
            raise self.failing[name].pop(0)

    async def boot(self, spec: MachineSpec) -> Handle:
        raise AssertionError("keepers never boot")

    async def restore(self, spec: MachineSpec, snap: Path) -> Handle:
        self._called("restore")
        await self.may_restore.wait()
        pid = len(self.alive) + 1
        self.alive[pid] = asyncio.Event()
        return Handle(vm_id=spec.vm_id, pid=pid, started_ticks=pid, home=spec.home)

    async def pause(self, vm: Handle) -> None:
        self._called("pause")

    async def unpause(self, vm: Handle) -> None:
        self._called("unpause")

    async def snapshot(self, vm: Handle, into: Path) -> Snapshot:
        self._called("snapshot")
        into.mkdir(parents=True)
        (into / "manifest.json").write_text("{}")
        return Snapshot(folder=into, memory_bytes=0, disk_bytes=0, private_bytes=0)

    async def kill(self, vm: Handle) -> None:
        self._called("kill")
        self.alive[vm.pid].set()

    async def wait(self, vm: Handle) -> Exit:
        self._called("wait")
        await self.alive[vm.pid].wait()
        return self.ends

    async def adopt(self, saved: Mapping[str, object]) -> Handle | None:
        pid = cast(int, saved["pid"])
        if self.alive[pid].is_set():
            return None
        return Handle(vm_id=str(saved["vm_id"]), pid=pid, started_ticks=pid, home=Path(str(saved["home"])))

    def running(self) -> list[int]:
        return [pid for pid, gone in self.alive.items() if not gone.is_set()]


NO_WISHES = Wishes(news=0, suspend=False, lease=None)


class Guest:
    """`say` is the app at its own API. A hook answers 200 unless `answers` has another result for its name."""

    def __init__(self) -> None:
        self.said = NO_WISHES
        self.mute = False  #: gives no answer about wishes
        self.wished = asyncio.Event()
        self.answers: dict[str, HookResult] = {}
        self.hooks: list[str] = []
        self.in_turn: list[HookResult] = []  #: what the next hooks answer, before `answers`
        self.wishes_in: dict[str, Wishes] = {}  #: what the app says while it answers a hook
        self.dies_in: set[str] = set()  #: hooks in which the app exits with code 7
        self.app_ended: asyncio.Future[AppEnd] = asyncio.get_running_loop().create_future()
        self.may_thaw = asyncio.Event()
        self.may_thaw.set()
        self.says: dict[str, Any] = {}  #: what its answer to a thaw has instead of the truth
        self.has_route: Callable[[], bool] = lambda: True

    def _asked(self) -> None:
        if not self.has_route():
            raise NoRoute("no route to the guest")

    def say(self, wishes: Wishes) -> None:
        self.said = wishes
        self.wished.set()

    async def thaw(self, *, hook: HookCall | None, now_ns: int, hostname: str, machine_id: str, **_: object) -> Thawed:
        self._asked()
        await self.may_thaw.wait()
        self.said = NO_WISHES
        answer = {
            "seeded": True,
            "held": True,
            "cut": True,
            "clock_ns": now_ns,
            "hostname": hostname,
            "machine_id": machine_id,
            "boot_id": boot_id_of(machine_id),
            "generation": 1,
        }
        thawed = Thawed.of(answer | self.says)
        return replace(thawed, hook=await self.hook(hook) if hook else None)

    async def freeze(self, hook: HookCall | None, *, trim: bool) -> HookResult | None:
        return await self.hook(hook) if hook else None

    async def hook(self, call: HookCall) -> HookResult:
        self._asked()
        self.hooks.append(call.name)
        if call.name in self.wishes_in:
            self.say(self.wishes_in[call.name])
        if call.name in self.dies_in and not self.app_ended.done():
            self.app_ended.set_result(AppEnd(exit_code=7, oom_kills=0))
            return HookResult(error="broken")
        if self.in_turn:
            return self.in_turn.pop(0)
        return self.answers.get(call.name, HookResult(status=200))

    async def wishes(self) -> Wishes:
        if self.mute:
            raise GuestError("no answer in time")
        return self.said

    async def listen(self, heard: int) -> AppEnd | Wishes:
        while self.said.news == heard and not self.app_ended.done():
            self.wished.clear()
            async with asyncio.TaskGroup() as own:
                either = [own.create_task(self.wished.wait()), own.create_task(self._ended())]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                for one in either:
                    one.cancel()
        return self.app_ended.result() if self.app_ended.done() else self.said

    async def wait(self) -> AppEnd:
        return await asyncio.shield(self.app_ended)

    async def _ended(self) -> None:
        await asyncio.wait((self.app_ended,))

    async def logs(self, offset: int) -> tuple[bytes, int]:
        self._asked()
        return b"bye\n", 4


@dataclass
class FakeRelay:
    """Routes as the relay would have them. `down`: no answer to anything; `forget()`: a new relay knows no VM."""

    one: Guest = field(default_factory=Guest)
    routes: dict[str, str] = field(default_factory=dict)
    down: bool = False
    taken: int = 0  #: so many `put_route` find the endpoint port in use
    deaf_to: set[str] = field(default_factory=set)  #: the next `put_state` of these is lost
    connects: int = 0
    last_byte_ms: int = 0
    started_at_ms: int = 0
    egress_bytes: int = 0
    asked: int = 0  #: how often `vm` was

    def forget(self) -> None:
        self.routes.clear()

    def _known(self, vm_id: str) -> None:
        if self.down or vm_id not in self.routes:
            raise RelayGone(f"no route for {vm_id}")

    async def put_route(self, vm_id: str, route: Mapping[str, object]) -> None:
        if self.down:
            raise RelayGone("down")
        if self.taken:
            self.taken -= 1
            raise NoCapacity("the endpoint port is in use")
        self.routes[vm_id] = str(route["state"])

    async def drop_route(self, vm_id: str) -> None:
        if self.down:
            raise RelayGone("down")
        self.routes.pop(vm_id, None)

    async def put_state(self, vm_id: str, state: str) -> None:
        self._known(vm_id)
        if state in self.deaf_to:
            self.deaf_to.remove(state)
            raise RelayGone("no answer in time")
        self.routes[vm_id] = state

    async def connect(self, vm_id: str, *, timeout_s: float, ready: bool = False) -> None:
        self._known(vm_id)
        self.connects += 1

    async def disconnect(self, vm_id: str) -> None:
        self._known(vm_id)

    async def vms(self) -> dict[str, dict[str, Any]]:
        if self.down:
            raise RelayGone("down")
        return {vm_id: await self.vm(vm_id) for vm_id in self.routes}

    async def vm(self, vm_id: str) -> dict[str, Any]:
        self._known(vm_id)
        self.asked += 1
        return {
            "last_byte_ms": self.last_byte_ms,
            "relay_started_at_ms": self.started_at_ms,
            "egress_bytes_in": 0,
            "egress_bytes_out": self.egress_bytes,
        }

    def guest(self, vm_id: str) -> Guest:
        self.one.has_route = lambda: vm_id in self.routes
        return self.one


class Image:
    """What `baked` answers; `broken` makes it unreadable."""

    def __init__(self) -> None:
        self.broken = False
        self.hooks: Hooks | None = None

    async def baked(self, vm: MicroVM) -> Baked:
        if self.broken:
            raise MachineError("the image's manifest cannot be read")
        return Baked(folder="a/b", tools=TOOLS, hooks=self.hooks, memory_mib=4, vcpus=1)


def hands(state: Path, driver: Driver, relay: FakeRelay, clock: HandClock, **config: Any) -> Hands:
    """`config`: tables of the configuration."""
    layout = Layout(state)
    layout.make()
    host = Host(
        config=Config(state=state, tools_dir=state / "tools", **config),
        layout=layout,
        accel=Accel.TCG,
        as_root=False,
        launcher=Path("/nonexistent"),
        driver=driver,
    )
    return Hands(host=host, relay=cast(Relay, relay), clock=clock)
