"""What a keeper does when things go wrong around it: nothing stays stuck, nothing is lost, and it is told."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rekindle.config import HookRules, Idle
from rekindle.core.errors import DiskFull, MachineError, NoCapacity
from rekindle.core.image import Hook, Hooks
from rekindle.core.lifecycle import Ask, Phase
from rekindle.core.microvm import MicroVM
from rekindle.driver import layers, reserve
from rekindle.driver.base import Exit, ExitKind
from rekindle.guest.client import HookResult, Wishes
from rekindle.node import room, sleep
from rekindle.node.deadlines import LIFETIME_OVER
from rekindle.node.keeper import Keeper, Pauses
from rekindle.node.works import INTERNAL, TRIES
from rekindle.store.db import Store
from tests.node.ground import Driver, FakeRelay, Image, hands
from tests.store.rows import HandClock, built_image, started
from tests.waiting import until_async

FAULTS = [MachineError("no memory"), OSError(28, "No space left on device"), KeyError("a bug")]
QUICK = Pauses(relay_s=0.02, first_s=0.02, longest_s=0.05)


class Scene:
    def __init__(self, keeper: Keeper, store: Store, vm: MicroVM, parts: tuple[Driver, FakeRelay, Image]) -> None:
        self.keeper = keeper
        self.store = store
        self.vm_id = vm.id
        self.driver, self.relay, self.image = parts
        self.home = keeper._at.host.layout.home(vm.id)
        self._app_log = keeper._at.host.layout.app_log(vm.id)

    def output(self) -> str:
        """What was kept of the app's output."""
        return self._app_log.read_text()

    async def sleeps(self) -> None:
        await self.reaches(Phase.RUNNING)
        await self.ask(Ask.SUSPEND)
        await self.reaches(Phase.SUSPENDED)

    async def ends_while_watched(self, end: Exit) -> None:
        """After a sleep; the process ends as `end` says."""
        await self.sleeps()
        watches = self.driver.calls.count("wait")
        await self.ask(Ask.RESUME)
        await self.called("wait", times=watches + 1)
        self.driver.ends = end
        self.driver.alive[self.driver.running()[0]].set()

    async def row(self) -> MicroVM:
        vm = await self.store.microvm(self.vm_id)
        assert vm is not None
        return vm

    async def reaches(self, phase: Phase) -> MicroVM:
        async def there() -> bool:
            return (await self.row()).phase is phase

        await until_async(there, 5, f"{self.vm_id} is {phase.value}")
        return await self.row()

    async def routed(self, state: str | None) -> None:
        async def there() -> bool:
            return bool(self.relay.routes.get(self.vm_id) == state)

        await until_async(there, 5, f"the route says {state}")

    async def called(self, name: str, *, times: int = 1) -> None:
        async def there() -> bool:
            return self.driver.calls.count(name) >= times

        await until_async(there, 5, f"the driver was asked to {name}")

    async def ask(self, ask: Ask) -> None:
        await self.store.ask(self.vm_id, ask)
        self.keeper.poke()

    async def told(self) -> list[str]:
        return [event.what for event in await self.store.events(self.vm_id, 100)]


Stage = Callable[..., Any]


@pytest.fixture
def stage(tmp_path: Path, store: Store, clock: HandClock) -> Stage:
    """`async with stage() as scene`: a PENDING VM and its keeper at work; arguments are tables of configuration."""

    @asynccontextmanager
    async def made(**config: Any) -> AsyncIterator[Scene]:
        await built_image(store)
        vm = await started(store, clock)
        driver, relay, image = Driver(), FakeRelay(), Image()
        at = hands(tmp_path / "state", driver, relay, clock, **config)
        keeper = Keeper(vm.id, at, store, image.baked, pauses=QUICK)
        async with asyncio.TaskGroup() as own:
            running = own.create_task(keeper.run())
            yield Scene(keeper, store, vm, (driver, relay, image))
            running.cancel()

    return made


async def test_a_start_leads_to_a_route_that_is_open(stage: Stage) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.routed("running")


async def test_an_answer_of_the_relay_that_is_lost_does_not_leave_the_route_held(stage: Stage) -> None:
    async with stage() as scene:
        scene.relay.deaf_to.add("running")
        await scene.reaches(Phase.RUNNING)
        await scene.routed("running")  # nobody pokes: the relay lives on and its event stream too


async def test_a_new_relay_gets_the_route_again(stage: Stage) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.routed("running")
        connects = scene.relay.connects
        scene.relay.forget()
        scene.keeper.take_up()
        await scene.routed("running")

        async def connected() -> bool:
            return bool(scene.relay.connects > connects)

        await until_async(connected, 5, "the channel is opened again")


