"""A request at each stage: Raw → Signed → Routed → Parsed → Reply. Each is whole when it exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rekindle.api.model import Operation
from rekindle.clock import Clock
from rekindle.config import Config
from rekindle.core import cpu
from rekindle.core.arrival import Arrival
from rekindle.core.cpu import Cpu
from rekindle.core.managed import Managed
from rekindle.core.microvm import MicroVM
from rekindle.core.policy import Policy
from rekindle.store.db import Store


@dataclass(frozen=True, slots=True)
class Raw:
    """As it came off the wire; paths and query still percent-encoded."""

    request_id: str
    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    came: Arrival = field(default_factory=Arrival)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed the request, and for which region."""

    account: str
    region: str
    key_id: str
    principal: str  #: the ARN of the user that the key stands for
    policy: Policy | None = None  #: None: everything in the account
    came: Arrival = field(default_factory=Arrival)


@dataclass(frozen=True, slots=True)
class Signed:
    raw: Raw
    caller: Caller


@dataclass(frozen=True, slots=True)
class Routed:
    raw: Raw
    caller: Caller
    operation: Operation
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Parsed:
    """`params` obey the model: operations check only what it cannot say."""

    caller: Caller
    operation: Operation
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """What operations ask of the machine that runs microVMs."""

    async def admit(self, vm: MicroVM) -> MicroVM:
        """Open the endpoint of a new row, so that it exists when the answer is out, and start the work it owes."""

    def kick(self) -> None:
        """Rows owe work: look again."""

    def endpoint(self, vm: MicroVM) -> str:
        """The bare authority that answers show."""

    def mint(self, vm: MicroVM, ports: Sequence[tuple[int, int]], expires_at_s: int, use: str) -> str:
        """A sealed token for these guest ports; `use`: what it opens, APP or SHELL of core/token."""

    def managed(self) -> Managed:
        """The base image that builds stand on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """All that operations work with; nothing else is within their reach."""

    store: Store
    engine: Engine
    config: Config
    clock: Clock
    host_cpus: int
    cpu: Cpu = field(default_factory=cpu.here)  #: what guests of this machine have
