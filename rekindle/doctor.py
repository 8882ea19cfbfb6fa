"""What this machine can do, found out by trying, and what to do about what it cannot. Needs no running service."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import platform
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rekindle import binaries, strays
from rekindle.api import notes
from rekindle.check import Check, fail, ok, warn
from rekindle.config import Config
from rekindle.core.errors import RekindleError
from rekindle.driver import cgroup, jail, pagemap, probe
from rekindle.driver.base import Accel
from rekindle.image import base, buildnet, toolbox
from rekindle.image.toolbox import Toolbox

GIB = 1024**3
PYTHON = (3, 11)
LITTLE_DISK_BYTES = 10 * GIB
NO_DISK_BYTES = 2 * GIB
LITTLE_MEMORY_BYTES = 2 * GIB
_FICLONE = 0x40049409
EMULATION = "guests run in software emulation, for development only, not a security boundary"


async def examine(config: Config) -> list[Check]:
    """All checks in the order in which they build on one another. Raises nothing for what is missing."""
    tree = _newest(config)
    return [
        _python(),
        _machine(),
        await _user(),
        *_programs(),
        _toolbox(tree),
        _base(config),
        _builds(),
        ok("aws", notes.WITHOUT_EFFECT),
        await _accel(config, tree),
        *await _jail(config, tree),
        *_cgroups(),
        _ptrace(),
        _pagemap(),
        *_storage(config),
        await _leftovers(config),
        _memory(),
    ]


# -- the service's own needs -------------------------------------------------------------------------------------------


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info < PYTHON:
        return fail("python", found, f"Install Python {'.'.join(map(str, PYTHON))} or newer")
    return ok("python", found)


def _machine() -> Check:
    found = f"{platform.machine()}, Linux {platform.release()}"
    if platform.machine() != "x86_64":
        return fail("machine", found, "Use an x86_64 machine; others are not supported yet")
    return ok("machine", found)


async def _user() -> Check:
    """Root, or user namespaces with a range of ids: builds and jails need one of the two."""
    if os.geteuid() == 0:
        return ok("user", "root: every VMM runs as a user of its own")
    name = pwd.getpwuid(os.geteuid()).pw_name
    missing = [*_missing_uidmap(), *_missing_ranges(name)]
    if missing:
        fix = "apt install uidmap, then usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + name
        return fail("user", f"{name}, but {'; '.join(missing)}", fix)
    if not await _runs("unshare", "--user", "--map-root-user", "true"):
        return fail("user", f"{name}, but user namespaces are switched off", _namespace_fix())
    return ok("user", f"{name}: user namespaces work")


def _missing_uidmap() -> list[str]:
    return [f"{tool} is not installed" for tool in ("newuidmap", "newgidmap") if shutil.which(tool) is None]


def _missing_ranges(name: str) -> list[str]:
    files = (Path("/etc/subuid"), Path("/etc/subgid"))
    return [f"{path} has no range for {name}" for path in files if not _has_line(path, f"{name}:")]


def _has_line(path: Path, start: str) -> bool:
    return path.exists() and any(line.startswith(start) for line in path.read_text().splitlines())


def _namespace_fix() -> str:
    switches = {"kernel/unprivileged_userns_clone": "1", "kernel/apparmor_restrict_unprivileged_userns": "0"}
    off = [name for name, good in switches.items() if _sysctl(name) not in (None, good)]
    if not off:
        return "Raise user.max_user_namespaces, or run Rekindle as root"
    return "; ".join(f"sysctl {name.replace('/', '.')}={switches[name]}" for name in off)


def _sysctl(name: str) -> str | None:
    try:
        return (Path("/proc/sys") / name).read_text().strip()
    except FileNotFoundError:
        return None


async def _runs(*argv: str) -> bool:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait() == 0


def _programs() -> Iterable[Check]:
    for name in binaries.NAMES:
        try:
            yield ok(name, str(binaries.find(name)))
        except RekindleError as error:
            yield fail(name, error.message, "make go")


# -- what guests are made of -------------------------------------------------------------------------------------------


def _newest(config: Config) -> Toolbox | None:
    return next(iter(toolbox.installed(config.tools_dir)), None)


def _toolbox(tree: Toolbox | None) -> Check:
    if tree is None:
        return warn("toolbox", "not made yet; `rekindle serve` makes it at its start", "rekindle tools update")
    return ok("toolbox", str(tree.root))


def _base(config: Config) -> Check:
    found = base.installed(config.tools_dir)
    if found is None:
        return warn("base image", "not made yet; `rekindle serve` makes it at its start", "rekindle tools update")
    return ok("base image", f"{found.name} {found.version} ({found.digest})")


def _builds() -> Check:
    """What a Dockerfile build needs beside the toolbox, and which of its limits are weaker for an ordinary user."""
    if missing := buildnet.why_none():
        what, _, fix = missing.partition("; as root: ")
        return fail("builds", f"{what}: images cannot be built, those that are there run", fix)
    if os.geteuid() == 0:
        return ok("builds", "the kernel bounds their memory and processes")
    what = "in user namespaces; their memory is watched, not capped by the kernel, and RUN steps make no devices"
    return warn("builds", what, "Run Rekindle as root")


async def _accel(config: Config, tree: Toolbox | None) -> Check:
    """By running a guest kernel: /dev/kvm alone says little (nested, broken, forbidden)."""
    if tree is None:
        return warn("kvm", "unknown without the toolbox: it is tried with a real guest", "rekindle tools update")
    accel, why = await probe.usable_accel(tree.root, tree.vmlinux, config.machine.probe_s)
    demanded = config.machine.accel
    if accel is Accel.TCG and demanded == "kvm":
        return fail("kvm", f"not usable ({why}), but machine.accel demands it", 'Set machine.accel = "auto"')
    if accel is Accel.TCG:
        return warn("kvm", f"not usable ({why}): {EMULATION}", _kvm_fix())
    if demanded == "tcg":
        return warn("kvm", f"usable, but machine.accel is tcg: {EMULATION}", 'Set machine.accel = "auto"')
    return ok("kvm", why)


def _kvm_fix() -> str:
    if Path("/dev/kvm").exists() and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return f"As root: adduser {pwd.getpwuid(os.geteuid()).pw_name} kvm; then log in again"
    return "Use a machine, or an outer machine, with working KVM"


# -- walls -------------------------------------------------------------------------------------------------------------


async def _jail(config: Config, tree: Toolbox | None) -> list[Check]:
    if tree is None:
        return [warn("jail", "unknown without the toolbox: it is tried with a real process", "rekindle tools update")]
    try:
        launcher = binaries.find("rekindle-jail")
    except RekindleError as error:
        return [fail("jail", error.message, "make go")]
    uid = config.machine.first_uid if os.geteuid() == 0 else None
    measures = await jail.report(launcher, tree.root, uid)
    return [_wall(measure) for measure in measures if not measure.name.startswith("cgroup")]


def _wall(measure: jail.Measure) -> Check:
    name = f"jail: {measure.name}"
    return ok(name, "active") if measure.active else warn(name, f"not active: {measure.why_not}")


def _cgroups() -> Iterable[Check]:
    """By making a group and removing it: what is mounted says little about what may be written."""
    group = cgroup.make(f"doctor-{os.getpid()}", memory_bytes=GIB, pids=64)
    cgroup.remove(group.folders)
    for name, why in group.measures.items():
        yield ok(name, "active") if not why else warn(name, f"not active: {why}", _cgroup_fix())


def _cgroup_fix() -> str:
    return "Run Rekindle as root" if os.geteuid() else "Give this container a writable cgroup file system"


# -- kernel and disk ---------------------------------------------------------------------------------------------------


def _ptrace() -> Check:
    """A VM's changed pages are read with process_vm_readv, also after a restart, when it is no child of ours."""
    scope = int(_sysctl("kernel/yama/ptrace_scope") or 0)
    if scope == 0 or (os.geteuid() == 0 and scope < 3):
        return ok("ptrace", f"memory of VMMs can be read (yama scope {scope})")
    what = f"yama scope {scope}: after a restart of the service its VMs cannot be suspended"
    return warn("ptrace", what, "sysctl kernel.yama.ptrace_scope=0")


