"""QEMU behind the eight methods of `base.Driver`; the same for KVM and tcg.

A machine's control connection has one owner, this object; after a restart of the service a new one connects again.
What a later service must know to end or clear a VM stands in `run/vmm` (written by the launcher before the VMM exists)
and in `Handle.extra`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rekindle import threads
from rekindle.clock import Clock, wall_ms
from rekindle.core.errors import MachineError, SnapshotMismatch
from rekindle.driver import (
    cgroup,
    delta,
    files,
    freeze,
    host,
    interrupts,
    jail,
    layers,
    machine,
    manifest,
    pagemap,
    process,
    qcow2,
    qmp,
    reserve,
    stalls,
    start,
    whole,
)
from rekindle.driver.base import Accel, Exit, ExitKind, Handle, MachineSpec, Snapshot
from rekindle.driver.facts import Facts, handle_of, identity, strings
from rekindle.driver.machine import MIB, Disks
from rekindle.driver.manifest import Binding, Manifest
from rekindle.driver.process import Identity
from rekindle.driver.progress import Board, Progress
from rekindle.driver.start import Start

KILL_S = 20.0
LINK_S = 10.0
INCOMING_S = 30.0
MKFS_S = 60.0
STATE_FDSET = 1
_EXITS = {
    "guest-shutdown": ExitKind.SHUTDOWN,
    "guest-reset": ExitKind.RESET,
    "guest-panic": ExitKind.PANIC,
}


class QemuDriver:
    """`launcher` is the built rekindle-jail; `pagemap_kind` is the configuration's machine.pagemap; long works are
    shown on `board`."""

    def __init__(
        self, launcher: Path, *, pagemap_kind: str = "auto", clock: Clock = wall_ms, board: Board | None = None
    ) -> None:
        self._launcher = launcher.absolute()
        self._board = board or Board()
        self._own_pages = pagemap.reader(pagemap_kind)
        self._clock = clock
        self._images = whole.Images()
        self._links: dict[Identity, qmp.Link] = {}
        self._linking: dict[Identity, asyncio.Lock] = {}  # one a VMM: none waits for another that does not answer
        self._tsc_khz = 0

    # -- start

    async def boot(self, spec: MachineSpec) -> Handle:
        if spec.kernel is None:
            raise MachineError(f"{spec.vm_id}: a boot needs a kernel")
        tsc_khz = await self._rate()
        await self._prepare(spec.home)
        disks = Disks(root=spec.image / "root.erofs", base=spec.home / "disk.raw")
        ram = spec.home / "ram"
        await threads.finish(_make_ram, ram, spec.memory_mib * MIB, spec.uid)
        await self._make_disk(spec, disks.base)
        kernel_sha256 = (await threads.finish(files.sum_of, spec.kernel.vmlinux)).digest.removeprefix("sha256:")
        handle, _ = await self._start(
            Start(
                spec=spec,
                argv=machine.boot_line(spec, spec.kernel, tsc_khz),
                binds=machine.boot_binds(spec.kernel, disks, ram),
                file_bytes=max(spec.disk_bytes, spec.memory_mib * MIB),
            ),
            {"kind": manifest.IMAGE, "kernel_sha256": kernel_sha256, "base": None, "layers": []},
        )
        return handle

    async def restore(self, spec: MachineSpec, snap: Path) -> Handle:
        found = manifest.read(snap)
        await self._check(found, spec, snap)
        await self._prepare(spec.home)
        base = spec.image / "snapshot/disk.raw"
        below = [snap / layer.file for layer in reversed(found.disks)]
        disks = Disks(root=spec.image / "root.erofs", base=base, layers=below)
        top = spec.home / layers.TOP
        qcow2.create(top, base.stat().st_size, owner_uid=spec.uid)
        what = Start(
            spec=spec,
            argv=machine.restore_line(spec, disks),
            binds=machine.restore_binds(disks, top, spec.image / "snapshot/ram", snap / "state"),
            file_bytes=base.stat().st_size + 1024 * MIB,
        )
        facts = {
            "kind": manifest.VM,
            "kernel_sha256": found.kernel_sha256,
            "base": found.base or manifest.digest(snap),
            "layers": [str(layer) for layer in reversed(below)],
        }
        async with threads.beside(self._read(found, spec, snap)) as whole_now:
            try:
                handle, link = await self._start(what, facts)
            except MachineError:
                await whole_now  # a damaged file is the better reason than what QEMU says of it
                raise
            try:
                await self._load(handle, link, found, snap, whole_now)
            except BaseException:
                await asyncio.shield(self.kill(handle))
                raise
        return handle

    async def _read(self, found: Manifest, spec: MachineSpec, snap: Path) -> None:
        """Everything that the machine is made of, but the delta, which is checked as it is loaded."""
        if found.kind == manifest.VM:
            await threads.stoppable(whole.check_sleep, found, snap)
        await self._images.check(spec.image / "snapshot" if found.kind == manifest.VM else snap)

    async def _check(self, found: Manifest, spec: MachineSpec, snap: Path) -> None:
        """Everything that binds the snapshot to this machine but QEMU's version, which QEMU tells itself."""
        here = Binding(
            tools=spec.tools.name,
            qemu=found.binding.qemu,
            machine=machine.MACHINE,
            cpu=machine.cpu_of(spec.accel, host.cpu_model() if spec.accel is Accel.KVM else ""),
            memory_mib=spec.memory_mib,
            vcpus=spec.vcpus,
            accel=spec.accel.value,
            tsc_khz=await self._rate(),
        )
        manifest.check_binding(found, here)
        manifest.check_sizes(found, snap)
        if found.kind == manifest.VM:
            image = spec.image / "snapshot"
            if found.base != manifest.digest(image):
                raise SnapshotMismatch(f"The snapshot {snap} was made on another image than {image}")
            manifest.check_sizes(manifest.read(image), image)

    async def _load(
        self, handle: Handle, link: qmp.Link, found: Manifest, snap: Path, whole_now: asyncio.Task[None]
    ) -> None:
        """The VM's own pages first: devices may look at guest memory while their state is loaded. Nothing of QEMU's
        sees the state before it is known to be whole."""
        if link.version != found.binding.qemu:
            raise SnapshotMismatch(f"The snapshot was made with qemu {found.binding.qemu!r}; here is {link.version!r}")
        if found.kind == manifest.VM:
            with self._board.showing(handle.vm_id, "loading memory") as progress:
                await threads.finish(_load_pages, handle, snap / "delta", progress)
        await whole_now
        await _load_state(link)

    async def _start(self, what: Start, facts: Mapping[str, object]) -> tuple[Handle, qmp.Link]:
        started = await start.start(self._launcher, what)
        self._links[started.who] = started.link
        spec = what.spec
        extra = {
            **facts,
            "tools": str(spec.tools),
            "image": str(spec.image),
            "memory_mib": spec.memory_mib,
            "vcpus": spec.vcpus,
            "accel": spec.accel.value,
            "cgroups": [str(folder) for folder in started.cgroups.folders],
            "unlimited": {name: why for name, why in started.cgroups.measures.items() if why},
        }
        who = started.who
        handle = Handle(vm_id=spec.vm_id, pid=who.pid, started_ticks=who.started_ticks, home=spec.home, extra=extra)
        return handle, started.link

    async def _prepare(self, home: Path) -> None:
        """End what an earlier, interrupted attempt left, and drop what it wrote."""
        who = start.recorded(home)
        if who is not None:
            await process.kill(who, within_s=KILL_S)
            self._forget(who)
        start.clear(home)
        for name in ("ram", "disk.raw", layers.TOP):
            (home / name).unlink(missing_ok=True)

    async def _make_disk(self, spec: MachineSpec, disk: Path) -> None:
        """A sparse ext4: nothing is left for the guest to initialise in the background."""
        await threads.finish(_make_empty, disk, spec.disk_bytes, spec.uid)
        options = "lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1,nodiscard"
        program = jail.Program(
            tree=spec.tools,
            argv=["/usr/sbin/mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, "/disk.raw"],
            binds=[jail.Bind(disk, "/disk.raw", writable=True)],
            walls=jail.Walls(uid=spec.uid),
        )
        await jail.run(self._launcher, program, within_s=MKFS_S)

    async def _rate(self) -> int:
        if not self._tsc_khz:
            self._tsc_khz = await host.tsc_khz(self._launcher)
        return self._tsc_khz

    # -- run

    async def pause(self, vm: Handle) -> None:
        link = await self._link(vm)
        if vm.extra["accel"] == Accel.KVM.value:
            await interrupts.stop_between(link, Facts.of(vm).vcpus, vm.vm_id)
        else:
            await link.ask("stop", within_s=qmp.FLUSH_S)

    async def unpause(self, vm: Handle) -> None:
        link = await self._link(vm)
        now = await link.ask("query-status")
        if now["running"]:
            return
        await threads.finish(layers.part, vm.home)
        if now["status"] == stalls.STALLED:
            await stalls.go_on(link, vm.vm_id)
        else:
            await link.ask("cont")

    async def snapshot(self, vm: Handle, into: Path) -> Snapshot:
        link = await self._link(vm)
        if (await link.ask("query-status"))["running"]:
            raise MachineError(f"{vm.vm_id} runs: a snapshot needs a paused VM")
        if vm.extra["kind"] == manifest.VM and into.parent != vm.home / "snapshots":
            raise MachineError(f"{into}: the snapshot of a VM lies in {vm.home / 'snapshots'}")
        try:
            await threads.finish(freeze.fresh, vm.home, into)
            try:
                await _save_state(link, into / "state")
                return await threads.finish(self._save, vm, into, link.version, await self._rate())
            finally:
                if not (into / manifest.NAME).exists():
                    await threads.finish(freeze.drop, vm.home, into)
        except OSError as err:
            raise MachineError(f"The snapshot {into} could not be written: {err.strerror}") from err

    def _save(self, vm: Handle, into: Path, qemu: str, tsc_khz: int) -> Snapshot:
        facts = Facts.of(vm)
        if facts.kind == manifest.IMAGE:
            parts = freeze.image(vm.home, into, facts.image / "root.erofs")
        else:
            with self._board.showing(vm.vm_id, "saving memory") as progress:
                parts = freeze.own(
                    vm.home,
                    into,
                    pid=vm.pid,
                    ram=facts.ram,
                    memory_bytes=facts.memory_mib * MIB,
                    own_pages=self._own_pages,
                    below=facts.layers,
                    progress=progress,
                )
        whole = Manifest(
            kind=facts.kind,
            binding=facts.binding(qemu, tsc_khz),
            kernel_sha256=facts.kernel_sha256,
            created_at_ms=self._clock(),
            base=facts.base,
            files=parts.files,
            disks=parts.disks,
            root=parts.root,
        )
        return freeze.seal(whole, into)

    # -- end

    async def kill(self, vm: Handle) -> None:
        who = identity(vm)
        await process.kill(who, within_s=KILL_S)
        self._cleared(vm, who)

    async def wait(self, vm: Handle) -> Exit:
        who = identity(vm)
        if who.alive():
            with suppress(MachineError):  # without events the end is still an end
                await self._link(vm)
        async with asyncio.TaskGroup() as own:
            link = self._links.get(who)
            beside = own.create_task(stalls.watch(link, vm.vm_id)) if link is not None else None
            end = await process.wait(who)
            if beside is not None:
                beside.cancel()
        link = self._links.get(who)
        events: Sequence[qmp.Event] = await link.last_events() if link is not None else ()
        said = link.last_words() if link is not None else ""
        oom_kills = cgroup.oom_kills(_groups(vm))
        self._cleared(vm, who)
        return _exit(events, end, said, oom_kills)

    async def adopt(self, saved: Mapping[str, object]) -> Handle | None:
        vm = handle_of(saved)
        who = identity(vm)
        if who.alive():
            return vm
        await process.kill(who, within_s=KILL_S)  # it may be dead and our child: reap it
        self._cleared(vm, who)
        return None

    def _cleared(self, vm: Handle, who: Identity) -> None:
        """Remove what is left of an ended VMM, unless a later one of the same home has taken its place."""
        self._forget(who)
        if start.recorded(vm.home) in (who, None):
            start.clear(vm.home)
            cgroup.remove(_groups(vm))

    def _forget(self, who: Identity) -> None:
        self._linking.pop(who, None)
        link = self._links.pop(who, None)
        if link is not None:
            link.close()

    async def _link(self, vm: Handle) -> qmp.Link:
        """The control connection; made again when this object has none. Raises MachineError."""
        who = identity(vm)
        async with self._linking.setdefault(who, asyncio.Lock()):
            link = self._links.get(who)
            if link is None or not link.alive:
                if not who.alive():
                    raise MachineError(f"The VMM of {vm.vm_id} is gone")
                link = await start.connect(vm.home, LINK_S)
                self._links[who] = link
        return link


def _groups(vm: Handle) -> list[Path]:
    return [Path(folder) for folder in strings(vm.extra["cgroups"])]


def _make_empty(path: Path, size: int, uid: int | None) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size)
        if uid is not None:
            os.fchown(descriptor, uid, uid)
    finally:
        os.close(descriptor)


