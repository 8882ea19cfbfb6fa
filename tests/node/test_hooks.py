"""What becomes of a microVM whose hooks do not answer 200, and where that is told."""

from __future__ import annotations

from rekindle.config import HookRules
from rekindle.core.image import Hook, Hooks
from rekindle.core.lifecycle import Ask, Phase
from rekindle.guest.client import HookResult
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
