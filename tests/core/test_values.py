"""ARNs, sizes, connectors, the managed base and the deadlines in a row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.config import Memory
from rekindle.core import connectors, cpu, managed, sizes
from rekindle.core.arn import ImageArn, image_arn, managed_connector
from rekindle.core.errors import Denied, Invalid, MachineError
from rekindle.core.managed import Managed
from rekindle.core.quota import Room
from tests.store.rows import HandClock, vm_row

REGION = "eu-west-1"
BASE = Managed("debian-13", "1", 1)
INTERNET, NONE = (managed_connector(REGION, name) for name in connectors.EGRESS)
VPC = f"arn:aws:lambda:{REGION}:000000000000:network-connector:nc-1"


@given(name=st.from_regex(r"[a-zA-Z0-9-_]{1,64}", fullmatch=True), account=st.from_regex(r"[0-9]{12}", fullmatch=True))
def test_an_arn_is_read_as_it_is_written(name: str, account: str) -> None:
    arn = ImageArn(REGION, account, name)
    assert image_arn(str(arn)) == arn


@pytest.mark.parametrize("text", ["", "demo", "arn:", "arn:aws:s3:::x", "arn:aws:lambda:r:1:", "arn:aws:lambda:r:1"])
def test_what_is_no_lambda_arn_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="Invalid ARN format"):
        image_arn(text)


@pytest.mark.parametrize(
    "rest", ["function:x", "microvm-image/x", "microvm-image:", "microvm-image:a/b", "microvm-image:x\n"]
)
def test_an_arn_of_another_kind_is_denied(rest: str) -> None:
    with pytest.raises((Denied, Invalid)):
        image_arn(f"arn:aws:lambda:r:1:{rest}")


def test_sizes_are_awss_and_the_operators() -> None:
    assert sizes.check_memory(256, (256,), "base") == 256
    for memory_mib in sizes.AWS_SIZES_MIB:
        assert sizes.check_memory(memory_mib, (), "base") == memory_mib
    for memory_mib in (0, -512, 256, 3072, 16384):
        with pytest.raises(Invalid, match=rf"{memory_mib} MiB is not supported .* \[512, 1024, 2048, 4096, 8192\]"):
            sizes.check_memory(memory_mib, (), "base")


def test_the_refusal_of_a_size_is_the_recorded_one() -> None:
    """Spec §1.4, measured on the live service."""
    base = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
    with pytest.raises(Invalid) as refused:
        sizes.check_memory(3072, (), base)
    assert refused.value.message == (
        f"The requested memory size of 3072 MiB is not supported by base MicroVM image {base}. "
        "Supported memory sizes in MiB are: [512, 1024, 2048, 4096, 8192]."
    )
    with pytest.raises(Invalid, match=r"\[128, 256, 512, 1024, 2048, 4096, 8192\]\.$"):
        sizes.check_memory(3072, (256, 128, 512), base)


@pytest.mark.parametrize(
    ("memory_mib", "host_cpus", "expected"),
    [(256, 2, 1), (2048, 2, 1), (4096, 8, 2), (8192, 8, 4), (8192, 2, 2), (8192, 0, 1)],
)
def test_vcpus_follow_the_memory_up_to_the_host(memory_mib: int, host_cpus: int, expected: int) -> None:
    assert sizes.vcpus(memory_mib, host_cpus, Memory().mib_per_vcpu) == expected


@pytest.mark.parametrize(("memory_mib", "seen"), [(512, 1), (1024, 2), (2048, 4), (4096, 8), (8192, 16)])
def test_with_512_mib_for_each_guests_see_awss_vcpus(memory_mib: int, seen: int) -> None:
    """The table of spec §6.2."""
    assert sizes.vcpus(memory_mib, 64, 512) == seen


def test_a_machine_offers_its_own_architecture() -> None:
    arm, intel = cpu.of_machine("aarch64"), cpu.of_machine("x86_64")
    assert [(one.architecture, one.chipset) for one in (arm, intel)] == [("ARM_64", "GRAVITON"), ("X86_64", "INTEL")]
    cpu.check("ARM_64", arm)
    for architecture, here in (("X86_64", arm), ("ARM_64", intel)):
        with pytest.raises(Invalid, match=f"{architecture} is not available; this machine offers {here.architecture}"):
            cpu.check(architecture, here)
    with pytest.raises(MachineError, match="this one is riscv64"):
        cpu.of_machine("riscv64")


def test_room_counts_what_guests_see() -> None:
    room = Room(guest_mib=4096, peak_factor=4)
    assert room.holds(1024)
    assert not room.holds(1025)
    assert Room(peak_factor=4).holds(1 << 40)


def test_the_base_has_two_names_in_every_region() -> None:
    ours, alias = BASE.arns(REGION)
    assert alias == f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
    for arn, version, shown in (
        (ours, None, "1.0"),
        (ours, "1", "1.0"),
        (alias, None, "1.0"),
        (alias, "0", "0.0"),
        (alias.replace(REGION, "ap-south-1"), "1", "1.0"),
    ):
        assert managed.base_version(BASE, arn, version) == shown
    for wrong_arn, version in (
        (ours, "0"),
        (alias, "2"),
        (alias.replace(":aws:", ":000000000000:"), "1"),
        (alias.replace(REGION, ""), "1"),
        (alias + "0", "1"),
        ("x", "1"),
    ):
        with pytest.raises(Invalid, match=f"^No managed MicroVM Image with arn {wrong_arn} and version {version} is"):
            managed.base_version(BASE, wrong_arn, version)
    for version in ("1.0", "", "one", "\u0661"):
        with pytest.raises(Invalid, match="Expected a single major version number"):
            managed.base_version(BASE, ours, version)


def test_the_connectors_in_force() -> None:
    assert connectors.ingress(REGION, []) == (managed_connector(REGION, "HTTP_INGRESS"),)
    assert connectors.egress(REGION, []) == (INTERNET,)
    assert connectors.egress(REGION, [], (NONE,)) == (NONE,)
    assert connectors.egress(REGION, [INTERNET], (NONE,)) == (INTERNET,)
    pair = [managed_connector(REGION, name) for name in ("ALL_INGRESS", "SHELL_INGRESS")]
    assert connectors.ingress(REGION, pair) == tuple(pair)


def test_a_connector_that_nobody_has_is_named() -> None:
    with pytest.raises(Invalid, match="Only one egress"):
        connectors.egress(REGION, [INTERNET, NONE])
    for malformed in ("x", VPC + ":0", VPC + ":1:2", VPC.replace("nc-1", "nc/1"), VPC.replace(":lambda:", ":s3:")):
        with pytest.raises(Invalid, match="Malformed network connector ARN"):
            connectors.egress(REGION, [malformed])
        with pytest.raises(Invalid, match="Malformed network connector ARN"):
            connectors.ingress(REGION, [malformed])
    for other_region in (managed_connector("us-east-1", "HTTP_INGRESS"), INTERNET):
        with pytest.raises(Invalid, match=f"Unrecognized managed network connector ARN: {other_region}"):
            connectors.ingress(REGION, [other_region])


def test_a_vpc_connector_is_a_way_out_and_never_in() -> None:
    for arn, version in ((VPC, None), (VPC + ":12", 12)):
        assert connectors.egress(REGION, [arn], (NONE,)) == (arn,)
        found = connectors.vpc([arn])
        assert found is not None
        assert (found.arn, found.region, found.account, found.version) == (VPC, REGION, "000000000000", version)
        with pytest.raises(Invalid, match=f"A VPC network connector cannot be used for ingress: {arn}"):
            connectors.ingress(REGION, [managed_connector(REGION, "HTTP_INGRESS"), arn])
    assert connectors.vpc([INTERNET]) is None


def test_what_a_guest_reaches_by_its_connectors() -> None:
    assert connectors.way_out([INTERNET], "none") == "internet"
    assert connectors.way_out([NONE], "internet") == "none"
    assert [connectors.way_out([VPC], through) for through in ("none", "internet")] == ["none", "internet"]
    for unknown in ([], [INTERNET, NONE], [managed_connector(REGION, "NEW_EGRESS")]):
        assert connectors.way_out(unknown, "internet") == "none"


@pytest.mark.parametrize(
    ("names", "open_"),
    [
        ("HTTP_INGRESS", True),
        ("ALL_INGRESS", True),
        ("ALL_INGRESS SHELL_INGRESS", True),
        ("SHELL_INGRESS", False),
        ("NO_INGRESS", False),
        ("HTTP_INGRESS NO_INGRESS", False),
    ],
)
def test_app_traffic_needs_a_connector_that_admits_it(names: str, open_: bool) -> None:
    arns = [managed_connector(REGION, name) for name in names.split()]
    assert connectors.lets_app_traffic_in(arns) is open_


def test_deadlines_come_from_the_row() -> None:
    vm = vm_row(HandClock(1_000_000))
    assert vm.expires_at_ms() == 1_000_000 + 28_800_000
    assert vm.sleep_ends_at_ms() is None
    asleep = replace(vm, suspended_at_ms=2_000_000)
    assert asleep.sleep_ends_at_ms() == 2_000_000 + 600_000
    assert replace(asleep, idle=None).sleep_ends_at_ms() is None
