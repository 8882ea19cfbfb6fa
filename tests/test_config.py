"""The configuration: what is refused, and that the sentence names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle import config
from rekindle.core.errors import Invalid


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
        ("[memory]\npeak_factor = 0", "memory.peak_factor"),
        ("[machine]\nfirst_uid = 0", "machine.first_uid"),
        ("[machine]\nuids = 0", "machine.uids"),
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