def _make_ram(path: Path, size: int, uid: int | None) -> None:
    """With blocks of its own: a guest that first touches a page for which the disk has none kills its VMM (SIGBUS), or
    is reset (KVM). Raises MachineError when the disk has no room for it."""
    _make_empty(path, size, uid)
    try:
        reserve.allocate(path, size)
    except OSError as err:
        raise MachineError(f"The memory of the machine, {size // MIB} MiB in {path}: {err.strerror}") from err


def _load_pages(vm: Handle, path: Path, progress: Progress) -> None:
    facts = Facts.of(vm)
    memory_bytes = facts.memory_mib * MIB
    opened = delta.open_delta(path)
    if opened.memory_bytes != memory_bytes:
        raise SnapshotMismatch(f"{path} is of a guest with {opened.memory_bytes} bytes of memory")
    delta.load(opened, vm.pid, pagemap.regions_of(vm.pid, facts.ram, memory_bytes), progress)


async def _save_state(link: qmp.Link, path: Path) -> None:
    """Device state, written by QEMU through our descriptor; its disks are flushed and inactive afterwards."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        await link.add_fd(descriptor, STATE_FDSET)
        try:
            file = f"/dev/fdset/{STATE_FDSET}"
            await link.ask("xen-save-devices-state", within_s=qmp.FLUSH_S, filename=file)
        finally:
            with suppress(qmp.Lost):
                await link.ask("remove-fd", fdset_id=STATE_FDSET)
        os.fchmod(descriptor, freeze.READ_ONLY)
        await threads.finish(os.fsync, descriptor)
    finally:
        os.close(descriptor)


async def _load_state(link: qmp.Link) -> None:
    """Load device state; the machine is then paused. Raises SnapshotMismatch when QEMU refuses it."""
    with link.listening() as events:
        await link.ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        try:
            await link.ask("migrate-incoming", uri="file:/vm/state")
            async with asyncio.timeout(INCOMING_S):
                while (event := await events.get()) is not None:
                    if event.name == "MIGRATION" and event.data.get("status") in ("completed", "failed"):
                        break
        except TimeoutError as err:
            raise MachineError(f"The device state was not loaded within {INCOMING_S} s") from err
    if event is None or event.data["status"] != "completed":
        raise SnapshotMismatch(f"QEMU could not load the device state. {link.last_words()}".strip())
    link.last_words()  # "Expected vmdescription section": always said of such a state, and harmless


def _exit(events: Sequence[qmp.Event], end: str, said: str, oom_kills: int) -> Exit:
    if any(event.name == "GUEST_PANICKED" for event in events):
        return Exit(kind=ExitKind.PANIC, detail=said)
    reasons = [str(event.data.get("reason")) for event in events if event.name == "SHUTDOWN"]
    kind = _EXITS.get(reasons[-1], ExitKind.DIED) if reasons else ExitKind.DIED
    if kind is ExitKind.DIED and oom_kills:
        kind = ExitKind.STARVED
    detail = end if kind in (ExitKind.DIED, ExitKind.STARVED) else ""
    return Exit(kind=kind, detail=". ".join(part for part in (detail, said) if part))
