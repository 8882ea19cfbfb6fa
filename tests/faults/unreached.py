"""Boundaries that no fault of this harness leads to, each with the reason. One that is met after all fails the run."""

from __future__ import annotations

_KEEPER = "rekindle/node/keeper.py"
#: By file, function and text of the line.
UNREACHED: dict[tuple[str, str, str], str] = {
    (_KEEPER, "Keeper._asleep", "await self._works.tidy(vm)"): "three sleeps in a row that were not tidied: node tests",
    (_KEEPER, "Keeper._at_deadline", "await self._ask(vm, due)"): "needs minutes of idleness: tests/e2e/test_life.py",
    (
        _KEEPER,
        "Keeper._process_ended",
        'await self._works.lost(vm, f"The {end.kind.value}.", end.detail or None)',
    ): "the guest ends itself: tests/faults/test_hostile.py",
    (
        "rekindle/node/builds.py",
        "_make",
        "await threads.finish(remove_tree, layout.image(folder))",
    ): "the image is deleted in the moment in which it is whole: tests/node/test_removals.py",
    (
        "rekindle/node/builds.py",
        "make",
        'await _failed(shop, version, log, BuildFailed("INTERNAL_PLATFORM_ERROR", err.message))',
    ): "the disk is full before the boot: tests/e2e/test_faults.py",
    (
        "rekindle/driver/qemu.py",
        "QemuDriver.unpause",
        "await stalls.go_on(link, vm.vm_id)",
    ): "a guest that a full disk has stopped: tests/e2e/test_faults.py",
}
