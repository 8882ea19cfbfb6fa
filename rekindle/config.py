"""The whole configuration: one frozen value, read once at the edge and passed down.

Order: defaults, then the TOML file (`--config`, REKINDLE_CONFIG, or `<state>/rekindle.toml`), then environment
(REKINDLE_STATE, REKINDLE_LISTEN, REKINDLE_TOOLS_DIR), then command line. An unknown key is an error that names it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from rekindle.core.errors import Invalid


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """Dockerfile builds."""

    trust: str = "nobody"  #: "operator": build on this host (shares its kernel); "nobody": refuse builds
    timeout_s: int = 1800  #: wall clock of one build
    memory_mib: int = 4096  #: memory of all RUN steps together
    pids: int = 2048  #: processes of all RUN steps together
    storage_mib: int = 20480  #: disk that one build may add
    concurrent: int = 1  #: builds at once
    ready_timeout_s: int = 60  #: default of readyTimeoutInSeconds
    validate_timeout_s: int = 30  #: default of validateTimeoutInSeconds
    hook_timeout_s: int = 1  #: default of the runtime hooks' timeouts
    archive_max_mib: int = 2048  #: unpacked size of a code artifact
    archive_max_entries: int = 100_000
    insecure_registries: tuple[str, ...] = ()  #: HOST[:PORT] of registries spoken to over plain HTTP
    host_services: tuple[str, ...] = ()  #: ADDRESS:PORT of this machine that builds may reach (a package mirror)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    default_mib: int = 2048  #: when a create names no size, as on AWS
    extra_sizes_mib: tuple[int, ...] = ()  #: sizes the operator allows besides 512, 1024, 2048, 4096, 8192
    peak_factor: int = 1  #: guest RAM = minimumMemoryInMiB times this (4 on AWS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingress:
    host: str = "127.0.0.1"  #: address of the endpoint listeners
    first_port: int = 20000  #: endpoint ports are taken from here
    last_port: int = 29999
    domain: str = ""  #: host mode: `<uuid>.<domain>`; empty: port mode, `localhost:<port>`
    hold_s: int = 60  #: how long a request is held while its VM starts or wakes


@dataclass(frozen=True, kw_only=True, slots=True)
class Egress:
    """The way out of a guest; the policy is public addresses only."""

    public_test_addresses: tuple[str, ...] = ()  #: for tests: "198.51.100.7:80=127.0.0.1:8099"
    resolvers: tuple[str, ...] = ()  #: "address:port"; empty: the host's own
    vpc: str = "none"  #: what a VPC network connector reaches: none (as a VPC without NAT) | internet


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifacts:
    listen: str = "127.0.0.1:7071"  #: the embedded store
    endpoint_url: str = ""  #: another S3 endpoint to read code artifacts from; empty: the embedded store


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    accel: str = "auto"  #: auto (try KVM with a guest, else tcg) | kvm | tcg
    seed_after_restore: bool = True  #: TEST ONLY: False leaves clones with equal random bytes
    pagemap: str = "auto"  #: auto | scan (PAGEMAP_SCAN) | classic (/proc/pid/pagemap)
    first_uid: int = 700_000  #: root mode: VMMs run as uids from here
    uids: int = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    state: Path
    tools_dir: Path  #: toolbox trees, guest kernels, managed base images; shared by services of one owner
    listen: str = "127.0.0.1:7070"
    account: str = "000000000000"
    region: str = "us-east-1"
    terminated_kept_s: int = 86_400  #: how long a TERMINATED VM is still answered
    build: Build = field(default_factory=Build)
    memory: Memory = field(default_factory=Memory)
    ingress: Ingress = field(default_factory=Ingress)
    egress: Egress = field(default_factory=Egress)
    artifacts: Artifacts = field(default_factory=Artifacts)
    machine: Machine = field(default_factory=Machine)


def default_state(env: Mapping[str, str]) -> Path:
    """`$REKINDLE_STATE`, else `$XDG_DATA_HOME/rekindle`, else `~/.local/share/rekindle`."""
    if env.get("REKINDLE_STATE"):
        return Path(env["REKINDLE_STATE"]).absolute()
    base = Path(env["XDG_DATA_HOME"]) if env.get("XDG_DATA_HOME") else Path(env.get("HOME", "/root")) / ".local/share"
    return base / "rekindle"


def load(
    *,
    state: Path | None = None,
    file: Path | None = None,
    listen: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Config:
    """Read the configuration. Raises Invalid naming the key and the rule."""
    env = os.environ if env is None else env
    state = (state or default_state(env)).absolute()
    file = file or (Path(env["REKINDLE_CONFIG"]) if env.get("REKINDLE_CONFIG") else state / "rekindle.toml")
    values: dict[str, Any] = {}
    if file.exists():
        try:
            values = tomllib.loads(file.read_text())
        except tomllib.TOMLDecodeError as err:
            raise Invalid(f"{file}: not TOML: {err}") from err
    values["state"] = str(state)
    values.setdefault("tools_dir", str(default_state(env) / "tools"))
    if env.get("REKINDLE_TOOLS_DIR"):
        values["tools_dir"] = env["REKINDLE_TOOLS_DIR"]
    if listen or env.get("REKINDLE_LISTEN"):
        values["listen"] = listen or env["REKINDLE_LISTEN"]
    config: Config = _build(Config, values, "")
    _check(config)
    return config


def _check(config: Config) -> None:
    """Values of the right type that would leave the service waiting for ever or in the wrong hands."""
    build, ingress, machine = config.build, config.ingress, config.machine
    rules = {
        "account must be 12 digits": re.fullmatch(r"\d{12}", config.account),
        "region must be lower-case letters, digits and '-'": re.fullmatch(r"[a-z0-9-]{1,32}", config.region),
        "build.trust must be nobody or operator": build.trust in ("nobody", "operator"),
        "build.concurrent must be at least 1": build.concurrent >= 1,
        "memory.peak_factor must be at least 1": config.memory.peak_factor >= 1,
        "egress.vpc must be none or internet": config.egress.vpc in ("none", "internet"),
        "ingress.first_port and ingress.last_port must be ports, the first not above the last": 1
        <= ingress.first_port
        <= ingress.last_port
        <= 65535,
        "ingress.hold_s must be at least 1": ingress.hold_s >= 1,
        "machine.first_uid must be above 0": machine.first_uid > 0,
        "machine.uids must be at least the number of endpoint ports: each VMM has a uid of its own": machine.uids
        > ingress.last_port - ingress.first_port,
    }
    for rule, kept in rules.items():
        if not kept:
            raise Invalid(rule)


def _build(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise Invalid(f"Unknown configuration key '{where}{unknown[0]}'; known: {', '.join(sorted(hints))}")
    made = {name: _convert(hints[name], value, where + name) for name, value in values.items()}
    return kind(**made)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise Invalid(f"Configuration key '{where}' must be a table")
        return _build(hint, value, where + ".")
    if hint is Path:
        return Path(value).expanduser().absolute()
    if hint in (int, str, bool):
        if type(value) is not hint:
            raise Invalid(f"Configuration key '{where}' must be {hint.__name__}, not {value!r}")
        return value
    item = hint.__args__[0]
    if not isinstance(value, list) or any(type(one) is not item for one in value):
        raise Invalid(f"Configuration key '{where}' must be a list of {item.__name__}")
    return tuple(value)


def host_port(text: str) -> tuple[str, int]:
    """`127.0.0.1:7070` or `[::1]:7070` as (host, port). Raises Invalid."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise Invalid(f"'{text}' must be ADDRESS:PORT")
    return host.strip("[]"), int(port)
