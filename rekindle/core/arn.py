"""ARNs: made and taken apart here and nowhere else (spec §1.5)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rekindle.core.errors import Denied, Invalid

MANAGED_ACCOUNT = "aws"
_ARN = re.compile(r"arn:(?P<partition>[a-z0-9-]+):lambda:(?P<region>[a-z0-9-]*):(?P<account>[a-z0-9]*):(?P<rest>.+)")
_NAME = re.compile(r"[a-zA-Z0-9-_]+")
_CONNECTOR = re.compile(
    r"(?P<arn>arn:aws[a-zA-Z-]*:lambda:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):network-connector:[a-zA-Z0-9-_]+)"
    r"(:(?P<version>[1-9][0-9]{0,18}))?"
)


@dataclass(frozen=True, slots=True)
class ImageArn:
    """`arn:aws:lambda:<region>:<account>:microvm-image:<name>`; account is `aws` for managed images."""

    region: str
    account: str
    name: str

    def __str__(self) -> str:
        return f"arn:aws:lambda:{self.region}:{self.account}:microvm-image:{self.name}"


def image_arn(text: str) -> ImageArn:
    """Read an image ARN.

    Raises Invalid (not an ARN at all) or Denied (an ARN of another kind: AWS answers 403 there, spec §1.5).
    """
    if not text.startswith("arn:"):
        raise Invalid(f"Invalid ARN format: {text}")
    match = _ARN.fullmatch(text)
    if match is None:
        raise Invalid(f"Invalid ARN format: {text}")
    kind, _, name = match["rest"].partition(":")
    if kind != "microvm-image" or _NAME.fullmatch(name) is None:
        raise Denied(f"Not a MicroVM image ARN: {text}")
    return ImageArn(match["region"], match["account"], name)


def managed_connector(region: str, name: str) -> str:
    """`arn:aws:lambda:<region>:aws:network-connector:aws-network-connector:<NAME>` (spec §5.1)."""
    return f"arn:aws:lambda:{region}:aws:network-connector:aws-network-connector:{name}"


@dataclass(frozen=True, slots=True)
class ConnectorArn:
    """`arn:aws:lambda:<region>:<account>:network-connector:<id>`, with `:<version>` when it names one version."""

    arn: str  #: without the version
    region: str
    account: str
    version: int | None


def connector_arn(text: str) -> ConnectorArn | None:
    """The ARN of a connector that some account owns, or None when `text` is not one."""
    match = _CONNECTOR.fullmatch(text)
    if match is None:
        return None
    version = match["version"]
    return ConnectorArn(match["arn"], match["region"], match["account"], None if version is None else int(version))


def own_connector(region: str, account: str, connector_id: str) -> str:
    """The ARN of a VPC connector (spec §1.5)."""
    return f"arn:aws:lambda:{region}:{account}:network-connector:{connector_id}"
