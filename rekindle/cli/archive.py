"""A folder as a zip: the same names, contents and permissions give the same bytes, whoever zips them and when.

Everything in the folder goes in, hidden files too: `.dockerignore` is the build's to read. Symbolic links stay links.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rekindle.core.errors import Invalid

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_UNIX = 3  # "made by": makes readers look at the mode bits
_CHUNK_BYTES = 1 << 20


def write(folder: Path, into: IO[bytes]) -> str:
    """Zip `folder` into a seekable file; returns the SHA-256 of what was written, and leaves the file at its start.

    Raises Invalid when the folder has no Dockerfile, or holds something that is neither file, folder nor link.
    """
    if not (folder / "Dockerfile").is_file():
        raise Invalid(f"{folder} has no Dockerfile")
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in _everything(folder):
            _add(archive, folder, path)
    into.seek(0)
    digest = hashlib.sha256()
    while chunk := into.read(_CHUNK_BYTES):
        digest.update(chunk)
    into.seek(0)
    return digest.hexdigest()


def _everything(folder: Path) -> Iterator[Path]:
    """Sorted by name at each level; a link to a folder is not followed."""
    for path in sorted(folder.iterdir(), key=lambda one: os.fsencode(one.name)):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _everything(path)


def _add(archive: zipfile.ZipFile, folder: Path, path: Path) -> None:
    mode = path.lstat().st_mode
    entry = zipfile.ZipInfo(str(path.relative_to(folder)) + ("/" if stat.S_ISDIR(mode) else ""), _EPOCH)
    entry.create_system = _UNIX
    entry.external_attr = (stat.S_IFMT(mode) | stat.S_IMODE(mode) & 0o777) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    if stat.S_ISREG(mode):
        with path.open("rb") as source, archive.open(entry, "w", force_zip64=path.stat().st_size > 2**31) as target:
            while chunk := source.read(_CHUNK_BYTES):
                target.write(chunk)
    elif stat.S_ISLNK(mode):
        archive.writestr(entry, os.fsencode(path.readlink()))
    elif stat.S_ISDIR(mode):
        archive.writestr(entry, b"")
    else:
        raise Invalid(f"{path} is neither a file, a folder nor a symbolic link")
