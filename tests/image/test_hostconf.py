"""apt sources of a machine, in both formats, moved to the toolbox's suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.core.errors import MachineError
from rekindle.image import hostconf

KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"


def _apt(tmp_path: Path, **files: str) -> tuple[Path, Path]:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "lists").mkdir()
    for name, text in files.items():
        place = "sources.list" if name == "main" else f"sources.list.d/{name.replace('__', '.')}"
        (tmp_path / "apt" / place).write_text(text)
    return tmp_path / "apt", tmp_path / "lists"


def test_deb822_sources_keep_their_mirror_key_and_pockets(tmp_path: Path) -> None:
    text = f"""# the machine's mirror
Types: deb deb-src
# an old address
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: {KEY}

Types: deb
URIs: http://mirror.test/security
Suites: bookworm-security
Components: main
"""
    etc_apt, lists = _apt(tmp_path, debian__sources=text)
    main, security = hostconf.debian_sources("trixie", etc_apt, lists)
    assert main.uris == ("http://mirror.test/debian",)
    assert main.suites == ("trixie", "trixie-updates")
    assert main.components == ("main",)
    assert main.options == {"Signed-By": KEY}
    assert security.suites == ("trixie-security",)


def test_one_line_sources_keep_their_options(tmp_path: Path) -> None:
    text = f"""
deb [signed-by={KEY} arch=amd64,i386] http://mirror.test/debian bookworm main # ours
# deb http://off.test/debian bookworm main
deb-src http://mirror.test/debian bookworm main
deb http://mirror.test/security bookworm-security main
"""
    etc_apt, lists = _apt(tmp_path, main=text)
    main, security = hostconf.debian_sources("trixie", etc_apt, lists)
    assert main.options == {"Signed-By": KEY, "Architectures": "amd64 i386"}
    assert main.suites == ("trixie",)
    assert security.uris == ("http://mirror.test/security",)


def test_an_embedded_key_survives_the_round_trip(tmp_path: Path) -> None:
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abcd\n -----END PGP PUBLIC KEY BLOCK-----"
    text = f"Types: deb\nURIs: http://m.test/debian\nSuites: trixie\nComponents: main\nSigned-By:{key}\n"
    etc_apt, lists = _apt(tmp_path, d__sources=text)
    (source,) = hostconf.debian_sources("trixie", etc_apt, lists)
    again, other_lists = _apt(tmp_path / "again", d__sources=source.deb822())
    assert hostconf.debian_sources("trixie", again, other_lists) == [source]
    assert source.options["Signed-By"] == key


@pytest.mark.parametrize(
    "text",
    [
        "Types: deb\nURIs: http://x.test/debian\nSuites: bookworm\nComponents: main\nEnabled: no\n",
        "Types: deb-src\nURIs: http://x.test/debian\nSuites: bookworm\nComponents: main\n",
        "Types: deb\nURIs: http://x.test/docker\nSuites: bookworm\nComponents: stable\n",
        "Types: deb\nURIs: http://x.test/tool\nSuites: nodistro\nComponents: main\n",
        "Types: deb\nURIs: http://x.test/pg\nSuites: bookworm-pgdg\nComponents: main\n",
        "Types: deb\nURIs: http://x.test/\nSuites: bookworm\nComponents: main\nSigned-By: /etc/apt/keyrings/x.gpg\n",
    ],
    ids=["disabled", "source", "component", "suite", "pocket", "key"],
)
def test_what_is_disabled_or_not_debian_is_left_out(tmp_path: Path, text: str) -> None:
    etc_apt, lists = _apt(tmp_path, other__sources=text, sid__list__disabled="deb http://x.test/debian sid main")
    with pytest.raises(MachineError, match="has no enabled Debian source"):
        hostconf.debian_sources("trixie", etc_apt, lists)


def test_another_vendors_index_is_not_debian(tmp_path: Path) -> None:
    text = "deb http://debian.test/debian bookworm main\ndeb http://vendor.test/a_b/ bookworm main\n"
    etc_apt, lists = _apt(tmp_path, main=text)
    (lists / "vendor.test_a%5fb_dists_bookworm_InRelease").write_text("Origin: Vendor\nSuite: bookworm\n")
    (lists / "debian.test_debian_dists_bookworm_InRelease").write_text("Origin: Debian\n")
    found = hostconf.debian_sources("trixie", etc_apt, lists)
    assert [source.uris for source in found] == [("http://debian.test/debian",)]


async def test_apt_options_are_about_fetching_only(tmp_path: Path) -> None:
    (tmp_path / "auth.conf").write_text("machine m.test login a password b\n")
    text = await hostconf.apt_options(tmp_path)
    lines = text.splitlines()
    assert f'Dir::Etc::netrc "{tmp_path}/auth.conf";' in lines
    assert any(line.startswith("Acquire::") for line in lines)
    assert not [line for line in lines if line.startswith(("DPkg::", "APT::", "Acquire::IndexTargets"))]
