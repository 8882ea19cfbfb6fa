"""What of this machine's settings is lent to RUN steps, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.core.errors import MachineError
from rekindle.image import base, buildenv
from tests.image.building import Room


def pip(env: dict[str, str], etc: Path) -> list[str]:
    return buildenv.pip_conf(env, etc).strip().splitlines()


def test_pip_keeps_indexes_and_drops_what_only_this_machine_has(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://a.invalid/simple\ncert = /here/ca.pem\nconstraint = /here/c.txt\n"
        "extra-index-url =\n    file:///here\n    https://b.invalid/%40x\n[install]\nfind-links = /here/wheels\n"
    )
    assert pip({"HOME": str(tmp_path)}, tmp_path) == [
        "[global]",
        "cert = /run/rk/ca.crt",
        "index-url = https://a.invalid/simple",
        "extra-index-url = https://b.invalid/%40x",
    ]


def test_pip_in_pips_order(tmp_path: Path) -> None:
    home, named = tmp_path / "home", tmp_path / "named.conf"
    (home / ".config/pip").mkdir(parents=True)
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://1.invalid\ntrusted-host = one\n")
    (home / ".config/pip/pip.conf").write_text("[global]\nindex-url = https://2.invalid\n")
    named.write_text("[global]\nindex-url = https://3.invalid\n")
    env = {"HOME": str(home)}
    assert "index-url = https://2.invalid" in pip(env, tmp_path)
    env["PIP_CONFIG_FILE"] = str(named)
    assert {"index-url = https://3.invalid", "trusted-host = one"} < set(pip(env, tmp_path))
    env["PIP_INDEX_URL"] = "https://4.invalid"
    assert "index-url = https://4.invalid" in pip(env, tmp_path)


def test_apt_options_name_no_file_of_this_machine() -> None:
    options = (
        'Acquire::http::Proxy "http://p.invalid:1";\nAcquire::https::CaInfo "/here/ca";\nDir::Etc::netrc "/here";\n'
    )
    assert buildenv.apt_conf(options) == (
        'Acquire::http::Proxy "http://p.invalid:1";\nAcquire::https::CaInfo "/run/rk/ca.crt";\n'
    )


def test_public_sources_are_not_lent(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    file = tmp_path / "sources.list.d/debian.sources"
    assert buildenv.private_sources(tmp_path) == ""
    file.write_text(base.PUBLIC_SOURCES.replace("trixie", "bookworm").replace("http:", "https:"))
    assert buildenv.private_sources(tmp_path) == ""
    file.write_text("Types: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm\nComponents: main\n")
    assert "http://mirror.invalid/debian\nSuites: trixie\n" in buildenv.private_sources(tmp_path)


def test_the_ca_bundle(tmp_path: Path) -> None:
    mine = tmp_path / "ca.pem"
    mine.write_text("x")
    assert buildenv.ca_bundle({"SSL_CERT_FILE": "/nowhere", "PIP_CERT": str(mine)}) == mine
    with pytest.raises(MachineError, match="ca-certificates"):
        buildenv.ca_bundle({}, system=tmp_path / "none")


def test_proxies_in_both_spellings() -> None:
    assert buildenv.proxies({"http_proxy": "a", "NO_PROXY": "b", "https_proxy": "", "PATH": "c"}) == {
        "http_proxy": "a",
        "NO_PROXY": "b",
    }


BARE = """\
FROM rekindle/debian:13 AS b
RUN mkdir /links && ln -s usr/bin /links/bin && ln -s usr/lib /links/lib && ln -s usr/lib64 /links/lib64
FROM scratch
COPY --from=b /usr /usr
COPY --from=b /links/ /
RUN cat /etc/pip.conf /run/rk/ca.crt > /seen
"""


@pytest.mark.slow
async def test_where_an_image_had_no_such_file_none_is_left(room: Room) -> None:
    root = room.unpacked(await room.build(BARE))
    assert (root / "seen").stat().st_size > 1000
    left = [path for name in ("etc/pip.conf", "etc/apt", "run/rk") if (path := root / name).exists()]
    assert left == []
