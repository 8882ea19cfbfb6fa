"""The guest kernel out of Debian's package: the ELF image that QEMU and Firecracker start, and its modules."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
from pathlib import Path

from rekindle.core.errors import MachineError
from rekindle.image import inside
from rekindle.process import run_ok

#: Modules of real hardware are of no use in a guest.
_UNUSED = ("drivers/",)
_USED = ("drivers/block/", "drivers/char/", "drivers/misc/pvpanic/", "drivers/net/", "drivers/virtio/")
_ELF = b"\x7fELF"


async def unpack(package: Path, out: Path, scratch: Path, tree: Path) -> None:
    """Make `out/vmlinux`, `out/modules/*.ko` (flat, uncompressed) and `out/modules/builtin` from a kernel package.

    `tree` is the Debian tree whose zstd is used. `scratch` must not exist and is removed again. Raises MachineError
    when the package does not have what a guest needs.
    """
    try:
        await run_ok(["dpkg-deb", "--extract", str(package), str(scratch)], deadline_s=300)
        image = _one(scratch, "boot/vmlinuz-*")
        (out / "vmlinux").write_bytes(await _vmlinux(image.read_bytes(), tree))
        _modules(_one(scratch, "**/lib/modules/*/modules.builtin").parent, out / "modules")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise MachineError(f"The kernel package has {len(found)} files {pattern}, not one")
    return found[0]


async def _vmlinux(image: bytes, tree: Path) -> bytes:
    payload, size = payload_of(image)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        argv = [*inside.program(tree, "/usr/bin/zstd"), "--decompress", "--stdout", "--quiet"]
        kernel = await run_ok(argv, stdin=payload, deadline_s=120)
    elif payload.startswith(b"\xfd7zXZ"):
        kernel = lzma.decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        kernel = gzip.decompress(payload)
    else:
        raise MachineError(f"The kernel image is compressed in an unknown way (it starts with {payload[:6].hex()})")
    if len(kernel) != size or not kernel.startswith(_ELF):
        raise MachineError(f"The kernel image holds {len(kernel)} bytes, not an ELF file of {size}")
    return kernel


def payload_of(image: bytes) -> tuple[bytes, int]:
    """The compressed kernel in a bzImage, and its size when unpacked.

    By the boot protocol's header (Documentation/arch/x86/boot.rst): the payload's offset counts from the end of the
    set-up sectors, and its last four bytes are the unpacked size, whatever the compression.
    """
    if image[0x202:0x206] != b"HdrS":
        raise MachineError("The kernel image is not a bzImage (no HdrS)")
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    if length < 4 or len(payload) != length:
        raise MachineError("The kernel image is cut short")
    return payload[:-4], struct.unpack("<I", payload[-4:])[0]


def _modules(release: Path, out: Path) -> None:
    out.mkdir()
    kernel = release / "kernel"
    for file in sorted(kernel.rglob("*.ko*")):
        place = str(file.relative_to(kernel))
        if not place.startswith(_UNUSED) or place.startswith(_USED):
            (out / f"{file.name.partition('.')[0]}.ko").write_bytes(_plain(file))
    builtin = (Path(line).stem for line in (release / "modules.builtin").read_text().split())
    (out / "builtin").write_text("".join(f"{name}\n" for name in builtin))


def _plain(file: Path) -> bytes:
    data = file.read_bytes()
    if file.suffix == ".xz":
        return lzma.decompress(data)
    if file.suffix == ".ko":
        return data
    raise MachineError(f"The kernel module {file.name} is compressed in an unknown way")
