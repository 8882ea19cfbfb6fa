"""Tidying behind a suspended VM: older snapshots go, disk layers are merged.

The VM is SUSPENDED already and who asked for that has gone on. A resume that comes meanwhile cuts the merge off, for it
can be done again after the next sleep; only a pile of `LAYERS_MAX` is merged whoever waits.
"""

from __future__ import annotations

from rekindle import threads
from rekindle.core.microvm import MicroVM
from rekindle.driver import layers, reserve
from rekindle.node.layout import Layout
from rekindle.node.machine import Baked, Host, spec_of

LAYERS_MAX = 3


def must_tidy(layout: Layout, vm: MicroVM) -> bool:
    """Whether one more sleep would make the disks of a SUSPENDED VM too high a pile."""
    return vm.snapshot is not None and layers.count(layout.sleep(vm.id, vm.snapshot)) >= LAYERS_MAX


async def tidy(layout: Layout, host: Host, vm: MicroVM, baked: Baked) -> None:
    """Only the newest whole snapshot is kept; it must not lean on a deleted one. Repeatable at every point."""
    if vm.snapshot is None:
        return
    await threads.finish(reserve.give_back, layout.home(vm.id))
    spec = spec_of(host, vm, baked)
    await threads.finish(layers.drop_older, layout.home(vm.id) / "snapshots", keep=str(vm.snapshot))
    await layers.merge(host.launcher, spec, layout.sleep(vm.id, vm.snapshot))
