"""The whole configuration: one frozen value, read once at the edge and passed down.

Order: defaults, then the TOML file (`--config`, REKINDLE_CONFIG, or `<state>/rekindle.toml`), then environment
(REKINDLE_STATE, REKINDLE_LISTEN, REKINDLE_TOOLS_DIR), then command line. An unknown key is an error that names it.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from rekindle.config_rules import rules
from rekindle.core import quiet
from rekindle.core.errors import Invalid
from rekindle.core.quota import Ceilings, Room


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
    mib_per_vcpu: int = 2048  #: one vCPU for so much of minimumMemoryInMiB, at least one (with peak_factor 4, AWS: 512)
    host_mib: int = 0  #: memory of this machine for microVMs; 0: what it has, less an eighth for everything else
    #: guest RAM of the microVMs that have a process may be this many times host_mib: clones of an image share its
    #: pages and most guests touch little of their own; beyond it RunMicrovm and ResumeMicrovm are refused
    overcommit: int = 4

    def room(self) -> Room:
        """What `host_mib` allows; no limit while that is 0 (the service puts the detected number there)."""
        return Room(guest_mib=self.host_mib * self.overcommit, peak_factor=self.peak_factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotas:
    """What one account may have and how often it may call; 0 is no limit.

    `preset` chooses all numbers at once, a key that is set overrides the preset's. A rate is two numbers: requests
    per second, and how many at once after a pause (`[5, 5]`); a call that is a fifth of a second early waits, one
    that is earlier gets ThrottlingException with Retry-After.
    """

    preset: str = "generous"  #: generous | aws
    memory_mib: int = 0  #: minimumMemoryInMiB of all microVMs that are not TERMINATED
    microvms: int = 0  #: microVMs that are not TERMINATED
    images: int = 1000  #: images, in whatever state
    versions_per_image: int = 1000  #: versions of one image, failed ones too
    concurrent_builds: int = 100  #: builds that wait or run; build.concurrent says how many run
    connectors: int = 1000  #: network connectors
    versions_per_connector: int = 1000  #: versions of one network connector
    run_microvm: tuple[int, int] = (1000, 2000)  #: rate of RunMicrovm
    resume_microvm: tuple[int, int] = (1000, 2000)  #: rate of ResumeMicrovm
    suspend_microvm: tuple[int, int] = (1000, 2000)  #: rate of SuspendMicrovm
    terminate_microvm: tuple[int, int] = (1000, 2000)  #: rate of TerminateMicrovm
    get_microvm: tuple[int, int] = (5000, 10_000)  #: rate of GetMicrovm
    create_microvm_auth_token: tuple[int, int] = (5000, 10_000)  #: rate of CreateMicrovmAuthToken
    create_microvm_shell_auth_token: tuple[int, int] = (1000, 2000)  #: rate of CreateMicrovmShellAuthToken
    other_operations: tuple[int, int] = (2000, 4000)  #: rate of all other operations together

    def ceilings(self) -> Ceilings:
        """The numbers that are counted in rows."""
        return Ceilings(**{one.name: getattr(self, one.name) for one in dataclasses.fields(Ceilings)})


#: AWS's numbers (spec §8.1; memory outside the four largest regions). It publishes none for the keys left out.
AWS_QUOTAS: Mapping[str, Any] = {
    "preset": "aws",
    "memory_mib": 409_600,
    "images": 100,
    "versions_per_image": 50,
    "concurrent_builds": 5,
    "run_microvm": (5, 5),
    "resume_microvm": (5, 5),
    "suspend_microvm": (2, 2),
    "terminate_microvm": (10, 10),
    "get_microvm": (100, 100),
    "create_microvm_auth_token": (50, 50),
    "create_microvm_shell_auth_token": (5, 5),
    "other_operations": (15, 15),
}
PRESETS: Mapping[str, Mapping[str, Any]] = {"generous": {}, "aws": AWS_QUOTAS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingress:
    host: str = "127.0.0.1"  #: address of the endpoint listeners
    first_port: int = 20000  #: endpoint ports are taken from here
    last_port: int = 29999
    domain: str = ""  #: host mode: `<uuid>.<domain>`; empty: port mode, `localhost:<port>`
    hold_s: int = 60  #: how long a request is held while its VM starts or wakes


@dataclass(frozen=True, kw_only=True, slots=True)
class Quiet:
    """Requests that neither keep a microVM awake nor wake it ([quiet.md](quiet.md)).

    Without a rule every request does both, as on AWS.
    """

    sets: tuple[str, ...] = ()  #: shipped rules: jupyterlab
    rules: tuple[str, ...] = ()  #: your own, looked at first: "ignore GET /healthz", "park /live/*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Egress:
    """The way out of a guest; the policy is public addresses only."""

    public_test_addresses: tuple[str, ...] = ()  #: for tests: "198.51.100.7:80=127.0.0.1:8099"
    resolvers: tuple[str, ...] = ()  #: "address:port"; empty: the host's own
    vpc: str = "none"  #: what a VPC network connector reaches: none (as a VPC without NAT) | internet


@dataclass(frozen=True, kw_only=True, slots=True)
class Lifetime:
    max_duration_s: int = 28_800  #: most that maximumDurationInSeconds may be, suspended time included (AWS: 28800)


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """What keeps a microVM from its idle suspension besides bytes over its endpoint, and what its app may ask for
    itself (docs/guest-api.md). Nothing but bytes counts as long as cpu_percent and egress_kib are 0."""

    lease_max_s: int = 28_800  #: a busy lease keeps a VM awake at most so long after its last activity; 0: no leases
    self_suspend: bool = True  #: an app may ask for the suspension of its own VM
    awake_s: int = 5  #: such a wish is followed so long after the VM began to run, at the earliest
    cpu_percent: int = 0  #: a VMM that uses more of one CPU than this, on average over the window, is active; 0: off
    #: so much traffic over the guest's own connections to the outside in one window is activity; 0: off
    egress_kib: int = 0
    window_s: int = 15  #: over which CPU time and the guest's own traffic are counted


@dataclass(frozen=True, kw_only=True, slots=True)
class HookRules:
    #: after a /suspend hook that did not answer 200: terminate (as on AWS) | keep_running
    failed_suspend: str = "terminate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Iam:
    """Roles that requests name. Nothing assumes them here: there are no AWS credentials to be had."""

    roles: tuple[str, ...] = ()  #: ARNs that requests may name; empty: every well-formed one


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifacts:
    listen: str = "127.0.0.1:7071"  #: the embedded store
    endpoint_url: str = ""  #: another S3 endpoint to read code artifacts from; empty: the embedded store


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    accel: str = "auto"  #: auto (try KVM with a guest, else tcg) | kvm | tcg
    probe_s: int = 10  #: how long the guest that tries KVM may take; a machine that is itself a slow VM needs more
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
    terminated_kept_s: int = 86_400  #: how long a TERMINATED VM is still answered, and what is gone keeps its story
    build: Build = field(default_factory=Build)
    memory: Memory = field(default_factory=Memory)
    quotas: Quotas = field(default_factory=Quotas)
    ingress: Ingress = field(default_factory=Ingress)
    quiet: Quiet = field(default_factory=Quiet)
    egress: Egress = field(default_factory=Egress)
    artifacts: Artifacts = field(default_factory=Artifacts)
    lifetime: Lifetime = field(default_factory=Lifetime)
    idle: Idle = field(default_factory=Idle)
    hooks: HookRules = field(default_factory=HookRules)
    iam: Iam = field(default_factory=Iam)
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
    if isinstance(values.get("quotas"), dict):
        values["quotas"] = _with_preset(values["quotas"])
    if listen or env.get("REKINDLE_LISTEN"):
        values["listen"] = listen or env["REKINDLE_LISTEN"]
    config: Config = _build(Config, values, "")
    _check(config)
    return config


def _with_preset(quotas: dict[str, Any]) -> dict[str, Any]:
    """The keys of the file over those of the preset it names. Raises Invalid for another preset."""
    preset = quotas.get("preset", Quotas().preset)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise Invalid(f"quotas.preset must be one of: {', '.join(PRESETS)}")
    chosen = {key: list(value) if isinstance(value, tuple) else value for key, value in PRESETS[preset].items()}
    return chosen | quotas


def _check(config: Config) -> None:
    """Values of the right type that would leave the service waiting for ever or in the wrong hands."""
    for rule, kept in rules(config).items():
        if not kept:
            raise Invalid(rule)
    quiet.rules(config.quiet.rules, config.quiet.sets)


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