def _pagemap() -> Check:
    if pagemap.scan_supported():
        return ok("pagemap", "PAGEMAP_SCAN finds changed pages in one call")
    return warn("pagemap", "no PAGEMAP_SCAN before Linux 6.7: suspend reads the older page map, which takes longer")


def _storage(config: Config) -> list[Check]:
    folder = next(path for path in (config.state, *config.state.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    words = f"{free / GIB:.0f} GiB free at {folder}"
    fix = "Free some space, or use another folder: rekindle --state DIR"
    if free < NO_DISK_BYTES:
        return [fail("disk", words, fix)]
    return [warn("disk", words, fix) if free < LITTLE_DISK_BYTES else ok("disk", words), _reflink(folder)]


async def _leftovers(config: Config) -> Check:
    """What no row of the state folder names any more (`strays`)."""
    try:
        found = await strays.find(config)
    except RekindleError as error:
        return warn("leftovers", f"not looked for: {error.message}", "Start the service once")
    words = "; ".join(one.what for one in found)
    return warn("leftovers", words, "rekindle doctor --clean") if found else ok("leftovers", "none")


def _reflink(folder: Path) -> Check:
    if not os.access(folder, os.W_OK):
        return warn(
            "reflink", f"{folder} is not writable by you", "chown it, or use another folder: rekindle --state DIR"
        )
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
        source.write(bytes(4096))
        source.flush()
        try:
            fcntl.ioctl(target, _FICLONE, source.fileno())
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EXDEV):
                raise
            return ok("reflink", "no; disks are layered instead, nothing is lost")
    return ok("reflink", "yes")


def _memory() -> Check:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    words = f"{available / GIB:.1f} GiB available"
    if available < LITTLE_MEMORY_BYTES:
        return warn("memory", words, "Stop other programs, or build images with less memory")
    return ok("memory", words)
