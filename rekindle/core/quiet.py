"""Quiet traffic: requests that are no activity, because a page left open sends them with nobody at it (docs/quiet.md).

A rule is one line, `EFFECT METHODS PATH[?QUERY] [STATUS]`, for example `ignore GET,HEAD /api/kernels 429`:

* `ignore`: no activity; while the VM sleeps it is answered with STATUS (503) and `Retry-After`, and does not wake it.
* `wake`: no activity, but it wakes the VM.
* `park` (a WebSocket; METHODS is left out): the connection outlives the VM's sleep; only its messages are activity.
* `listen`: as `park`, but only the client's messages are activity; what the app says may be lost in a sleep.

METHODS is `*` or names with commas between them; `WEBSOCKET` is a handshake, which `*` does not mean. In PATH `*`
stands for any text within one segment, `**` at its end for any segments; in QUERY one `*` stands for any text. The
first rule that matches is the one; what none matches is activity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from rekindle.core.errors import Invalid

WEBSOCKET = "WEBSOCKET"
PARKING = ("park", "listen")
EFFECTS = ("ignore", "wake", *PARKING)
MOST = 128  #: rules of one microVM
LONGEST = 256  #: bytes of a path or query
MOST_METHODS = 16
STATUS = 503
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_TEXT = re.compile(r"[!-~]+")

#: What a page of JupyterLab 4 sends by itself. Its polls of running things get 429, for at 503 it shows a dialog.
#: A save is asked for by a timer, and must not fail: it wakes. The file browser asks for `content=1&hash=0` without a
#: type; opening a file names one. The server tells the events' WebSocket of each of these polls.
JUPYTERLAB = (
    "ignore GET /api/kernels 429",
    "ignore GET /api/sessions 429",
    "ignore GET /api/terminals 429",
    "ignore GET /api/kernelspecs 429",
    "ignore GET /api/me 429",
    "ignore GET /api/status",
    "ignore GET /api/metrics/**",
    "ignore GET /lab/api/workspaces",
    "ignore GET /api/contents/**?content=1&hash=0*",
    "wake GET /api/contents/**?content=0*",
    "wake PUT /api/contents/**",
    "wake GET /api/kernels/*",
    "park /api/kernels/*/channels",
    "park /terminals/websocket/*",
    "listen /api/events/subscribe",
)
SETS = {"jupyterlab": JUPYTERLAB}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule, checked."""

    effect: str
    methods: tuple[str, ...]  #: none: every method but WEBSOCKET
    path: str
    query: str  #: empty: any
    status: int

    def wire(self) -> dict[str, object]:
        """As a route holds it (docs/contracts.md §4)."""
        return {
            "effect": self.effect,
            "methods": list(self.methods),
            "path": self.path,
            "query": self.query,
            "status": self.status,
        }


@cache
def rules(own: tuple[str, ...], sets: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules of these lines, then those of the named sets. Raises Invalid."""
    lines = list(own)
    for name in sets:
        if name not in SETS:
            raise Invalid(f"quiet.sets: '{name}' is none of: {', '.join(SETS)}")
        lines += SETS[name]
    if len(lines) > MOST:
        raise Invalid(f"quiet.rules and quiet.sets make {len(lines)} rules; {MOST} are the most")
    return tuple(map(parse, lines))


def parse(line: str) -> Rule:
    """One line of text as a rule. Raises Invalid, naming the line and what it must be."""
    effect, *words = line.split() or [""]
    if effect not in EFFECTS:
        raise _bad(line, f"it must begin with one of: {', '.join(EFFECTS)}")
    if effect in PARKING:
        words.insert(0, WEBSOCKET)
    if len(words) != 2 and not (effect == "ignore" and len(words) == 3):
        form = "EFFECT METHODS PATH[?QUERY] [STATUS]; park and listen have no METHODS, only ignore has a STATUS"
        raise _bad(line, f"it must read {form}")
    path, _, query = words[1].partition("?")
    return Rule(
        effect=effect,
        methods=_methods(line, words[0]),
        path=_path(line, path),
        query=_query(line, query),
        status=_status(line, words[2]) if len(words) == 3 else STATUS,
    )


def _methods(line: str, text: str) -> tuple[str, ...]:
    if text == "*":
        return ()
    names = tuple(text.split(","))
    if len(names) > MOST_METHODS or not all(map(_METHOD.fullmatch, names)):
        raise _bad(line, f"METHODS must be * or at most {MOST_METHODS} names in capitals with commas between them")
    return names


def _path(line: str, path: str) -> str:
    *inner, last = path.split("/")
    if not path.startswith("/") or len(path) > LONGEST or not _TEXT.fullmatch(path):
        raise _bad(line, f"PATH must begin with / and be at most {LONGEST} visible ASCII characters")
    if any(segment.count("*") > 1 for segment in inner) or (last != "**" and last.count("*") > 1):
        raise _bad(line, "PATH must have at most one * between two slashes, or ** as its last segment")
    return path


def _query(line: str, query: str) -> str:
    if len(query) > LONGEST or query.count("*") > 1 or (query and not _TEXT.fullmatch(query)):
        raise _bad(line, f"QUERY must be at most {LONGEST} visible ASCII characters with at most one *")
    return query


def _status(line: str, text: str) -> int:
    if not re.fullmatch(r"[45]\d\d", text):
        raise _bad(line, "STATUS must be 400 to 599")
    return int(text)


def _bad(line: str, rule: str) -> Invalid:
    return Invalid(f"quiet rule '{line[:300]}': {rule}")
