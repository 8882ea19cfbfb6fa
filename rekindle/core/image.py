"""Images, their versions and builds as the store keeps them (spec §1.6, §1.7, §7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class ImageState(Enum):
    CREATING = "CREATING"
    CREATED = "CREATED"
    CREATE_FAILED = "CREATE_FAILED"
    UPDATING = "UPDATING"
    UPDATED = "UPDATED"
    UPDATE_FAILED = "UPDATE_FAILED"
    DELETING = "DELETING"
    DELETE_FAILED = "DELETE_FAILED"
    DELETED = "DELETED"


class VersionState(Enum):
    """PENDING and IN_PROGRESS owe a build; the build starts again from nothing after a crash."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCESSFUL = "SUCCESSFUL"
    FAILED = "FAILED"
    DELETING = "DELETING"
    DELETED = "DELETED"
    DELETE_FAILED = "DELETE_FAILED"


class VersionStatus(Enum):
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hook:
    """One lifecycle hook of an image; `timeout_s` is already defaulted (ready 60, validate 30, runtime hooks 1)."""

    name: str  #: ready | validate | run | resume | suspend | terminate
    timeout_s: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    port: int
    enabled: tuple[Hook, ...]

    def get(self, name: str) -> Hook | None:
        """The hook of that name, or None when it is disabled."""
        return next((hook for hook in self.enabled if hook.name == name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    id: str  #: uuid
    arn: str
    account: str
    region: str
    name: str
    state: ImageState
    created_at_ms: int
    updated_at_ms: int
    latest_active_version: str | None = None
    latest_failed_version: str | None = None
    tags: Mapping[str, str] | None = None
    last_number: int = 1  #: the highest version number ever given: none is given twice


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    image_arn: str
    account: str
    region: str
    version: str  #: "1.0", "2.0", ...
    state: VersionState
    status: VersionStatus
    revision: int
    #: The members of the create request that answers echo, as the API has them. Core reads none of them.
    request: Mapping[str, object]
    base_image_version: str
    artifact_uri: str
    memory_mib: int
    vcpus: int
    environment: Mapping[str, str]
    hooks: Hooks | None
    os_capabilities_all: bool
    egress: tuple[str, ...]
    created_at_ms: int
    updated_at_ms: int
    state_reason: str | None = None
    folder: str | None = None  #: under `images/`, set when the snapshot is whole
    node: str = "local"


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    id: str  #: uuid
    image_arn: str
    version: str
    state: VersionState
    architecture: str
    chipset: str
    chipset_generation: str
    created_at_ms: int
    state_reason: str | None = None
    memory_snapshot_bytes: int | None = None
    disk_snapshot_bytes: int | None = None
    code_install_bytes: int | None = None
