"""Sparse copies, digests, manifests and empty qcow2 files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.core.errors import SnapshotMismatch
from rekindle.driver import files, manifest, qcow2
from rekindle.driver.manifest import Binding, Layer, Manifest
from rekindle.driver.probe import tree_program
from rekindle.image.toolbox import Toolbox

PAGE = files.PAGE_BYTES


def _sparse(path: Path, pages: dict[int, bytes], count: int) -> None:
    with path.open("wb") as file:
        for number, content in pages.items():
            file.seek(number * PAGE)
            file.write(content)
        file.truncate(count * PAGE)


def test_a_sparse_copy_is_equal_and_leaves_zeros_out(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    _sparse(source, {0: b"a" * PAGE, 2: bytes(64 * PAGE), 300: b"b" * PAGE, 301: b"\0" * 4095 + b"c"}, 4000)
    copied = files.copy_sparse(source, target, mode=0o444)
    assert target.read_bytes() == source.read_bytes()
    assert files.allocated_bytes(target) <= 4 * PAGE < files.allocated_bytes(source)
    assert target.stat().st_mode & 0o777 == 0o444
    assert copied == files.page_sum_of(source) == files.page_sum_of(target)


@given(st.dictionaries(st.integers(0, 40), st.sampled_from([b"x", b"\0", b"yz"]), max_size=8))
def test_the_page_digest_does_not_depend_on_holes(
    tmp_path_factory: pytest.TempPathFactory, fill: dict[int, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("digest")
    _sparse(folder / "sparse", {number: content * (PAGE // len(content)) for number, content in fill.items()}, 41)
    (folder / "dense").write_bytes((folder / "sparse").read_bytes())
    assert files.page_sum_of(folder / "sparse") == files.page_sum_of(folder / "dense")


def test_the_page_digest_sees_content_place_and_size(tmp_path: Path) -> None:
    sums = []
    for name, pages, count in (("a", {1: b"x"}, 9), ("b", {2: b"x"}, 9), ("c", {1: b"y"}, 9), ("d", {1: b"x"}, 10)):
        _sparse(tmp_path / name, {number: content * PAGE for number, content in pages.items()}, count)
        sums.append(files.page_sum_of(tmp_path / name))
    assert len({(one.size_bytes, one.digest) for one in sums}) == 4


def test_a_plain_digest_is_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"some bytes")
    assert files.sum_of(path) == files.Sum(10, "sha256:" + hashlib.sha256(b"some bytes").hexdigest())


def test_a_clone_of_a_file_is_equal(tmp_path: Path) -> None:
    _sparse(tmp_path / "source", {5: b"q" * PAGE}, 100)
    files.clone_sparse(tmp_path / "source", tmp_path / "target", mode=0o600)
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


def test_a_new_file_never_follows_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "manifest.json.new").symlink_to(victim)
    files.replace_durably(tmp_path / "manifest.json", b"new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "manifest.json").read_bytes() == b"new"


# -- qcow2 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [PAGE, 2 * 1024**3, 8 * 1024**3, 32 * 1024**3, 5 * 1024**4])
def test_an_empty_qcow2_is_what_qemu_calls_sound(tmp_path: Path, toolbox: Toolbox, size: int) -> None:
    path = tmp_path / "disk.qcow2"
    qcow2.create(path, size, owner_uid=None)
    tool = tree_program(toolbox.root, "qemu-img")
    subprocess.run([*tool, "check", "-q", str(path)], check=True)
    said = json.loads(
        subprocess.run([*tool, "info", "--output=json", str(path)], check=True, capture_output=True).stdout
    )
    assert (said["format"], said["virtual-size"]) == ("qcow2", size)
    assert "backing-filename" not in said


# -- manifests ---------------------------------------------------------------------------------------------------------

BINDING = Binding(
    tools="abc", qemu="10.0.13", machine="microvm", cpu="max", memory_mib=256, vcpus=1, accel="tcg", tsc_khz=2_596_009
)


def _whole(folder: Path) -> Manifest:
    folder.mkdir()
    for name in ("delta", "state", "disk.qcow2"):
        (folder / name).write_bytes(name.encode() * 100)
    sums = {name: files.sum_of(folder / name) for name in ("delta", "state")}
    made = Manifest(
        kind=manifest.VM,
        binding=BINDING,
        kernel_sha256="k",
        created_at_ms=1,
        base="b",
        files=sums,
        disks=(Layer("disk.qcow2", 1000),),
    )
    made.write(folder)
    return made


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    made = _whole(tmp_path / "snap")
    assert manifest.read(tmp_path / "snap") == made == manifest.verify(tmp_path / "snap")
    assert sorted(os.listdir(tmp_path / "snap")) == ["delta", "disk.qcow2", "manifest.json", "state"]


def test_the_rate_of_the_time_stamp_counter_may_differ_a_little(tmp_path: Path) -> None:
    made = _whole(tmp_path / "snap")
    for ppm, fits in ((-240, True), (240, True), (-260, False), (260, False)):
        here = replace(BINDING, tsc_khz=BINDING.tsc_khz * (1_000_000 + ppm) // 1_000_000)
        if fits:
            manifest.check_binding(made, here)
        else:
            with pytest.raises(SnapshotMismatch, match="tsc_khz"):
                manifest.check_binding(made, here)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"{}", b'{"format": 1}', b'{"format": 1, "files": 3}', b"\xff"]
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(SnapshotMismatch):
        manifest.read(tmp_path)


def test_every_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    _whole(tmp_path / "snap")
    path = tmp_path / "snap/manifest.json"
    whole = path.read_bytes()
    for bit in range(len(whole) * 8):
        harmed = bytearray(whole)
        harmed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(harmed)
        with pytest.raises(SnapshotMismatch, match=str(path)):
            manifest.read(tmp_path / "snap")


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    _whole(tmp_path / "snap")
    path = tmp_path / "snap/manifest.json"
    values = json.loads(path.read_text())
    del values["digest"]
    for name in ("../state", "/etc/passwd", "a/b"):
        path.write_text(json.dumps(values | {"disks": [{"file": name, "bytes": 1}]}))
        with pytest.raises(SnapshotMismatch, match="outside"):
            manifest.read(tmp_path / "snap")


def test_every_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    _whole(tmp_path / "snap")
    for name in ("delta", "state"):
        path = tmp_path / "snap" / name
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(SnapshotMismatch, match=name):
            manifest.verify(tmp_path / "snap")
        path.write_bytes(whole)
