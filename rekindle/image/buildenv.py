"""This machine's way to packages, lent to RUN steps: read-only files mounted for their time, never part of an image.

apt gets the machine's fetch options, and its sources when they are not Debian's public ones; pip gets its indexes and
proxies (entries that mean folders of this machine are left out: a build does not see them) and the machine's CA bundle.
Proxy variables go through buildah's own `--http-proxy`, which does not keep them.
"""

from __future__ import annotations

import configparser
import io
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from rekindle.core.errors import MachineError
from rekindle.image import base, debian, hostconf

CA_TARGET = "/run/rk/ca.crt"
APT_CONF_TARGET = "/etc/apt/apt.conf.d/99rekindle-build"
SOURCES_TARGET = f"/{base.SOURCES_FILE}"
PIP_TARGET = "/etc/pip.conf"

#: Folders that a mount may have to make where an image has none, deepest first.
MADE_FOLDERS = ("/etc/apt/apt.conf.d", "/etc/apt", "/run/rk")

_SYSTEM_CA = Path("/etc/ssl/certs/ca-certificates.crt")
_CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")
_PIP_URLS = ("index-url", "extra-index-url", "find-links")
_PIP_KEYS = (*_PIP_URLS, "trusted-host", "proxy", "timeout", "retries")
_FILE_OPTION = re.compile(r"::(?:CaInfo|CAInfo)\s", re.IGNORECASE)


async def write(folder: Path, env: Mapping[str, str], etc: Path = Path("/etc")) -> dict[str, str]:
    """Write the files into `folder`; returns target in the RUN step -> name of the file."""
    folder.mkdir(parents=True)
    shutil.copyfile(ca_bundle(env), folder / "ca.crt")
    (folder / "pip.conf").write_text(pip_conf(env, etc))
    mounts = {CA_TARGET: "ca.crt", PIP_TARGET: "pip.conf"}
    if options := apt_conf(await hostconf.apt_options(etc / "apt")):
        (folder / "apt.conf").write_text(options)
        mounts[APT_CONF_TARGET] = "apt.conf"
    if sources := private_sources(etc / "apt"):
        (folder / "debian.sources").write_text(sources)
        mounts[SOURCES_TARGET] = "debian.sources"
    return mounts


def ca_bundle(env: Mapping[str, str], system: Path = _SYSTEM_CA) -> Path:
    """The certificates this machine trusts. Raises MachineError when it has none."""
    for path in (*(Path(env[name]) for name in _CA_VARIABLES if env.get(name)), system):
        if path.is_file():
            return path
    raise MachineError(f"No CA bundle: {system} is missing and SSL_CERT_FILE names no file (package ca-certificates)")


def proxies(env: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables, in both spellings as they are."""
    names = (*_PROXY_VARIABLES, *(name.upper() for name in _PROXY_VARIABLES))
    return {name: env[name] for name in names if env.get(name)}


def apt_conf(options: str) -> str:
    """The machine's apt options; a CA file becomes the mounted one, other files of this machine are not there."""
    kept = []
    for line in options.splitlines():
        if _FILE_OPTION.search(line):
            kept.append(re.sub(r'"[^"]*"', f'"{CA_TARGET}"', line, count=1))
        elif not line.startswith("Dir::"):
            kept.append(line)
    return "".join(line + "\n" for line in kept)


def private_sources(etc_apt: Path) -> str:
    """The machine's Debian sources, moved to the base's suite; empty when they are Debian's public ones."""
    if not any(hostconf.apt_sources(etc_apt)):
        return ""  # not a machine that uses apt
    sources = hostconf.debian_sources(debian.SUITE, etc_apt)
    public = {_bare(uri) for line in re.findall(r"URIs: (.*)", base.PUBLIC_SOURCES) for uri in line.split()}
    if all(_bare(uri) in public for source in sources for uri in source.uris):
        return ""
    return "\n".join(source.deb822() for source in sources)


def _bare(uri: str) -> str:
    return re.sub(r"^https?://", "", uri).rstrip("/")


def pip_conf(env: Mapping[str, str], etc: Path = Path("/etc")) -> str:
    """One pip.conf of what the machine's files and PIP_* variables say about where packages come from."""
    made = configparser.RawConfigParser()
    made["global"] = {"cert": CA_TARGET}
    for key, value in _pip_settings(env, etc):
        if kept := _reachable(value) if key in _PIP_URLS else value:
            made["global"][key] = kept
    text = io.StringIO()
    made.write(text)
    return text.getvalue()


def _reachable(value: str) -> str:
    return " ".join(word for word in value.split() if word.startswith(("http://", "https://")))


def _pip_settings(env: Mapping[str, str], etc: Path) -> Iterator[tuple[str, str]]:
    """In pip's order, the later wins: global, user, the file of PIP_CONFIG_FILE, variables."""
    home = Path(env.get("HOME", "/root"))
    config_home = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    files = [etc / "xdg/pip/pip.conf", etc / "pip.conf", home / ".pip/pip.conf", config_home / "pip/pip.conf"]
    if env.get("PIP_CONFIG_FILE"):
        files.append(Path(env["PIP_CONFIG_FILE"]))
    for file in files:
        found = configparser.RawConfigParser(strict=False)
        found.read(file)
        for section in ("global", "install", "download"):
            if found.has_section(section):
                yield from ((key, value) for key, value in found.items(section) if key in _PIP_KEYS)
    yield from ((key, env[name]) for key in _PIP_KEYS if env.get(name := "PIP_" + key.upper().replace("-", "_")))
