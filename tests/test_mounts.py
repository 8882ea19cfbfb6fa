"""mountinfo as the kernel writes it, and a folder found again in another mount namespace."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rekindle import mounts
from rekindle.mounts import Mount


def test_a_line_is_read_with_its_escapes_and_optional_fields() -> None:
    line = "36 35 98:0 /a\\040b/c /mnt\\134x rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue"
    assert mounts._mount(line) == Mount(device="98:0", root="/a b/c", point="/mnt\\x", kind="ext3")


def test_a_part_is_found_also_when_it_was_removed_meanwhile() -> None:
    def shown(root: str) -> tuple[str, ...]:
        return Mount(device="8:1", root=root, point="/vm/disk", kind="ext4").shows(("8:1", "/srv/state"))

    assert shown("/srv/state/vms/a/disk.qcow2") == ("vms", "a", "disk.qcow2")
    assert shown("/srv/state/vms/a/disk.qcow2//deleted") == ("vms", "a", "disk.qcow2")
    assert shown("/srv/stately/vms/a") == shown("/srv") == shown("/srv/state") == ()
    assert Mount(device="8:2", root="/srv/state/vms/a", point="/vm/x", kind="ext4").shows(("8:1", "/srv/state")) == ()


def test_a_process_that_is_gone_shows_nothing() -> None:
    assert mounts.mounts_of(2**22 + 1) == []


@pytest.mark.root
def test_a_folder_is_known_in_another_mount_namespace(tmp_path: Path) -> None:
    (tmp_path / "state/vms/a").mkdir(parents=True)
    script = f"mount --bind {tmp_path}/state/vms/a /mnt && cat /proc/self/mountinfo"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    place = mounts.place_of(tmp_path / "state")
    found = [mounts._mount(line) for line in text.splitlines()]
    assert [one.shows(place) for one in found if one.point == "/mnt"] == [("vms", "a")]
