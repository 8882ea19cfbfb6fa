"""Unpacking an untrusted zip.

Rules (a breach is ARCHIVE_INVALID and names the entry): names are relative, without `..`, empty parts, backslashes
or NUL; no name twice, none below a file or a link; only files, folders, and symbolic links whose target stays inside;
not encrypted; CRCs right; real sizes and the number of entries within the limits. Modes become 0755 (folders, and any
execute bit) or 0644, owners are not kept, times are (the build cache looks at them).
"""

from __future__ import annotations

import calendar
import errno
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rekindle.core.errors import BuildFailed

_CHUNK_BYTES = 1 << 20
_LINK_TARGET_MAX_BYTES = 4096
_NAME_MAX_BYTES = 255
_PATH_MAX_BYTES = 3072  # leaves room under PATH_MAX for the folder that it is unpacked into
_RECORD_MAX_BYTES = 1024  # mean size of a central directory record up to which the entry limit holds


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an artifact may take of this machine's disk."""

    max_bytes: int  #: of the archive itself, and of everything unpacked
    max_entries: int


def still_wanted(cancelled: Callable[[], bool]) -> None:
    """Raises BuildFailed once nobody waits for the result any more."""
    if cancelled():
        raise BuildFailed("INTERNAL_PLATFORM_ERROR", "The build was cancelled while its code artifact was read")


@contextmanager
def disk_full(doing: str) -> Iterator[None]:
    """A full disk within the block becomes BuildFailed(DISK_STORAGE_FULL)."""
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BuildFailed("DISK_STORAGE_FULL", f"No space left on this machine's disk while {doing}") from err
        raise


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    info: zipfile.ZipInfo
    parts: tuple[str, ...]
    kind: int  #: stat.S_IFREG, S_IFDIR or S_IFLNK
    executable: bool


def unpack(archive: Path, into: Path, limits: Limits, *, cancelled: Callable[[], bool] = lambda: False) -> None:
    """Unpack the untrusted zip `archive` into the new folder `into`.

    Raises BuildFailed: ARCHIVE_INVALID (see above), ARCHIVE_DOCKERFILE_NOT_FOUND when no regular file `Dockerfile`
    is at the root. After a failure `into` is gone.
    """
    into.mkdir(parents=True)
    try:
        with disk_full("unpacking the code artifact"):
            _unpack(archive, into, limits, cancelled)
    except (BuildFailed, OSError):
        shutil.rmtree(into, ignore_errors=True)
        raise


def _unpack(archive: Path, into: Path, limits: Limits, cancelled: Callable[[], bool]) -> None:
    try:
        _check_directory_size(archive, limits)
        with zipfile.ZipFile(archive) as source:
            entries = _checked(source.infolist(), limits)
            if not any(entry.parts == ("Dockerfile",) and entry.kind == stat.S_IFREG for entry in entries):
                raise BuildFailed("ARCHIVE_DOCKERFILE_NOT_FOUND", "The code artifact has no Dockerfile at its root")
            _write(source, entries, into, limits, cancelled)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError) as err:
        raise BuildFailed("ARCHIVE_INVALID", f"The code artifact is not a sound zip file: {err}") from err
    except OSError as err:
        if err.errno != errno.EINVAL:
            raise
        raise BuildFailed(
            "ARCHIVE_INVALID", "The code artifact names offsets outside itself"
        ) from err  # a seek below 0


def _check_directory_size(archive: Path, limits: Limits) -> None:
    """zipfile reads the whole central directory into memory before it can count: bound it first."""
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail_start = max(0, size - 65_557 - 20)
        file.seek(tail_start)
        tail = file.read()
        end = tail.rfind(b"PK\x05\x06")
        if end < 0 or len(tail) < end + 22:
            raise zipfile.BadZipFile("no end-of-directory record")
        directory_bytes = struct.unpack_from("<I", tail, end + 12)[0]
        if end >= 20 and tail[end - 20 : end - 16] == b"PK\x06\x07":
            directory_bytes = max(directory_bytes if directory_bytes != 0xFFFFFFFF else 0, _zip64_size(file, tail, end))
    if directory_bytes > limits.max_entries * _RECORD_MAX_BYTES:
        raise BuildFailed("ARCHIVE_INVALID", f"The code artifact has more than {limits.max_entries} entries")


def _zip64_size(file: IO[bytes], tail: bytes, end: int) -> int:
    file.seek(struct.unpack_from("<Q", tail, end - 12)[0])
    record = file.read(56)
    if len(record) < 56 or record[:4] != b"PK\x06\x06":
        raise zipfile.BadZipFile("no zip64 end-of-directory record")
    size: int = struct.unpack_from("<Q", record, 40)[0]
    return size


def _checked(infos: list[zipfile.ZipInfo], limits: Limits) -> list[_Entry]:
    if len(infos) > limits.max_entries:
        raise BuildFailed(
            "ARCHIVE_INVALID", f"The code artifact has {len(infos)} entries; {limits.max_entries} are allowed"
        )
    entries = [_entry(info) for info in infos]
    kinds: dict[tuple[str, ...], int] = {}
    for entry in entries:
        if not entry.parts:
            continue
        if entry.parts in kinds:
            raise _bad(entry.info, "is there twice")
        kinds[entry.parts] = entry.kind
    for entry in entries:
        for depth in range(1, len(entry.parts)):
            if kinds.get(entry.parts[:depth], stat.S_IFDIR) != stat.S_IFDIR:
                raise _bad(entry.info, "lies below an entry that is not a folder")
    return entries


