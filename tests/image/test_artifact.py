"""Code artifacts: every way in which a zip may lie, and a real S3 endpoint that answers badly."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config as BotoConfig
from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.core.errors import BuildFailed
from rekindle.image.archive import Limits, unpack
from rekindle.image.artifact import fetch, split_uri

LIMITS = Limits(max_bytes=1 << 20, max_entries=50)
LINK, FIFO, DEVICE = stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o644, stat.S_IFBLK | 0o644


def info(
    name: str, mode: int = stat.S_IFREG | 0o644, when: tuple[int, ...] = (2024, 5, 6, 7, 8, 10)
) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, when)  # type: ignore[arg-type]
    entry.filename = entry.orig_filename = name  # ZipInfo itself cuts at NUL
    entry.create_system = 3
    entry.external_attr = mode << 16
    return entry


def made(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes], dockerfile: bytes | None = b"FROM x\n") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if dockerfile is not None:
            archive.writestr(info("Dockerfile"), dockerfile)
        for entry, data in entries:
            archive.writestr(info(entry) if isinstance(entry, str) else entry, data)
    return path


def refused(archive: Path, into: Path, limits: Limits = LIMITS, code: str = "ARCHIVE_INVALID") -> str:
    with pytest.raises(BuildFailed) as failed:
        unpack(archive, into, limits)
    assert failed.value.code == code
    assert not into.exists()
    return failed.value.message


def test_files_folders_modes_times_and_links(tmp_path: Path) -> None:
    archive = made(
        tmp_path / "a.zip",
        (info("bin/", stat.S_IFDIR | 0o700), b""),
        (info("bin/run", stat.S_IFREG | 0o4711), b"#!/bin/sh\n"),
        ("deep/er/file", b"x" * 70_000),
        (info("bin/link", LINK), b"../deep/er/file"),
        (info("dangling", LINK), b"deep/nothing"),
        (info("./dotted"), b"y"),
    )
    unpack(archive, tmp_path / "out", LIMITS)
    out = tmp_path / "out"
    assert (out / "bin/run").stat().st_mode == stat.S_IFREG | 0o755
    assert (out / "deep/er/file").stat().st_mode == stat.S_IFREG | 0o644
    assert (out / "bin/link").read_bytes() == b"x" * 70_000
    assert os.readlink(out / "dangling") == "deep/nothing"
    assert (out / "dotted").read_bytes() == b"y"
    assert (out / "bin/run").stat().st_mtime == (out / "bin").stat().st_mtime == 1714979290


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../../x", "a/./b", "a//b", "a\\..\\b", "\\x", "a\0b", "..", "n" * 256, "d/" * 1600 + "f"],
)
def test_names_that_lead_astray(tmp_path: Path, name: str) -> None:
    assert "of the code artifact" in refused(made(tmp_path / "a.zip", (info(name), b"x")), tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zip"]


@pytest.mark.parametrize(
    "links",
    [
        [("a", b"/etc/passwd")],
        [("a", b"..")],
        [("s/a", b"../../x")],
        [("b", b"."), ("a", b"b/..")],  # no text says that it leaves
        [("b", b"."), ("a", b"b/../x")],
        [("a", b"a")],
        [("a", b"b"), ("b", b"a")],
        [("a", b"")],
        [("a", b"x" * 5000)],
        [("a", b"x\0y")],
    ],
)
def test_links_that_leave(tmp_path: Path, links: list[tuple[str, bytes]]) -> None:
    archive = made(tmp_path / "a.zip", *((info(name, LINK), target) for name, target in links))
    assert "link" in refused(archive, tmp_path / "out")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.zip", (info("d", LINK), b"."), ("d/file", b"x"))
    assert "below an entry that is not a folder" in refused(archive, tmp_path / "out")


@pytest.mark.parametrize("mode", [FIFO, DEVICE, stat.S_IFCHR | 0o644, stat.S_IFSOCK | 0o644])
def test_special_files(tmp_path: Path, mode: int) -> None:
    assert "neither a file" in refused(made(tmp_path / "a.zip", (info("d", mode), b"")), tmp_path / "out")


@pytest.mark.parametrize(
    ("first", "second"), [("a", "a"), ("a", "./a"), ("a/", "a"), ("a", "a/b"), ("Dockerfile", "Dockerfile")]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_clash(tmp_path: Path, first: str, second: str) -> None:
    folder = stat.S_IFDIR | 0o755
    entries = [(info(name, folder if name.endswith("/") else stat.S_IFREG | 0o644), b"") for name in (first, second)]
    dockerfile = None if first == "Dockerfile" else b"FROM x"
    refused(made(tmp_path / "a.zip", *entries, dockerfile=dockerfile), tmp_path / "out")


def test_too_many_entries(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.zip", *((f"f{n}", b"") for n in range(50)))
    assert "51 entries" in refused(archive, tmp_path / "out")


def test_a_huge_directory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.zip", *((f"{n:0200}", b"") for n in range(300)))
    assert "more than 50 entries" in refused(archive, tmp_path / "out")


def test_bytes_are_counted_as_they_come_not_as_headers_say(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.zip", ("bomb", bytes(2 << 20)))
    data = bytearray(archive.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 100)  # uncompressed size in the directory
    archive.write_bytes(data)
    refused(archive, tmp_path / "out")
    assert "larger, unpacked" in refused(made(tmp_path / "b.zip", ("bomb", bytes(2 << 20))), tmp_path / "out")


def test_the_sum_of_all_files_is_bounded(tmp_path: Path) -> None:
    archive = made(tmp_path / "a.zip", *((f"f{n}", bytes(300_000)) for n in range(4)))
    assert "'f3'" in refused(archive, tmp_path / "out")


def _flip(data: bytearray) -> None:
    data[data.find(b"hello")] ^= 1


def _encrypt(data: bytearray) -> None:
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rfind(signature) + offset] |= 1


def _unknown_method(data: bytearray) -> None:
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", data, data.rfind(signature) + offset, 99)


def _cut(data: bytearray) -> None:
    del data[-30:]


def _other_local_name(data: bytearray) -> None:
    data[data.rfind(b"PK\x03\x04") + 30] ^= 1


@pytest.mark.parametrize("damage", [_flip, _encrypt, _unknown_method, _cut, _other_local_name])
def test_damaged_archives(tmp_path: Path, damage: Callable[[bytearray], None]) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        out.writestr(info("Dockerfile"), b"FROM x")
        out.writestr(info("f"), b"hello")
    data = bytearray(archive.read_bytes())
    damage(data)
    archive.write_bytes(data)
    refused(archive, tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"not a zip at all" * 100])
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    assert "not a sound zip" in refused(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("name", ["dockerfile", "app/Dockerfile", "Dockerfile/"])
def test_no_dockerfile_at_the_root(tmp_path: Path, name: str) -> None:
    entry = info(name, stat.S_IFDIR | 0o755 if name.endswith("/") else stat.S_IFREG | 0o644)
    archive = made(tmp_path / "a.zip", (entry, b""), dockerfile=None)
    refused(archive, tmp_path / "out", code="ARCHIVE_DOCKERFILE_NOT_FOUND")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_flipped_bytes_escape_or_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    archive = made(folder / "a.zip", ("d/f", b"hello"), (info("l", LINK), b"d/f"))
    whole = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(whole)
    try:
        unpack(archive, folder / "out", LIMITS)
    except BuildFailed as err:
        assert err.code in ("ARCHIVE_INVALID", "ARCHIVE_DOCKERFILE_NOT_FOUND")  # noqa: PT017 - either end is right
    inside = {folder / "a.zip", folder / "out", *(folder / "out").rglob("*")}
    assert set(folder.rglob("*")) <= inside


# --- fetching ---------------------------------------------------------------------------------------------------------


class S3(BaseHTTPRequestHandler):
    """The keys of bucket `b` are answers: `403/AccessDenied` gives that, `ok` the archive, `slow` never ends."""

    archive = b""
    release = threading.Event()

    def do_GET(self) -> None:
        _, bucket, *rest = self.path.split("?")[0].split("/")
        key = "/".join(rest)
        if key == "ok":
            self._answer(200, self.archive)
        elif key == "slow":
            self._answer(200, self.archive, length=1 << 40)
            self.release.wait(20)
        else:
            status, _, code = key.partition("/")
            self._answer(int(status), f"<Error><Code>{code}</Code><Message>no {bucket}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(archive: bytes) -> Iterator[Any]:
    S3.archive = archive
    S3.release.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), S3) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        config = BotoConfig(retries={"max_attempts": 1}, s3={"addressing_style": "path"}, proxies={})
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{server.server_port}",
            region_name="us-east-1",
            aws_access_key_id="k",
            aws_secret_access_key="s",
            config=config,
        )
        try:
            yield client
        finally:
            S3.release.set()
            client.close()
            server.shutdown()
            thread.join()


def zip_bytes() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info("Dockerfile"), b"FROM x\n")
    return out.getvalue()


async def test_fetch_gives_the_context_and_can_be_repeated(tmp_path: Path) -> None:
    with serving(zip_bytes()) as client:
        for _ in range(2):
            context = await fetch(client, "s3://b/ok", tmp_path / "a", LIMITS)
            assert [entry.name for entry in context.iterdir()] == ["Dockerfile"]
            assert [entry.name for entry in (tmp_path / "a").iterdir()] == [context.name]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("404/NoSuchKey", "S3_NO_SUCH_KEY"),
        ("404/NoSuchBucket", "S3_NO_SUCH_BUCKET"),
        ("403/AccessDenied", "S3_ACCESS_DENIED"),
        ("403/SignatureDoesNotMatch", "S3_ACCESS_DENIED"),
        ("403/InvalidObjectState", "S3_INVALID_OBJECT"),
        ("400/AuthorizationHeaderMalformed", "S3_CROSS_REGION_ACCESS_DENIED"),
    ],
)
async def test_what_s3_refuses(tmp_path: Path, answer: str, code: str) -> None:
    with serving(b"") as client, pytest.raises(BuildFailed) as failed:
        await fetch(client, f"s3://b/{answer}", tmp_path / "a", LIMITS)
    assert failed.value.code == code
    assert f"s3://b/{answer}" in failed.value.message
    assert not (tmp_path / "a").exists()


async def test_an_archive_larger_than_allowed_is_not_read_to_its_end(tmp_path: Path) -> None:
    with serving(bytes(2 << 20)) as client, pytest.raises(BuildFailed, match="is larger than 1048576 bytes") as failed:
        await fetch(client, "s3://b/slow", tmp_path / "a", LIMITS)
    assert failed.value.code == "ARCHIVE_INVALID"


async def test_an_endpoint_that_is_not_there(tmp_path: Path) -> None:
    with serving(b"") as client:
        pass
    with pytest.raises(BuildFailed) as failed:
        await fetch(client, "s3://b/ok", tmp_path / "a", LIMITS)
    assert failed.value.code == "INTERNAL_PLATFORM_ERROR"


async def test_cancelled_it_leaves_nothing(tmp_path: Path) -> None:
    with serving(zip_bytes() * 20_000) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await fetch(client, "s3://b/ok", tmp_path / "a", Limits(max_bytes=1 << 30, max_entries=9))
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("uri", ["", "b/k", "http://b/k", "s3://b", "s3://b/", "s3:///k"])
def test_addresses(uri: str) -> None:
    with pytest.raises(BuildFailed, match="s3://BUCKET/KEY"):
        split_uri(uri)
    assert split_uri("s3://b/a/k?x#y") == ("b", "a/k?x#y")


def test_folders_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    archive, out = tmp_path / "a.zip", tmp_path / "out"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("Dockerfile", "FROM rekindle/debian:13\n")
        made.writestr("deep/below/file", "x")
        made.writestr("empty/", "")
    before = os.umask(0o077)
    try:
        unpack(archive, out, Limits(max_bytes=1 << 20, max_entries=10))
    finally:
        os.umask(before)
    assert {oct((out / name).stat().st_mode & 0o777) for name in ("deep", "deep/below", "empty")} == {"0o755"}
