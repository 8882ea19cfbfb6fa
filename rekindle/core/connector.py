"""VPC network connectors as the store keeps them (spec §5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class ConnectorState(Enum):
    """PENDING and DELETING owe work; the others of AWS's states never come up: nothing here can fail."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    DELETING = "DELETING"


class UpdateStatus(Enum):
    """IN_PROGRESS owes work."""

    SUCCESSFUL = "Successful"
    IN_PROGRESS = "InProgress"


@dataclass(frozen=True, kw_only=True, slots=True)
class Connector:
    """Times are UTC epoch milliseconds."""

    id: str  #: `nc-<uuid>`
    arn: str  #: without a version
    account: str
    region: str
    name: str
    state: ConnectorState
    number: int  #: of the latest version; the first is 1
    #: `Configuration` as the API has it. Core reads none of it.
    configuration: Mapping[str, object]
    operator_role: str
    created_at_ms: int
    updated_at_ms: int  #: of the configuration
    tags: Mapping[str, str] = field(default_factory=dict)
    state_reason: str | None = None
    last_update_status: UpdateStatus | None = None
    last_update_reason: str | None = None

    def version_state(self, number: int) -> ConnectorState:
        """A version is what its connector is, but for the newest of one that is being updated."""
        updating = number == self.number and self.last_update_status is UpdateStatus.IN_PROGRESS
        return ConnectorState.PENDING if updating and self.state is ConnectorState.ACTIVE else self.state


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectorVersion:
    """What a connector was at one time; never changed."""

    connector: str  #: the connector's id
    number: int
    configuration: Mapping[str, object]
    operator_role: str
    created_at_ms: int