async def test_a_relay_that_forgot_the_vm_fails_no_work(stage: Stage) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        scene.relay.forget()
        await scene.ask(Ask.SUSPEND)
        slept = await scene.reaches(Phase.SUSPENDED)
        assert slept.snapshot is not None
        await scene.routed("suspended")
        scene.relay.forget()
        await scene.ask(Ask.RESUME)
        await scene.reaches(Phase.RUNNING)


async def test_a_vm_waits_for_a_relay_that_is_away(stage: Stage) -> None:
    async with stage() as scene:
        scene.relay.down = True
        await asyncio.wait_for(asyncio.shield(scene.keeper._watched.poked_within(0.1)), 1)
        assert (await scene.row()).phase is Phase.PENDING
        scene.relay.down = False
        await scene.reaches(Phase.RUNNING)


@pytest.mark.parametrize(
    "fault", [MachineError("no memory"), OSError(28, "No space left on device"), KeyError("a bug")]
)
async def test_a_start_that_fails_in_any_way_ends_the_vm(stage: Stage, fault: Exception) -> None:
    async with stage() as scene:
        scene.driver.failing["restore"] = [fault]
        over = await scene.reaches(Phase.TERMINATED)
        assert over.state_reason == INTERNAL
        assert "why it was lost" in await scene.told()
        assert scene.relay.routes == {}


@pytest.mark.parametrize(
    "fault", [MachineError("no memory"), OSError(28, "No space left on device"), KeyError("a bug")]
)
async def test_a_resume_that_fails_in_any_way_leaves_the_vm_asleep(stage: Stage, fault: Exception) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDED)
        scene.driver.failing["restore"] = [fault]
        await scene.ask(Ask.RESUME)
        await scene.reaches(Phase.RESUMING)
        await scene.reaches(Phase.SUSPENDED)
        await scene.ask(Ask.RESUME)
        await scene.reaches(Phase.RUNNING)


@pytest.mark.parametrize(
    "fault", [MachineError("disk full"), OSError(28, "No space left on device"), KeyError("a bug")]
)
async def test_a_suspend_that_fails_in_any_way_lets_the_vm_go_on(stage: Stage, fault: Exception) -> None:
    async with stage() as scene:
        before = await scene.reaches(Phase.RUNNING)
        scene.driver.failing["snapshot"] = [fault]
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDING)
        after = await scene.reaches(Phase.RUNNING)
        assert after.handle == before.handle
        await scene.routed("running")


@pytest.mark.parametrize("fault", [MachineError("it does not end"), OSError(5, "Input/output error")])
async def test_a_vm_whose_snapshot_is_whole_falls_back_to_no_older_one(stage: Stage, fault: Exception) -> None:
    """What is left of the VMM is cleared away in a further attempt: the VM must not go on beside its snapshot."""
    async with stage() as scene:
        await scene.sleeps()
        await scene.ask(Ask.RESUME)
        awake = await scene.reaches(Phase.RUNNING)
        unpaused = scene.driver.calls.count("unpause")
        scene.driver.failing["kill"] = [fault, fault]
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDING)
        asleep = await scene.reaches(Phase.SUSPENDED)
        assert asleep.snapshot is not None
        assert asleep.snapshot > awake.snapshot
        assert scene.driver.calls.count("snapshot") == 2
        assert scene.driver.calls.count("unpause") == unpaused + 1  # by the freeze, and never again
        assert scene.driver.running() == []
        assert (await scene.told()).count("a work failed and is tried again") == 1


class Tidying:
    """Stands where `sleep.tidy` does, and takes as long as the test wants."""

    def __init__(self) -> None:
        self.begun, self.may_end, self.cut_off = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def tidy(self, *_: object) -> None:
        self.begun.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cut_off.set()
            raise


