"""Sockets in deep folders, for their owner only."""

from __future__ import annotations

import stat
from pathlib import Path

from rekindle import unixsock


def test_only_the_owner_may_connect_whatever_the_path_length(tmp_path: Path) -> None:
    path = tmp_path / ("deep" * 30) / "x.sock"
    path.parent.mkdir()
    with unixsock.listen(path) as listening:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with unixsock.connect(path), listening.accept()[0] as peer:
            assert peer.fileno() >= 0
