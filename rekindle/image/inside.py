"""Commands that run inside a toolbox tree: its programs with its own libraries, whatever this machine has installed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

#: An ordinary user as root of a namespace with the sub-uids that /etc/subuid gives them.
USER_NAMESPACE = ("--user", "--map-root-user", "--map-auto")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: The tree is bound onto itself, because buildah's layer unpacking makes `/` private and needs it to be a mount point.
_ENTER = """
set -eu
PATH=$PATH:/usr/sbin:/sbin
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
while [ "$1" != -- ]; do
  mount --rbind "$1" "$root$2"
  [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
  shift 3
done
shift
exec chroot "$root" "$@"
"""


def command(
    root: Path,
    argv: Sequence[str],
    *,
    binds: Mapping[str, Path] | None = None,
    read_only: Mapping[str, Path] | None = None,
    env: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line that runs `argv` in the tree at `root`, in mount and pid namespaces of its own.

    `binds` and `read_only` map a path inside (which must exist there: /st, /w, /build, /image, /vm, /mnt) to one of
    this machine. Everything ends with it: no mount and no process stays. `env` is the whole environment besides PATH,
    HOME and LC_ALL.
    """
    user = () if os.geteuid() == 0 else USER_NAMESPACE
    words = ["unshare", *user, "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    words += ["sh", "-c", _ENTER, "enter", str(root)]
    for mode, given in (("rw", binds or {}), ("ro", read_only or {})):
        for inside, outside in given.items():
            words += [str(outside), inside, mode]
    variables = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **(env or {})}
    return [*words, "--", "env", "-i", *(f"{name}={value}" for name, value in variables.items()), *argv]


def program(root: Path, path: str) -> list[str]:
    """The start of a command line for a program of the tree run in place: its loader, its libraries, no chroot."""
    libraries = ":".join(str(root / part) for part in ("usr/lib/x86_64-linux-gnu", "usr/lib"))
    return [str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", libraries, str(root / path.lstrip("/"))]
