"""`manifest.json`: what a snapshot is, what it is bound to, its digests. Renamed in last: it says that it is whole.

Device state loads *silently* on another processor model, memory size or QEMU: the guest just hangs (vmm.md §8). So
everything that binds a snapshot is named here and compared before a byte of it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rekindle.core.errors import SnapshotMismatch
from rekindle.driver import files
from rekindle.driver.files import Sum

FORMAT = 1
NAME = "manifest.json"
TSC_TOLERANCE_PPM = 250
IMAGE, VM = "image", "vm"
_OWN_MEMBERS = {"format", "kind", "kernel_sha256", "created_at_ms", "base", "files", "disks", "root", "digest"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """What a snapshot needs of the machine that resumes it."""

    tools: str
    qemu: str
    machine: str
    cpu: str
    memory_mib: int
    vcpus: int
    accel: str
    tsc_khz: int


_MEMBERS = _OWN_MEMBERS | set(Binding.__slots__)


@dataclass(frozen=True, slots=True)
class Layer:
    """A qcow2 layer in the snapshot's folder. `bytes` is the least that it may have (see `check_sizes`).

    Without a digest (it was too large to be read within a suspend, or a merge writes into it) only the size is known;
    it gets one when the VM has gone to sleep (`layers.merge`). `seen` says which file was read for it, and in which
    boot of this machine (`whole.seen`).
    """

    file: str
    bytes: int
    digest: str | None = None  #: of its pages (`files.PageSum`)
    seen: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    kind: str  #: IMAGE or VM
    binding: Binding
    kernel_sha256: str
    created_at_ms: int
    base: str | None  #: SHA-256 of the image's manifest; None for the image itself
    files: Mapping[str, Sum]
    disks: tuple[Layer, ...] = ()  #: top first; below the last lies the image's disk.raw
    root: Sum | None = None  #: of the image's root.erofs, beside the folder; an image made before has none

    def to_json(self) -> bytes:
        flat = {
            "format": FORMAT,
            "kind": self.kind,
            **asdict(self.binding),
            "kernel_sha256": self.kernel_sha256,
            "created_at_ms": self.created_at_ms,
            "base": self.base,
            "files": {name: _json(one) for name, one in self.files.items()},
            "disks": [asdict(one) for one in self.disks],
            "root": None if self.root is None else _json(self.root),
        }
        flat["digest"] = _digest_of(flat)
        return json.dumps(flat, indent=1).encode() + b"\n"

    def write(self, folder: Path) -> None:
        """Rename it into `folder`, after everything in there is durable. Blocking."""
        files.replace_durably(folder / NAME, self.to_json())


def _json(one: Sum) -> dict[str, object]:
    return {"bytes": one.size_bytes, "digest": one.digest}


def _digest_of(values: Mapping[str, object]) -> str:
    """Of everything that a manifest says but this."""
    said = {name: value for name, value in values.items() if name != "digest"}
    return f"sha256:{hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}"


def read(folder: Path) -> Manifest:
    """The manifest of a whole snapshot. Raises SnapshotMismatch when there is none, it is damaged, or none of ours."""
    path = folder / NAME
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as err:
        raise SnapshotMismatch(f"{folder} holds no whole snapshot: it has no {NAME}") from err
    except ValueError as err:
        raise SnapshotMismatch(f"{path} is not JSON") from err
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise SnapshotMismatch(f"{path} has not snapshot format {FORMAT}")
    if set(values) - _MEMBERS or ("digest" in values and values["digest"] != _digest_of(values)):
        raise damaged(path)  # one without a digest was made before they had any
    try:
        return _from(values)
    except (KeyError, TypeError, AttributeError) as err:
        raise SnapshotMismatch(f"{path} lacks something or has it of the wrong kind") from err


def _from(values: dict[str, Any]) -> Manifest:
    sums = {name: Sum(one["bytes"], one["digest"]) for name, one in values["files"].items()}
    layers = tuple(
        Layer(one["file"], one["bytes"], one.get("digest"), one.get("seen")) for one in values["disks"]
    )  # a snapshot made before layers had sums has none
    root = values.get("root")
    for name in (*sums, *(layer.file for layer in layers)):
        if Path(name).name != name:
            raise SnapshotMismatch(f"A snapshot names a file outside its folder: {name!r}")
    return Manifest(
        kind=values["kind"],
        binding=Binding(**{name: _of_kind(values[name], kind) for name, kind in get_type_hints(Binding).items()}),
        kernel_sha256=values["kernel_sha256"],
        created_at_ms=values["created_at_ms"],
        base=values["base"],
        files=sums,
        disks=layers,
        root=None if root is None else Sum(root["bytes"], root["digest"]),
    )


def _of_kind(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def digest(folder: Path) -> str:
    """What a VM's snapshot names as its base: the SHA-256 of the image's manifest. Raises SnapshotMismatch."""
    try:
        return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()
    except FileNotFoundError as err:
        raise SnapshotMismatch(f"{folder} holds no whole snapshot: it has no {NAME}") from err


def check_binding(manifest: Manifest, here: Binding) -> None:
    """Raises SnapshotMismatch naming the first difference between the snapshot and this machine."""
    for name, there, ours in (
        (name, getattr(manifest.binding, name), getattr(here, name)) for name in Binding.__slots__
    ):
        same = _close(there, ours) if name == "tsc_khz" else there == ours
        if not same:
            raise SnapshotMismatch(f"The snapshot was made with {name} {there!r}; this machine has {ours!r}")


def _close(there: int, ours: int) -> bool:
    return abs(there - ours) * 1_000_000 <= TSC_TOLERANCE_PPM * ours


def check_sizes(manifest: Manifest, folder: Path) -> None:
    """Cheap, for every launch: all files are there and as long as they were. Raises SnapshotMismatch.

    A disk layer may be longer: a merge that was cut off has written into it, below what still covers that.
    """
    for name, one in manifest.files.items():
        found = _size_of(folder / name)
        if found != one.size_bytes:
            raise SnapshotMismatch(f"{folder / name} has {found} bytes; the snapshot was made with {one.size_bytes}")
    for layer in manifest.disks:
        found = _size_of(folder / layer.file)
        if found < layer.bytes:
            raise SnapshotMismatch(f"{folder / layer.file} has {found} bytes of {layer.bytes}: it was cut short")


def _size_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError as err:
        raise SnapshotMismatch(f"{path} is missing") from err


def verify(folder: Path) -> Manifest:
    """Read every file that has a digest and compare. Blocking and slow: when a snapshot is imported or suspected; what
    a restore reads is said in `whole`. Raises SnapshotMismatch naming the file."""
    manifest = read(folder)
    check_sizes(manifest, folder)
    for path, wanted in sums(manifest, folder):
        if not files.same_sum(path, wanted):
            raise damaged(path)
    return manifest


def sums(manifest: Manifest, folder: Path) -> list[tuple[Path, Sum]]:
    """Every file of a snapshot that has a digest, and an image's root disk beside it."""
    found = [(folder / name, one) for name, one in manifest.files.items()]
    found += [
        (folder / layer.file, Sum(_size_of(folder / layer.file), layer.digest))
        for layer in manifest.disks
        if layer.digest is not None
    ]
    if manifest.root is not None:
        found.append((folder.parent / "root.erofs", manifest.root))
    return found


def damaged(path: Path) -> SnapshotMismatch:
    return SnapshotMismatch(f"{path} is damaged: it is not what it was when the snapshot was made")