def _entry(info: zipfile.ZipInfo) -> _Entry:
    if info.flag_bits & 0x1:
        raise _bad(info, "is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _bad(info, "is neither stored nor deflated")
    mode = info.external_attr >> 16 if info.create_system == 3 else 0
    is_folder = info.orig_filename.endswith("/")
    kind = stat.S_IFMT(mode) or (stat.S_IFDIR if is_folder else stat.S_IFREG)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise _bad(info, "is neither a file, a folder nor a symbolic link")
    if is_folder != (kind == stat.S_IFDIR):
        raise _bad(info, "says both file and folder")
    return _Entry(info=info, parts=_parts(info), kind=kind, executable=bool(mode & 0o111))


def _parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    name = info.orig_filename
    if "\0" in name or "\\" in name:
        raise _bad(info, "has a NUL or a backslash in its name")
    if name.startswith("/"):
        raise _bad(info, "has an absolute name")
    name = name.removesuffix("/").removeprefix("./")
    if name == ".":
        return ()
    parts = tuple(name.split("/"))
    if any(part in ("", ".", "..") for part in parts):
        raise _bad(info, "has an empty, '.' or '..' part in its name")
    if len(os.fsencode(name)) > _PATH_MAX_BYTES or any(len(os.fsencode(part)) > _NAME_MAX_BYTES for part in parts):
        raise _bad(info, "has too long a name")
    return parts


def _bad(info: zipfile.ZipInfo, rule: str) -> BuildFailed:
    return BuildFailed("ARCHIVE_INVALID", f"Entry {info.orig_filename[:200]!r} of the code artifact {rule}")


def _write(
    source: zipfile.ZipFile, entries: list[_Entry], into: Path, limits: Limits, cancelled: Callable[[], bool]
) -> None:
    """Links come last, so that no file is ever written through one; folder times after everything in them."""
    by_kind = {kind: [e for e in entries if e.kind == kind] for kind in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK)}
    left_bytes = limits.max_bytes
    for entry in by_kind[stat.S_IFDIR]:
        _make_folder(into, entry.parts)
    for entry in by_kind[stat.S_IFREG]:
        still_wanted(cancelled)
        _make_folder(into, entry.parts[:-1])
        left_bytes -= _write_file(source, entry, into.joinpath(*entry.parts), left_bytes, cancelled)
    for entry in by_kind[stat.S_IFLNK]:
        _write_link(source, entry, into)
    for entry in by_kind[stat.S_IFLNK]:
        _check_link(entry, into)
    for entry in reversed(by_kind[stat.S_IFDIR]):
        _set_time(entry, into.joinpath(*entry.parts))


def _make_folder(into: Path, parts: tuple[str, ...]) -> None:
    """With all above it, each 0755: the image's folders do not depend on the service's umask."""
    for depth in range(1, len(parts) + 1):
        folder = into.joinpath(*parts[:depth])
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)


def _write_file(
    source: zipfile.ZipFile, entry: _Entry, path: Path, left_bytes: int, cancelled: Callable[[], bool]
) -> int:
    """Write one file and return its real size, whatever the headers say."""
    written = 0
    with source.open(entry.info) as packed, path.open("xb") as out:
        while chunk := packed.read(_CHUNK_BYTES):
            written += len(chunk)
            still_wanted(cancelled)
            if written > left_bytes:
                raise _bad(entry.info, "makes it larger, unpacked, than is allowed")
            out.write(chunk)
        os.fchmod(out.fileno(), 0o755 if entry.executable else 0o644)
    _set_time(entry, path)
    return written


def _write_link(source: zipfile.ZipFile, entry: _Entry, into: Path) -> None:
    with source.open(entry.info) as packed:
        target = packed.read(_LINK_TARGET_MAX_BYTES + 1)
    if not target or len(target) > _LINK_TARGET_MAX_BYTES or b"\0" in target or target.startswith(b"/"):
        raise _bad(entry.info, "is a link whose target is empty, absolute or too long")
    _make_folder(into, entry.parts[:-1])
    path = into.joinpath(*entry.parts)
    path.symlink_to(os.fsdecode(target))
    _set_time(entry, path)


def _check_link(entry: _Entry, into: Path) -> None:
    """Resolved when all links exist: `a -> b/..` with `b -> .` leaves the folder although no text says so."""
    root = into.resolve()
    try:
        resolved = into.joinpath(*entry.parts).resolve()
    except RuntimeError as err:  # a loop: it leads nowhere, but nothing sound has one
        raise _bad(entry.info, "is a link that leads to itself") from err
    if not resolved.is_relative_to(root):
        raise _bad(entry.info, "is a link that leads out of the archive")


def _set_time(entry: _Entry, path: Path) -> None:
    """The zip's time, read as UTC: equal archives give equal contexts, so a second build meets the layer cache."""
    try:
        seconds = calendar.timegm((*entry.info.date_time, 0, 0, 0))
    except ValueError as err:
        raise _bad(entry.info, "has an impossible date") from err
    os.utime(path, (seconds, seconds), follow_symlinks=False)
