"""Rules about quiet traffic: what a line means, and what is refused. What they match: go/internal/quiet."""

from __future__ import annotations

import pytest

from rekindle.core import quiet
from rekindle.core.errors import Invalid


def test_a_line_is_a_rule() -> None:
    assert quiet.parse("ignore GET,HEAD /a/*/b?x=1* 429").wire() == {
        "effect": "ignore",
        "methods": ["GET", "HEAD"],
        "path": "/a/*/b",
        "query": "x=1*",
        "status": 429,
    }
    assert quiet.parse("ignore * /a").wire() == {
        "effect": "ignore",
        "methods": [],
        "path": "/a",
        "query": "",
        "status": 503,
    }
    assert quiet.parse("wake PUT /a/**").path == "/a/**"
    assert quiet.parse("listen /chat/*").methods == quiet.parse("park /chat/*").methods == (quiet.WEBSOCKET,)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("", "must begin with one of: ignore, wake, park, listen"),
        ("count GET /", "must begin with"),
        ("ignore /healthz", "must read EFFECT METHODS"),
        ("ignore GET / 503 1", "must read EFFECT METHODS"),
        ("ignore get /", "METHODS must be"),
        ("ignore GET, /", "METHODS must be"),
        ("ignore " + ",".join(["GET"] * 17) + " /", "METHODS must be"),
        ("ignore GET healthz", "PATH must begin with /"),
        ("ignore GET /\u00e4", "PATH must begin with /"),
        ("ignore GET /" + "a" * 256, "at most 256"),
        ("ignore GET /a*b*", "at most one *"),
        ("ignore GET /**/a", "at most one *"),
        ("ignore GET /a?*b*", "QUERY must be"),
        ("ignore GET /a 200", "STATUS must be 400 to 599"),
        ("ignore GET /a 4e2", "STATUS must be 400 to 599"),
        ("wake GET /a 503", "must read EFFECT METHODS"),
        ("park GET /a 503", "must read EFFECT METHODS"),
        ("park GET /a", "park and listen have no METHODS"),
        ("park", "must read EFFECT METHODS"),
    ],
)
def test_a_line_that_is_none_says_what_is_wrong(line: str, rule: str) -> None:
    with pytest.raises(Invalid, match=r"^quiet rule '") as refused:
        quiet.parse(line)
    assert rule in refused.value.message


def test_own_rules_come_before_the_shipped_ones() -> None:
    made = quiet.rules(("ignore GET /healthz",), ("jupyterlab",))
    assert made[0].path == "/healthz"
    assert len(made) == 1 + len(quiet.JUPYTERLAB)
    with pytest.raises(Invalid, match=r"'hub' is none of: jupyterlab"):
        quiet.rules((), ("hub",))
    with pytest.raises(Invalid, match="make 129 rules; 128 are the most"):
        quiet.rules(("ignore GET /",) * 129, ())