async def test_a_resume_cuts_the_tidying_off(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    tidying = Tidying()
    monkeypatch.setattr(sleep, "tidy", tidying.tidy)
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.ask(Ask.SUSPEND)
        await tidying.begun.wait()
        await scene.ask(Ask.RESUME)
        await scene.reaches(Phase.RUNNING)
        assert tidying.cut_off.is_set()


async def test_a_high_pile_of_disk_layers_is_merged_whoever_waits(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidying = Tidying()
    monkeypatch.setattr(sleep, "tidy", tidying.tidy)
    monkeypatch.setattr(layers, "count", lambda _: sleep.LAYERS_MAX)
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.ask(Ask.SUSPEND)
        await tidying.begun.wait()
        await scene.ask(Ask.RESUME)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await tidying.cut_off.wait()
        tidying.may_end.set()
        await scene.reaches(Phase.RUNNING)
        assert not tidying.cut_off.is_set()


async def test_a_work_that_fails_unexpectedly_is_told_once_and_tried_again(stage: Stage) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        scene.driver.failing["kill"] = [sqlite3.OperationalError("disk I/O error") for _ in range(3)]
        await scene.ask(Ask.TERMINATE)
        await scene.reaches(Phase.TERMINATED)
        assert scene.driver.running() == []
        assert (await scene.told()).count("a work failed and is tried again") == 1


async def test_a_vm_that_neither_sleeps_nor_goes_on_falls_back_to_its_last_sleep(stage: Stage) -> None:
    async with stage() as scene:
        await scene.sleeps()
        slept = await scene.row()
        await scene.ask(Ask.RESUME)
        await scene.reaches(Phase.RUNNING)
        scene.driver.failing["snapshot"] = [OSError(5, "Input/output error") for _ in range(TRIES)]
        scene.relay.one.says["seeded"] = False  # it is asked to go on and cannot be served
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDING)
        fallen = await scene.reaches(Phase.SUSPENDED)
        assert (fallen.snapshot, fallen.handle) == (slept.snapshot, None)
        assert "why it fell back" in await scene.told()
        assert scene.driver.running() == []


async def test_a_vm_that_goes_on_without_room_to_sleep_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: object) -> None:
        raise NoCapacity("this machine has no disk")

    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        monkeypatch.setattr(room, "set_aside", none)
        scene.driver.failing["snapshot"] = [MachineError("disk full")]
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDING)
        await scene.reaches(Phase.RUNNING)
        assert "it has no room to sleep" in await scene.told()


async def test_a_vm_that_was_only_slow_to_sleep_and_to_go_on_is_not_given_up(stage: Stage) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        scene.driver.failing["snapshot"] = [MachineError("no answer in time") for _ in range(TRIES - 1)]
        scene.relay.one.says["seeded"] = False
        await scene.ask(Ask.SUSPEND)
        asleep = await scene.reaches(Phase.SUSPENDED)
        assert asleep.snapshot is not None
        assert scene.driver.calls.count("restore") == 1
        assert (await scene.told()).count("a work failed and is tried again") == 1


async def test_a_vm_that_is_terminated_as_its_start_ends_leaves_no_process(stage: Stage) -> None:
    """Nobody pokes the keeper in between: the start is done, and its fact comes too late."""
    async with stage() as scene:
        scene.relay.one.may_thaw.clear()
        await scene.called("unpause")
        await scene.store.ask(scene.vm_id, Ask.TERMINATE)
        scene.relay.one.may_thaw.set()
        over = await scene.reaches(Phase.TERMINATED)
        assert over.handle is None
        assert scene.driver.running() == []
        assert "PENDING -> RUNNING" not in await scene.told()


async def test_a_stop_that_was_cut_off_behind_its_route_ends_without_one(stage: Stage) -> None:
    """The relay has no route to ask the guest by, and a VM that ends is given none."""
    async with stage() as scene:
        scene.image.hooks = Hooks(port=9000, enabled=(Hook(name="terminate", timeout_s=1),))
        await scene.reaches(Phase.RUNNING)
        scene.driver.failing["kill"] = [OSError(5, "Input/output error")]
        await scene.ask(Ask.TERMINATE)
        await scene.reaches(Phase.TERMINATED)
        assert scene.driver.running() == []
        assert scene.relay.one.hooks == ["terminate"]


async def test_a_start_that_hangs_does_not_keep_a_vm_from_ending(stage: Stage) -> None:
    async with stage() as scene:
        scene.driver.may_restore.clear()
        await scene.called("restore")
        await scene.ask(Ask.TERMINATE)
        await scene.reaches(Phase.TERMINATED)
        assert scene.driver.running() == []


async def test_a_guest_that_hangs_as_it_wakes_does_not_keep_a_vm_from_ending(stage: Stage) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDED)
        scene.relay.one.may_thaw.clear()
        await scene.ask(Ask.RESUME)
        await scene.reaches(Phase.RESUMING)
        await scene.called("restore", times=2)
        scene.keeper.poke()  # a poke that is not about this VM changes nothing
        await scene.ask(Ask.TERMINATE)
        await scene.reaches(Phase.TERMINATED)
        assert scene.driver.running() == []


async def test_an_image_that_cannot_be_read_keeps_no_vm_alive(stage: Stage) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        scene.image.broken = True
        await scene.ask(Ask.TERMINATE)
        await scene.reaches(Phase.TERMINATED)
        assert scene.driver.running() == []


async def test_a_vmm_that_dies_after_a_sleep_falls_back_to_it(stage: Stage) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDED)
        await scene.ask(Ask.RESUME)
        await scene.reaches(Phase.RUNNING)
        await scene.routed("running")
        scene.driver.alive[scene.driver.running()[0]].set()
        await scene.reaches(Phase.SUSPENDED)
        await scene.routed("suspended")


