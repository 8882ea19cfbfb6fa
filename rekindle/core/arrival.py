"""How a request came, and the condition keys that every request has (IAM user guide, "AWS global condition keys")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rekindle.core.account import user_id


@dataclass(frozen=True, slots=True)
class Arrival:
    source_ip: str | None = None  #: None: not over IP
    secure: bool = False  #: over TLS
    user_agent: str | None = None


def arrival(scope: Mapping[str, Any]) -> Arrival:
    """Of a request in an ASGI scope."""
    client = scope.get("client")
    agents = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"user-agent"]
    return Arrival(client[0] if client else None, scope.get("scheme") == "https", agents[0] if agents else None)


def condition_keys(
    account: str, principal: str, key_id: str, region: str, came: Arrival, now_ms: int
) -> dict[str, str]:
    """By name in lower case; what a request does not have is left out."""
    keys = {
        "aws:currenttime": datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aws:epochtime": str(now_ms // 1000),
        "aws:principalaccount": account,
        "aws:principalarn": principal,
        "aws:principalisawsservice": "false",
        "aws:principaltype": "User",
        "aws:requestedregion": region,
        "aws:securetransport": "true" if came.secure else "false",
        "aws:userid": user_id(key_id),
        "aws:username": principal.rpartition("/")[2],
        "aws:viaawsservice": "false",
    }
    if came.source_ip is not None:
        keys["aws:sourceip"] = came.source_ip
    if came.user_agent is not None:
        keys["aws:useragent"] = came.user_agent
    return keys
