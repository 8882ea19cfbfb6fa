"""The configuration: what is refused, and that the sentence names the key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rekindle import config
from rekindle.core.errors import Invalid
from rekindle.core.quota import Ceilings, Room


def load(tmp_path: Path, toml: str) -> config.Config:
    (tmp_path / "rekindle.toml").write_text(toml)
    return config.load(state=tmp_path, env={"HOME": str(tmp_path)})


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == config.Config(state=tmp_path, tools_dir=tmp_path / ".local/share/rekindle/tools")


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("[build]\nconcurrent = 0", "build.concurrent"),
        ('[build]\ntrust = "Operator"', "build.trust"),
        ('[egress]\nvpc = "nat"', "egress.vpc must be none or internet"),
        ("[ingress]\nfirst_port = 9000\nlast_port = 8000", "ingress.first_port"),
        ("[ingress]\nlast_port = 70000", "ingress.last_port"),
        ("[ingress]\nhold_s = 0", "ingress.hold_s"),
        ('[quiet]\nsets = ["jupyter"]', "quiet.sets: 'jupyter' is none of: jupyterlab"),
        ('[quiet]\nrules = ["hide GET /"]', "quiet rule 'hide GET /'"),
        ("[lifetime]\nmax_duration_s = 0", "lifetime.max_duration_s"),
        ("[idle]\nlease_max_s = -1", "idle.lease_max_s"),
        ("[idle]\nawake_s = 0", "idle.awake_s"),
        ("[idle]\ncpu_percent = -1", "idle.cpu_percent"),
        ("[idle]\negress_kib = -1", "idle.egress_kib"),
        ("[idle]\nwindow_s = 0", "idle.window_s"),
        ('[hooks]\nfailed_suspend = "ignore"', "hooks.failed_suspend must be terminate or keep_running"),
        ("[memory]\npeak_factor = 0", "memory.peak_factor"),
        ("[memory]\nmib_per_vcpu = 0", "memory.mib_per_vcpu"),
        ("[memory]\novercommit = 0", "memory.overcommit"),
        ("[memory]\nhost_mib = -1", "memory.host_mib"),
        ("[memory]\ndefault_mib = 0", "memory.default_mib"),
        ("[memory]\nextra_sizes_mib = [128, 0]", "memory.extra_sizes_mib"),
        ('[quotas]\npreset = "Aws"', "quotas.preset must be one of: generous, aws"),
        ("[quotas]\npreset = [1]", "quotas.preset"),
        ("[quotas]\nimages = -1", "quotas.images"),
        ('[quotas]\nimages = "many"', "quotas.images"),
        ("[quotas]\nrun_microvm = 5", "quotas.run_microvm"),
        ("[quotas]\nrun_microvm = [5]", "quotas.run_microvm"),
        ("[quotas]\nrun_microvm = [5, 5, 5]", "quotas.run_microvm"),
        ("[quotas]\nrun_microvm = [5, 0]", "quotas.run_microvm"),
        ("[quotas]\nrun_microvm = [0, 5]", "quotas.run_microvm"),
        ("[quotas]\nget_microvm = [-1, -1]", "quotas.get_microvm"),
        ("[quotas]\nrun = [5, 5]", "quotas.run"),
        ("quotas = 1", "quotas"),
        ("[machine]\nfirst_uid = 0", "machine.first_uid"),
        ("[machine]\nuids = 0", "machine.uids"),
        ("[machine]\nprobe_s = 0", "machine.probe_s"),
        ("[ingress]\nfirst_port = 20000\nlast_port = 30000", "machine.uids"),
        ('account = "1"', "account"),
        ('region = "../x"', "region"),
        ("nonsense = 1", "nonsense"),
        ("[build]\nconcurrent = true", "build.concurrent"),
        ("[build]\ninsecure_registries = [1]", "build.insecure_registries"),
        ("build = 1", "build"),
        ("a = ", "not TOML"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, toml: str, named: str) -> None:
    with pytest.raises(Invalid, match=named):
        load(tmp_path, toml)


def test_a_preset_is_all_numbers_and_a_key_overrides_one(tmp_path: Path) -> None:
    aws = load(tmp_path, '[quotas]\npreset = "aws"').quotas
    assert aws == config.Quotas(**config.AWS_QUOTAS)
    assert (aws.run_microvm, aws.suspend_microvm, aws.other_operations) == ((5, 5), (2, 2), (15, 15))
    assert (aws.images, aws.versions_per_image, aws.concurrent_builds, aws.memory_mib) == (100, 50, 5, 400 * 1024)
    mixed = load(tmp_path, '[quotas]\npreset = "aws"\nimages = 0\nrun_microvm = [1, 1]\nget_microvm = [0, 0]').quotas
    assert mixed == dataclasses.replace(aws, images=0, run_microvm=(1, 1), get_microvm=(0, 0))
    assert load(tmp_path, "[quotas]\nmemory_mib = 4096").quotas == config.Quotas(memory_mib=4096)
    assert mixed.ceilings() == Ceilings(
        memory_mib=409_600, versions_per_image=50, concurrent_builds=5, connectors=1000, versions_per_connector=1000
    )


def test_generous_is_above_aws_in_everything(tmp_path: Path) -> None:
    generous = load(tmp_path, "").quotas
    for key, number in config.AWS_QUOTAS.items():
        if key != "preset":
            assert getattr(generous, key) > number or getattr(generous, key) == 0, key


def test_room_is_what_the_machine_has_times_the_overcommit() -> None:
    assert config.Memory(host_mib=8192, overcommit=3, peak_factor=4).room() == Room(guest_mib=3 * 8192, peak_factor=4)
    assert config.Memory().room().holds(1 << 40), "0 is for the service to fill in"
