"""What becomes of a microVM whose hooks do not answer 200, and where that is told."""

from __future__ import annotations

import pytest

from rekindle.config import HookRules
from rekindle.core.image import Hook, Hooks
from rekindle.core.lifecycle import Ask, Phase
from rekindle.guest.client import AppEnd, HookResult
from tests.node.test_keeper import Scene, Stage, stage

__all__ = ["stage"]

HINT = " Please check your hook endpoint and application logs for more details."
SUSPEND_500 = f"Suspend lifecycle hook returned HTTP status 500.{HINT}"
FAILS = HookResult(status=500)


def with_hooks(scene: Scene, *names: str) -> Scene:
    scene.image.hooks = Hooks(port=9000, enabled=tuple(Hook(name=name, timeout_s=1) for name in names))
    return scene


async def test_a_failing_suspend_ends_the_vm_as_on_aws(stage: Stage) -> None:
    async with stage() as scene:
        with_hooks(scene, "suspend")
        await scene.reaches(Phase.RUNNING)
        scene.relay.one.answers["suspend"] = FAILS
        await scene.ask(Ask.SUSPEND)
        over = await scene.reaches(Phase.TERMINATED)
        assert over.state_reason == SUSPEND_500
        assert "snapshot" not in scene.driver.calls


async def test_the_operator_can_keep_it_running(stage: Stage) -> None:
    async with stage(hooks=HookRules(failed_suspend="keep_running")) as scene:
        with_hooks(scene, "suspend")
        before = await scene.reaches(Phase.RUNNING)
        await scene.routed("running")
        scene.relay.one.answers["suspend"] = FAILS
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDING)
        after = await scene.reaches(Phase.RUNNING)
        await scene.routed("running")
        assert (after.state_reason, after.handle) == (SUSPEND_500, before.handle)
        assert SUSPEND_500 in [event.why for event in await scene.store.events(scene.vm_id, 99)]
        del scene.relay.one.answers["suspend"]
        await scene.ask(Ask.SUSPEND)
        assert (await scene.reaches(Phase.SUSPENDED)).state_reason is None


ENDED = "Container Stopped with Exit Code: 7"


async def test_an_app_that_exits_in_its_run_hook_is_told_as_that(stage: Stage) -> None:
    async with stage() as scene:
        with_hooks(scene, "run", "terminate").relay.one.dies_in.add("run")
        over = await scene.reaches(Phase.TERMINATED)
        assert over.state_reason == ENDED
        assert scene.relay.one.hooks == ["run"]
        assert scene.output() == "bye\n"


@pytest.mark.parametrize("failed_suspend", ["terminate", "keep_running"])
async def test_an_app_that_exits_in_its_suspend_hook_is_told_as_that(stage: Stage, failed_suspend: str) -> None:
    async with stage(hooks=HookRules(failed_suspend=failed_suspend)) as scene:
        with_hooks(scene, "suspend", "terminate").relay.one.dies_in.add("suspend")
        await scene.reaches(Phase.RUNNING)
        await scene.ask(Ask.SUSPEND)
        assert (await scene.reaches(Phase.TERMINATED)).state_reason == ENDED
        assert scene.relay.one.hooks == ["suspend"]


async def test_an_app_that_exits_as_it_wakes_sleeps_on(stage: Stage) -> None:
    """The snapshot is from before: nothing is lost, and the reason is there to see."""
    async with stage() as scene:
        with_hooks(scene, "resume").relay.one.dies_in.add("resume")
        await scene.sleeps()
        await scene.ask(Ask.RESUME)
        await scene.reaches(Phase.RESUMING)
        assert (await scene.reaches(Phase.SUSPENDED)).state_reason == ENDED


async def test_a_failing_run_ends_the_vm_and_keeps_what_the_app_wrote(stage: Stage) -> None:
    async with stage() as scene:
        with_hooks(scene, "run", "terminate").relay.one.answers["run"] = HookResult(error="timeout")
        over = await scene.reaches(Phase.TERMINATED)
        assert over.state_reason == f"Run lifecycle hook timed out.{HINT}"
        assert scene.relay.one.hooks == ["run"]  # there is no machine left for another
        assert scene.output() == "bye\n"
        assert scene.driver.running() == []


