"""The same folder gives the same bytes, and an archive holds what the folder holds."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from rekindle.cli import archive
from rekindle.core.errors import Invalid


def make(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def zipped(folder: Path) -> bytes:
    file = io.BytesIO()
    digest = archive.write(folder, file)
    assert digest == hashlib.sha256(file.getvalue()).hexdigest()
    assert file.tell() == 0
    return file.getvalue()


NAMES = ["Dockerfile", ".dockerignore", "app/main.py", "app/a/deep.txt", "app-2/x", "é.txt"]


def test_order_of_creation_and_times_do_not_matter(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one", NAMES), make(tmp_path / "two", NAMES[::-1])
    os.utime(two / "Dockerfile", (1, 1))
    assert zipped(one) == zipped(two)


def test_content_name_and_permission_do_matter(tmp_path: Path) -> None:
    folder = make(tmp_path / "one", NAMES)
    seen = {zipped(folder)}
    (folder / "app/main.py").chmod(0o755)
    seen.add(zipped(folder))
    (folder / "app/main.py").write_text("other")
    seen.add(zipped(folder))
    (folder / "app/main.py").rename(folder / "app/other.py")
    assert len(seen | {zipped(folder)}) == 4


def test_everything_is_in_it_hidden_files_links_and_empty_folders_too(tmp_path: Path) -> None:
    folder = make(tmp_path / "one", NAMES)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("app")
    (folder / "app/main.py").chmod(0o750)
    with zipfile.ZipFile(io.BytesIO(zipped(folder))) as made:
        entries = {info.filename: info for info in made.infolist()}
        assert set(entries) == {*NAMES, "app/", "app/a/", "app-2/", "empty/", "link"}
        assert made.read("app/main.py") == b"app/main.py"
        assert made.read("link") == b"app"
    assert stat.S_ISLNK(entries["link"].external_attr >> 16)
    assert stat.S_IMODE(entries["app/main.py"].external_attr >> 16) == 0o750


def test_a_folder_without_a_dockerfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="has no Dockerfile"):
        archive.write(tmp_path, io.BytesIO())


def test_what_is_neither_file_folder_nor_link_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "one", NAMES)
    os.mkfifo(folder / "pipe")
    with pytest.raises(Invalid, match=r"pipe is neither a file"):
        archive.write(folder, io.BytesIO())