async def test_a_life_that_is_over_ends_a_running_vm(stage: Stage, clock: HandClock) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        clock.pass_minutes(28800 // 60)
        scene.keeper.poke()
        over = await scene.reaches(Phase.TERMINATED)
        assert over.state_reason == LIFETIME_OVER


async def test_an_idle_vm_goes_to_sleep_and_ends_when_it_slept_too_long(stage: Stage, clock: HandClock) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.routed("running")
        clock.pass_minutes(2)
        scene.keeper.poke()
        await scene.reaches(Phase.SUSPENDED)
        clock.pass_minutes(11)
        scene.keeper.poke()
        await scene.reaches(Phase.TERMINATED)


async def test_a_host_that_is_restarted_at_the_end_of_a_suspend_loses_no_snapshot(stage: Stage) -> None:
    """The snapshot is whole, its VMM does not end, and the operator restarts the machine."""
    async with stage() as scene:
        await scene.store.host_booted("local", "one")
        await scene.reaches(Phase.RUNNING)
        scene.driver.failing["kill"] = [MachineError("it does not end") for _ in range(1000)]
        await scene.ask(Ask.SUSPEND)
        await scene.called("kill", times=2)
        await scene.store.host_booted("local", "two")
        asleep = await scene.reaches(Phase.SUSPENDED)
        assert asleep.snapshot is not None
        assert scene.driver.calls.count("snapshot") == 1
        assert "why it fell back" not in await scene.told()


async def test_a_life_that_is_over_ends_a_vm_whose_work_cannot_be_done(stage: Stage, clock: HandClock) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        scene.driver.failing["pause"] = [DiskFull("no room") for _ in range(1000)]
        await scene.ask(Ask.SUSPEND)
        await scene.called("pause", times=2)
        clock.pass_minutes(28800 // 60)
        over = await scene.reaches(Phase.TERMINATED)
        assert over.state_reason == LIFETIME_OVER


async def test_a_vm_whose_app_will_not_sleep_gets_back_its_room(stage: Stage) -> None:
    async with stage(hooks=HookRules(failed_suspend="keep_running")) as scene:
        scene.image.hooks = Hooks(port=9000, enabled=(Hook(name="suspend", timeout_s=1),))
        await scene.reaches(Phase.RUNNING)
        scene.relay.one.answers["suspend"] = HookResult(status=500)
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDING)
        assert (await scene.reaches(Phase.RUNNING)).state_reason is not None
        assert (scene.home / reserve.FOLDER / "slack").stat().st_size == reserve.SLACK_BYTES


async def test_a_wish_is_heard_in_every_life_of_a_guest_that_counts_anew(stage: Stage) -> None:
    """It asks for its sleep while it wakes, before anybody listens: with the same number as the last time."""
    wish = Wishes(news=1, suspend=True, lease=None)
    async with stage(idle=Idle(awake_s=0)) as scene:
        scene.image.hooks = Hooks(port=9000, enabled=(Hook(name="resume", timeout_s=1),))
        await scene.reaches(Phase.RUNNING)
        scene.relay.one.say(wish)
        await scene.reaches(Phase.SUSPENDED)
        scene.relay.one.wishes_in["resume"] = wish
        await scene.ask(Ask.RESUME)
        await scene.called("snapshot", times=2)


async def test_an_endpoint_whose_port_is_taken_is_opened_when_it_is_free(stage: Stage, clock: HandClock) -> None:
    async with stage() as scene:
        await scene.reaches(Phase.RUNNING)
        await scene.routed("running")
        scene.relay.forget()
        scene.relay.taken = 3
        scene.keeper.take_up()

        async def opened() -> bool:
            clock.now_ms += 20
            return bool(scene.relay.routes.get(scene.vm_id) == "running")

        await until_async(opened, 5, "it has its endpoint again")  # nobody pokes
        assert scene.relay.taken == 0


@pytest.mark.parametrize("kind", [ExitKind.PANIC, ExitKind.RESET, ExitKind.SHUTDOWN])
async def test_how_a_guest_ended_is_its_reason(stage: Stage, kind: ExitKind) -> None:
    async with stage() as scene:
        await scene.ends_while_watched(Exit(kind=kind, detail="as told"))
        over = await scene.reaches(Phase.TERMINATED)
        assert over.state_reason == f"The {kind.value}."
        assert over.snapshot is not None


async def test_a_vmm_that_the_kernel_killed_for_memory_is_told_so(stage: Stage) -> None:
    async with stage() as scene:
        await scene.ends_while_watched(Exit(kind=ExitKind.STARVED))
        await scene.reaches(Phase.SUSPENDED)
        why = [event.why for event in await scene.store.events(scene.vm_id, 99) if event.what == "why it fell back"]
        assert why == [f"The {ExitKind.STARVED.value}."]