async def test_a_failing_resume_is_the_reason_while_it_sleeps(stage: Stage) -> None:
    async with stage() as scene:
        with_hooks(scene, "resume").relay.one.answers["resume"] = HookResult(status=503)
        await scene.sleeps()
        await scene.ask(Ask.RESUME)
        await scene.reaches(Phase.RESUMING)
        asleep = await scene.reaches(Phase.SUSPENDED)
        assert asleep.state_reason == f"Resume lifecycle hook returned HTTP status 503.{HINT}"
        assert scene.driver.running() == []
        scene.relay.one.answers.clear()
        await scene.ask(Ask.RESUME)
        assert (await scene.reaches(Phase.RUNNING)).state_reason is None


async def test_a_snapshot_and_a_resume_hook_that_fail_together_do_not_cost_the_vm(stage: Stage) -> None:
    async with stage() as scene:
        with_hooks(scene, "suspend", "resume").relay.one.answers["resume"] = FAILS
        before = await scene.reaches(Phase.RUNNING)
        scene.driver.failing["snapshot"] = [OSError(28, "No space left on device")]
        await scene.ask(Ask.SUSPEND)
        await scene.reaches(Phase.SUSPENDING)
        after = await scene.reaches(Phase.RUNNING)
        assert (after.handle, after.state_reason) == (
            before.handle,
            f"Resume lifecycle hook returned HTTP status 500.{HINT}",
        )
        assert "why the suspend failed" in await scene.told()


async def test_an_app_that_exits_behind_a_snapshot_that_failed_is_told_as_that(stage: Stage) -> None:
    async with stage() as scene:
        with_hooks(scene, "suspend", "resume").relay.one.dies_in.add("resume")
        await scene.reaches(Phase.RUNNING)
        scene.driver.failing["snapshot"] = [OSError(28, "No space left on device")]
        await scene.ask(Ask.SUSPEND)
        assert (await scene.reaches(Phase.TERMINATED)).state_reason == ENDED
        assert "OSError: [Errno 28] No space left on device" in [
            event.why for event in await scene.store.events(scene.vm_id, 99)
        ]
        assert scene.driver.running() == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (HookResult(status=200), "answered 200"),
        (FAILS, f"Terminate lifecycle hook returned HTTP status 500.{HINT}"),
        (HookResult(error="refused"), f"Terminate lifecycle hook could not be reached.{HINT}"),
    ],
)
async def test_how_the_terminate_hook_went_is_in_the_story(stage: Stage, answer: HookResult, why: str) -> None:
    async with stage() as scene:
        with_hooks(scene, "terminate").relay.one.answers["terminate"] = answer
        await scene.reaches(Phase.RUNNING)
        await scene.ask(Ask.TERMINATE)
        assert (await scene.reaches(Phase.TERMINATED)).state_reason == "Success."
        story = await scene.store.events(scene.vm_id, 99)
        assert [event.why for event in story if event.what == "terminate hook"] == [why]


async def test_no_terminate_hook_for_a_sleeper(stage: Stage) -> None:
    async with stage() as scene:
        with_hooks(scene, "terminate")
        await scene.sleeps()
        await scene.ask(Ask.TERMINATE)
        await scene.reaches(Phase.TERMINATED)
        assert scene.relay.one.hooks == []


async def test_no_terminate_hook_for_an_app_that_has_ended(stage: Stage) -> None:
    async with stage() as scene:
        with_hooks(scene, "terminate")
        await scene.reaches(Phase.RUNNING)
        scene.relay.one.app_ended.set_result(AppEnd(exit_code=0, oom_kills=0))
        scene.relay.one.wished.set()
        over = await scene.reaches(Phase.TERMINATED)
        assert over.state_reason == "Container Stopped with Exit Code: 0"
        assert scene.relay.one.hooks == []
