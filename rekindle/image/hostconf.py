"""What this machine's own administrator set up for fetching packages: apt sources and options, proxies, pip, CAs.

Read only. A machine with a mirror, a proxy or a private CA works because we use its settings and name none of our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rekindle.core.errors import MachineError
from rekindle.process import run_ok

ETC_APT = Path("/etc/apt")
APT_LISTS = Path("/var/lib/apt/lists")

_DEBIAN = ("bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable")
_POCKETS = ("", "-updates", "-security")
_ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+\S+)*)\s*$"
)
_ORIGIN = re.compile(r"^Origin:\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Source:
    """One apt source of binary packages. `options` are deb822 fields like Signed-By, in their own spelling."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: Mapping[str, str]

    def deb822(self) -> str:
        lines = ["Types: deb", f"URIs: {' '.join(self.uris)}", f"Suites: {' '.join(self.suites)}"]
        lines.append(f"Components: {' '.join(self.components)}")
        lines += [f"{name}: {value}" for name, value in self.options.items()]
        return "\n".join(lines) + "\n"


def apt_sources(etc_apt: Path = ETC_APT) -> list[Source]:
    """Every enabled binary source of this machine, in apt's reading order."""
    found: list[Source] = []
    for file in (etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))):
        if file.suffix == ".sources":
            found += _deb822(file.read_text())
        elif file.suffix == ".list" and file.is_file():
            found += _one_line(file.read_text())
    return found


def debian_sources(suite: str, etc_apt: Path = ETC_APT, lists: Path = APT_LISTS) -> list[Source]:
    """The machine's Debian sources with their suite replaced by `suite` (and `-updates`, `-security` kept).

    Sources that are not Debian's, and other pockets (backports), are left out. Raises MachineError when none is left.
    """
    found = [moved for source in apt_sources(etc_apt) if (moved := _moved(source, suite, lists)) is not None]
    if not found:
        raise MachineError(
            f"{etc_apt} has no enabled Debian source (suites like bookworm or trixie, component main); "
            f"add Debian's own entry or your mirror's, then try again"
        )
    return found


async def apt_options(etc_apt: Path = ETC_APT) -> str:
    """This machine's apt settings about fetching (proxies, CAs, validity of mirrors), as an apt.conf file.

    Hooks and cleaning rules of the machine are not among them: they mean this machine, not the tree that is made.
    """
    dump = (await run_ok(["apt-config", "dump"], deadline_s=30)).decode()
    kept = [line for line in dump.splitlines() if line.startswith("Acquire::") and not line.startswith(_NOT_FETCHING)]
    kept += [f'{key} "{path}";' for key, path in _netrc(etc_apt)]
    return "".join(line + "\n" for line in kept)


#: What apt keeps on this machine's disk, not how it fetches.
_NOT_FETCHING = ("Acquire::IndexTargets", "Acquire::Changelogs", "Acquire::GzipIndexes", "Acquire::CompressionTypes")


def _netrc(etc_apt: Path) -> Iterator[tuple[str, Path]]:
    for key, path in (("Dir::Etc::netrc", etc_apt / "auth.conf"), ("Dir::Etc::netrcparts", etc_apt / "auth.conf.d")):
        if path.exists():
            yield key, path


def _deb822(text: str) -> Iterator[Source]:
    for paragraph in re.split(r"\n(?:[ \t]*\n)+", "\n".join(_without_comments(text))):
        fields = _fields(paragraph)
        if "deb" not in fields.pop("types", "").split() or fields.pop("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        uris, suites, components = (tuple(fields.pop(name, "").split()) for name in ("uris", "suites", "components"))
        yield Source(uris, suites, components, {_SPELLING.get(name, name): value for name, value in fields.items()})


def _without_comments(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if not line.startswith("#"))


def _fields(paragraph: str) -> dict[str, str]:
    """Names in lower case; a value keeps the continuation lines of a key block."""
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


_SPELLING = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "architectures": "Architectures",
    "languages": "Languages",
    "check-valid-until": "Check-Valid-Until",
    "check-date": "Check-Date",
    "allow-insecure": "Allow-Insecure",
}
_LIST_OPTIONS = {"arch": "Architectures", "lang": "Languages"}


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#")[0].strip())
        if match is None:
            continue
        pairs = (pair.partition("=") for pair in (match["options"] or "").split())
        options = {
            _LIST_OPTIONS.get(name, _SPELLING.get(name, name)): value.replace(",", " ") for name, _, value in pairs
        }
        yield Source((match["uri"],), (match["suite"],), tuple(match["components"].split()), options)


def _moved(source: Source, suite: str, lists: Path) -> Source | None:
    """The source with `suite` in the place of its Debian suites; None when it has none or is not Debian's."""
    pockets = tuple(dict.fromkeys(p for one in source.suites if (p := _pocket(one)) is not None))
    if not pockets or "main" not in source.components or not _may_be_debian(source, lists):
        return None
    options = {name: value for name, value in source.options.items() if name != "Languages"}
    return replace(source, suites=tuple(suite + p for p in pockets), components=("main",), options=options)


def _pocket(suite: str) -> str | None:
    """`bookworm-updates` -> `-updates`; None for what is not one of Debian's own suites, or not wanted."""
    for base in _DEBIAN:
        if suite.startswith(base) and suite[len(base) :] in _POCKETS:
            return suite[len(base) :]
    return None


def _may_be_debian(source: Source, lists: Path) -> bool:
    """By its key, else by the Origin that its index says when apt has read it on this machine."""
    key = source.options.get("Signed-By", "")
    if key and "\n" not in key and "debian-archive" not in key:
        return False
    origins = {origin for uri in source.uris for one in source.suites if (origin := _origin(uri, one, lists))}
    return not origins or origins == {"Debian"}


def _origin(uri: str, suite: str, lists: Path) -> str | None:
    """What the InRelease file that apt keeps for this source says, or None when it keeps none."""
    flat = re.sub(r"^[a-z+]+://(?:[^/@]*@)?", "", uri.rstrip("/")).replace("_", "%5f").replace("/", "_")
    for name in ("InRelease", "Release"):
        file = lists / f"{flat}_dists_{suite}_{name}"
        if file.is_file():
            found = _ORIGIN.search(file.read_text(errors="replace"))
            return found[1] if found else None
    return None
