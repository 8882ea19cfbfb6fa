"""What is mounted where, as a process sees it (/proc/<pid>/mountinfo, proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ESCAPED = re.compile(r"\\([0-7]{3})")
_DELETED = "//deleted"  #: how the kernel marks a root that was removed meanwhile


@dataclass(frozen=True, slots=True)
class Mount:
    device: str  #: `major:minor` of the file system
    root: str  #: the folder or file of that file system which is shown
    point: str
    kind: str

    def shows(self, of: tuple[str, str]) -> tuple[str, ...]:
        """Which part of `of` (`place_of`) this mount shows; none when it shows something else."""
        device, path = of
        return _below(self.root, path) if device == self.device else ()

    def below(self, folder: Path) -> tuple[str, ...]:
        """The parts of the mount point below `folder`; none when it lies elsewhere."""
        return _below(self.point, str(folder.resolve()))


def mounts_of(pid: int | str) -> list[Mount]:
    """None for a process that is gone or not ours to look at."""
    try:
        text = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return []
    return [_mount(line) for line in text.splitlines()]


def place_of(folder: Path) -> tuple[str, str]:
    """`folder` as mounts of any namespace name it: the device, and the path within that file system."""
    path = str(folder.resolve())
    over = [mount for mount in mounts_of("self") if _is_in(path, mount.point)]
    nearest = max(reversed(over), key=lambda mount: len(mount.point))  # of two at one point the later hides the first
    inner = PurePosixPath(nearest.root) / PurePosixPath(path).relative_to(nearest.point)
    return nearest.device, str(inner)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _below(path: str, folder: str) -> tuple[str, ...]:
    path = path.removesuffix(_DELETED)
    return PurePosixPath(path).relative_to(folder).parts if _is_in(path, folder) else ()


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    fields = before.split()
    return Mount(device=fields[2], root=_plain(fields[3]), point=_plain(fields[4]), kind=after.split()[0])


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
