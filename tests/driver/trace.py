"""What a process really asks of the kernel, in order (strace), and what of it a power cut could undo."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.waiting import until

CALLS = (
    "openat,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,mkdir,execve"
)
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\)\s+= (-?\d+)")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_UNFINISHED = re.compile(r"^(\d+) +(\w+\(.*) <unfinished \.\.\.>$")


@dataclass(frozen=True, slots=True)
class Call:
    """One call that succeeded: `paths` are those it names or those of its descriptors."""

    name: str
    paths: tuple[str, ...]
    creates: bool = False


@contextmanager
def traced(log: Path) -> Iterator[list[Call]]:
    """The calls of this process, its threads and its children while the block goes on; filled in when it is left."""
    if shutil.which("strace") is None:
        pytest.skip("no strace on this machine")
    command = ["strace", "-f", "-y", "-s", "400", "-e", f"trace={CALLS}", "-o", str(log), "-p", str(os.getpid())]
    calls: list[Call] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        try:
            until(lambda: _tracer() != 0 or tracer.poll() is not None, 20, "strace is there")
            if tracer.poll() is not None:
                assert tracer.stderr is not None
                pytest.skip(f"strace may not look: {tracer.stderr.read().decode().strip()}")
            yield calls
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)
    calls += parsed(log.read_text(errors="replace"))


def _tracer() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"TracerPid:\s+(\d+)", status)[1])  # type: ignore[index]


def parsed(text: str) -> list[Call]:
    """Successful calls, each at the place where it ended."""
    begun: dict[str, str] = {}
    found: list[Call] = []
    for line in text.splitlines():
        if half := _UNFINISHED.match(line):
            begun[half[1]] = half[2]
            continue
        if rest := _RESUMED.match(line):
            line = f"{rest[1]} {begun.pop(rest[1], rest[2] + '(')}{rest[3]}"
        call = _LINE.match(line)
        if call and int(call[3]) >= 0:
            paths = re.findall(r'"([^"]*)"|\d+<([^>]*)>', call[2])
            named = tuple(quoted or described for quoted, described in paths if (quoted or described).startswith("/"))
            found.append(Call(call[1], named, creates="O_CREAT" in call[2]))
    return found


@dataclass
class Disk:
    """What a power cut could undo: files whose content, and folders whose entries, no fsync has covered yet."""

    files: set[str] = field(default_factory=set)
    folders: dict[str, list[str]] = field(default_factory=dict)

    def follow(self, call: Call) -> None:
        name, paths = call.name, call.paths
        if not paths:
            return
        if name in ("fsync", "fdatasync"):
            self.files.discard(paths[0])
            self.folders.pop(paths[0], None)
        elif name in ("write", "pwrite64", "writev", "ftruncate"):
            self.files.add(paths[0])
        elif name.startswith("rename"):
            self._changed(*paths[-2:])
            if paths[-2] in self.files:
                self.files.remove(paths[-2])
                self.files.add(paths[-1])
        elif name.startswith("link"):
            self._changed(paths[-1])
        elif name == "mkdir" or call.creates:
            self._changed(paths[-1] if name == "mkdir" else paths[0])

    def _changed(self, *paths: str) -> None:
        for path in paths:
            folder, _, entry = path.rpartition("/")
            self.folders.setdefault(folder, []).append(entry)


def without(calls: Sequence[Call], at: int) -> list[Call]:
    return [*calls[:at], *calls[at + 1 :]]
