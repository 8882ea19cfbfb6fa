"""mmdebstrap with this machine's own apt settings: a Debian file system as a tar, as root or as an ordinary user."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rekindle.core.errors import MachineError
from rekindle.image import hostconf, inside
from rekindle.process import CommandFailed, run_ok

Progress = Callable[[str], None]

SUITE = "trixie"
DEADLINE_S = 1800.0

#: No manuals, no translations; licences stay.
_TRIM = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
)
#: mmdebstrap copies the machine's resolv.conf, hostname and apt settings in; logs name its mirror.
_FORGET_THE_MACHINE = (
    'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap '
    '"$1"/etc/apt/auth.conf.d/* "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/var/log/apt/* "$1"/var/log/*.log '
    '"$1"/var/cache/ldconfig/aux-cache "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old '
    '"$1"/var/lib/apt/lists/*; : >"$1"/etc/machine-id'
)
#: What apt says when a suite is not on a mirror; the suite is in one of the groups.
_NO_SUITE = re.compile(rf"(?:repository|Failed to fetch)\W+(?P<uri>\S+?)(?:/dists/|\s+)(?P<suite>{SUITE}(?:-\w+)?)\b")


@asynccontextmanager
async def workplace(scratch: Path) -> AsyncIterator[Path]:
    """The folder that `make_tar` works in; nothing stays of it, also of what sub-uids own.

    In `scratch`, or for an ordinary user in the machine's temporary folder: the sub-uids of mmdebstrap's user
    namespace must reach it, and a home is often closed to them. Raises MachineError naming the programs that this
    machine lacks.
    """
    _require_tools()
    if os.geteuid() == 0:
        (scratch / "work").mkdir()
        yield scratch / "work"
        return
    work = Path(tempfile.mkdtemp(prefix="rekindle-"))
    work.chmod(0o755)
    try:
        yield work
    finally:
        await run_ok(["unshare", *inside.USER_NAMESPACE, "rm", "-rf", str(work)], deadline_s=120)


async def make_tar(
    out: Path,
    work: Path,
    *,
    variant: str,
    include: Sequence[str],
    hooks: Sequence[str] = (),
    final_hooks: Sequence[str] = (),
    progress: Progress,
    suite: str = SUITE,
    etc_apt: Path = hostconf.ETC_APT,
    lists: Path = hostconf.APT_LISTS,
) -> None:
    """Make a file system of `suite` in `out` (a tar). `hooks` and `final_hooks` are shell lines with the tree
    as `$1`; apt still works in the former, and only the latter come after everything of this machine is out of it.

    `work` is an empty `workplace`. Raises MachineError naming what this machine lacks:
    mmdebstrap, user namespaces for an ordinary user, or the suite.
    """
    sources = hostconf.debian_sources(suite, etc_apt, lists)
    (work / "host.sources").write_text("\n".join(source.deb822() for source in sources))
    (work / "host.conf").write_text(await hostconf.apt_options(etc_apt))
    argv = _argv(out, work, suite, variant, include, (*hooks, _FORGET_THE_MACHINE, *final_hooks))
    try:
        await run_ok(argv, env=_environment(work), deadline_s=DEADLINE_S, on_line=_reporter(progress))
    except CommandFailed as err:
        raise explained(err) from err


def _argv(out: Path, work: Path, suite: str, variant: str, include: Sequence[str], hooks: Sequence[str]) -> list[str]:
    mode = "root" if os.geteuid() == 0 else "unshare"
    argv = ["mmdebstrap", f"--mode={mode}", f"--variant={variant}", f"--include={','.join(include)}", "--format=tar"]
    argv += [f"--aptopt={work / 'host.conf'}", '--aptopt=Apt::Install-Recommends "false"']
    argv += [f"--dpkgopt={line}" for line in _TRIM]
    argv += [f"--customize-hook={hook}" for hook in hooks]
    return [*argv, suite, str(out), str(work / "host.sources")]


def _environment(work: Path) -> dict[str, str]:
    """The machine's environment (its proxies and CAs), with our folder for temporary files."""
    return {
        **os.environ,
        "TMPDIR": str(_open_to_all(work)),
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }


def _open_to_all(work: Path) -> Path:
    """mmdebstrap's tree must be reachable by the sub-uids of its user namespace and by apt's own user."""
    folder = work / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def _require_tools() -> None:
    needed = {"mmdebstrap": "mmdebstrap", "apt-config": "apt", "dpkg-deb": "dpkg", "tar": "tar"}
    if os.geteuid() != 0:
        needed |= {"newuidmap": "uidmap", "unshare": "util-linux"}
    missing = sorted({package for program, package in needed.items() if shutil.which(program) is None})
    if missing:
        raise MachineError(
            f"Cannot make a Debian tree: missing {', '.join(missing)}; as root: apt-get install {' '.join(missing)}"
        )


def _reporter(progress: Progress) -> Callable[[str], None]:
    """mmdebstrap's own steps ("I: installing packages...") are worth showing; apt's and dpkg's chatter is not."""

    def report(line: str) -> None:
        if line.startswith("I: ") and not line.startswith(("I: running", "I: automatically")):
            progress(line.removeprefix("I: "))

    return report


def explained(err: CommandFailed) -> MachineError:
    """What to do about a failure of mmdebstrap; the failure itself where nothing better is known."""
    said = err.stderr.decode(errors="replace")
    if (found := _NO_SUITE.search(said)) is not None:
        return MachineError(
            f"The Debian suite '{found['suite']}' cannot be read from {found['uri']}, which this machine's apt sources "
            f"name: the source must also serve '{SUITE}' and its -updates and -security where it serves yours. "
            f"Check with: apt-get update; add a Debian source that has it to /etc/apt/sources.list.d"
        )
    if "newuidmap" in said or "subuid" in said:
        return MachineError(
            "An ordinary user needs a range in /etc/subuid and /etc/subgid to make a Debian tree; as root: "
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
        )
    return err
