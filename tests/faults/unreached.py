"""Boundaries that no fault of this harness leads to, each with a test that comes by. What is met fails the run."""

from __future__ import annotations

Boundary = tuple[str, str, str]  #: file, function, text of the line

_QEMU = "rekindle/driver/qemu.py"
_STALLS = "rekindle/driver/stalls.py"
_BUILDS = "rekindle/node/builds.py"
_HOOKS = "rekindle/node/hooks.py"
_KEEPER = "rekindle/node/keeper.py"
_WORKS = "rekindle/node/works.py"


def _by(test: str, why: str, *boundaries: Boundary) -> dict[Boundary, str]:
    return dict.fromkeys(boundaries, f"{why}: {test}")


UNREACHED: dict[Boundary, str] = {
    **_by(
        "tests/driver/test_interrupts.py::test_no_stop_in_the_middle_of_disk_writes_owes_a_report",
        "on KVM only",
        (_QEMU, "QemuDriver.pause", "await interrupts.stop_between(link, Facts.of(vm).vcpus, vm.vm_id)"),
    ),
    **_by(
        "tests/driver/test_whole.py::test_a_flipped_bit_of_a_sleeping_vm_is_found_and_named",
        "a damaged file",
        (
            _QEMU,
            "QemuDriver.restore",
            "await whole_now  # a damaged file is the better reason than what QEMU says of it",
        ),
    ),
    **_by(
        "tests/driver/test_qemu.py::test_a_vm_whose_disk_cannot_grow_waits_and_loses_nothing",
        "a guest that a full disk has stopped",
        (_QEMU, "QemuDriver.unpause", "await stalls.go_on(link, vm.vm_id)"),
        (_STALLS, "go_on", "async with asyncio.timeout(SEEN_S):"),
        (_STALLS, "go_on", 'await link.ask("cont")'),
        (_STALLS, "go_on", "while (event := await events.get()) is not None:"),
        (_STALLS, "watch", 'await link.ask("cont")'),
        (_STALLS, "watch", "await rest(AGAIN_S)"),
    ),
    **_by(
        "tests/node/test_removals.py::test_an_image_whose_row_moved_on_leaves_no_folder",
        "another service has ended the build meanwhile",
        (_BUILDS, "_make", "await threads.finish(remove_tree, layout.image(folder))"),
    ),
    **_by(
        "tests/e2e/test_faults.py::test_an_image_is_not_baked_without_disk_for_its_memory",
        "the disk is full before the boot",
        (
            _BUILDS,
            "make",
            'await _failed(shop, version, log, BuildFailed("INTERNAL_PLATFORM_ERROR", err.message))',
        ),
    ),
    **_by(
        "tests/node/test_removals.py::test_files_that_no_row_names_are_swept_at_the_start",
        "the log of a build that no row names",
        ("rekindle/node/removals.py", "Removals.sweep_logs", "path.unlink(missing_ok=True)"),
    ),
    # -- what an app does wrong in a hook
    **_by(
        "tests/node/test_hooks.py::test_a_failing_resume_is_the_reason_while_it_sleeps",
        "a hook that fails",
        (_HOOKS, "check", "end = None if result.status is not None else await _end_of(guest)"),
    ),
    **_by(
        "tests/node/test_hooks.py::test_an_app_that_exits_as_it_wakes_sleeps_on",
        "an app that ends in a hook",
        (_HOOKS, "_end_of", "async with asyncio.timeout(END_S):"),
        (_HOOKS, "_end_of", "return await guest.wait()"),
    ),
    **_by(
        "tests/node/test_hooks.py::test_a_failing_run_ends_the_vm_and_keeps_what_the_app_wrote",
        "a hook that fails",
        ("rekindle/node/perform.py", "_thawed", "await _keep_output(at, vm)"),
        (_WORKS, "Works._start", "await self.lost(vm, err.message)"),
    ),
    **_by(
        "tests/node/test_hooks.py::test_a_failing_suspend_ends_the_vm_as_on_aws",
        "a hook that fails",
        (_WORKS, "Works._suspend", "await self.lost(vm, err.message)"),
    ),
    **_by(
        "tests/node/test_hooks.py::test_the_operator_can_keep_it_running",
        "a hook that fails",
        (_WORKS, "Works._suspend", "await self._room_again(vm, handle, baked)"),
        (_WORKS, "Works._suspend", "await self._goes_on(vm, err.message)"),
    ),
    **_by(
        "tests/node/test_hooks.py::test_a_snapshot_and_a_resume_hook_that_fail_together_do_not_cost_the_vm",
        "a hook that fails behind a fault",
        (_WORKS, "Works._awake_again", "await self._goes_on(vm, second.message)"),
    ),
    **_by(
        "tests/node/test_hooks.py::test_an_app_that_exits_behind_a_snapshot_that_failed_is_told_as_that",
        "an app that ends behind a fault",
        (_WORKS, "Works._awake_again", "await self.lost(vm, end.message, said(err))"),
    ),
    # -- more than two faults, or a full disk behind another
    **_by(
        "tests/node/test_keeper.py::test_a_vm_that_neither_sleeps_nor_goes_on_falls_back_to_its_last_sleep",
        "six faults in a row",
        (_WORKS, "Works._neither", "await self.fell(vm, why)"),
    ),
    **_by(
        "tests/node/test_keeper.py::test_a_vm_that_goes_on_without_room_to_sleep_says_so",
        "the disk is full behind a snapshot that failed",
        (_WORKS, "Works._room_again", 'await self.tell(vm, "it has no room to sleep", none)'),
    ),
    # -- what ends a VM while nothing is done to it
    **_by(
        "tests/node/test_keeper.py::test_a_life_that_is_over_ends_a_vm_whose_work_cannot_be_done",
        "needs the end of a life",
        (
            _KEEPER,
            "Keeper._over",
            "await self._ask(vm, Due(Ask.TERMINATE, LIFETIME_OVER))  # whatever keeps its work from being done",
        ),
    ),
    **_by(
        "tests/node/test_keeper.py::test_an_idle_vm_goes_to_sleep_and_ends_when_it_slept_too_long",
        "needs idleness",
        (_KEEPER, "Keeper._at_deadline", "await self._ask(vm, due)"),
    ),
    **_by(
        "tests/e2e/test_faults.py::test_memory_that_runs_out_in_the_guest_ends_who_took_it",
        "a guest without memory",
        (
            _KEEPER,
            "Keeper._act",
            'await self._works.tell(vm, "out of memory in the guest", f"{news.oom_kills} processes were killed")',
        ),
    ),
    **_by(
        "tests/node/test_keeper.py::test_a_vmm_that_dies_after_a_sleep_falls_back_to_it",
        "faults strike in works; there the VMM dies while the VM runs",
        (_KEEPER, "Keeper._act", "elif (await self._row()).phase is Phase.RUNNING:"),
        (_KEEPER, "Keeper._act", "await self._process_ended(vm, news)"),
        (_KEEPER, "Keeper._process_ended", 'await self._works.fell(vm, f"The {end.kind.value}. {end.detail}".strip())'),
    ),
    **_by(
        "tests/faults/test_hostile.py::test_a_guest_that_powers_itself_off_while_it_falls_asleep_ends_with_a_reason",
        "the guest ends itself",
        (_KEEPER, "Keeper._process_ended", 'await self._works.lost(vm, f"The {end.kind.value}.", end.detail or None)'),
    ),
    # -- several at once
    **_by(
        "tests/node/test_keeper.py::test_a_high_pile_of_disk_layers_is_merged_whoever_waits",
        "three sleeps in a row that were not tidied",
        (_KEEPER, "Keeper._asleep", "await self._works.tidy(vm)"),
    ),
    **_by(
        "tests/node/test_keeper.py::test_a_vm_that_is_terminated_as_its_start_ends_leaves_no_process",
        "terminated between the end of a start and its fact",
        (_WORKS, "Works._running", 'handle = await self._at.host.driver.adopt(done.changes["handle"])'),
        (
            _WORKS,
            "Works._running",
            "await self._at.host.driver.kill(handle)  # terminated meanwhile: STOP finds nothing left",
        ),
    ),
    **_by(
        "tests/node/test_keeper.py::test_a_vm_that_neither_sleeps_nor_goes_on_falls_back_to_its_last_sleep",
        "a snapshot that fails and then a guest that does not wake",
        (_WORKS, "Works.fell", "await self._at.host.driver.kill(handle)"),
    ),
}
