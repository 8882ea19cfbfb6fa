"""A microVM as the store keeps it. Frozen: a change is a new value written by compare-and-swap on `revision`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rekindle.core.lifecycle import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class IdlePolicy:
    """When a VM goes to sleep by itself and how long it may sleep (spec §1.4)."""

    max_idle_s: int
    suspended_s: int
    auto_resume: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroVM:
    """One session. Times are UTC epoch milliseconds; names of members of the AWS API appear only in `api/`."""

    id: str  #: `microvm-<uuid>`
    account: str
    region: str
    node: str  #: the machine that runs it
    phase: Phase
    revision: int  #: +1 with every change of the row
    generation: int  #: tokens carry it; a new one revokes them
    image_arn: str
    image_version: str
    endpoint_id: str  #: the uuid in the endpoint's host name; never the one in `id` (spec §1.5)
    endpoint_port: int  #: the TLS listener of port mode
    memory_mib: int
    vcpus: int
    idle: IdlePolicy | None
    max_duration_s: int
    ingress: tuple[str, ...]  #: connector ARNs, effective
    egress: tuple[str, ...]  #: connector ARNs, effective
    started_at_ms: int
    execution_role_arn: str | None = None
    kms_key: str | None = None  #: as the caller named it; nothing is encrypted with it
    logging: Mapping[str, object] | None = None
    run_hook_payload: str | None = None
    suspended_at_ms: int | None = None
    terminated_at_ms: int | None = None
    state_reason: str | None = None
    snapshot: int | None = None  #: revision whose folder under `snapshots/` is this VM's whole last sleep
    handle: Mapping[str, object] | None = None  #: what the driver needs to find its process again

    def expires_at_ms(self) -> int:
        """The instant at which the VM is over, suspended time included (spec §1.7)."""
        return self.started_at_ms + self.max_duration_s * 1000

    def sleep_ends_at_ms(self) -> int | None:
        """The instant at which a suspended VM is over; None while it runs or has no such limit."""
        if self.suspended_at_ms is None or self.idle is None:
            return None
        return self.suspended_at_ms + self.idle.suspended_s * 1000


#: Who caused an event when it was no caller of the API, whose access key id stands there otherwise.
SERVICE = "service"  #: the node itself: what it found, and what time alone does
REQUEST = "request"  #: a request at the endpoint
GUEST = "guest"  #: the app of that microVM, for it
OPERATOR = "operator"  #: by way of the operator's own API


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of a thing's story: what happened, when, why, by whom."""

    subject: str  #: a microVM id, or the ARN of an image or network connector
    at_ms: int
    what: str
    why: str | None = None
    by: str = SERVICE  #: SERVICE, REQUEST, GUEST, OPERATOR, or the id of the access key that asked
    number: int | None = field(default=None, compare=False)  #: its place among all events, once it is written
    detail: Mapping[str, object] = field(default_factory=dict)
