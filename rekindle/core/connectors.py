"""Managed network connectors: which exist, and which are in force (spec §5.1).

`NO_EGRESS` is ours: AWS has no way to start a microVM without internet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rekindle.core.arn import managed_connector
from rekindle.core.errors import Invalid, NotFound

INGRESS = ("HTTP_INGRESS", "ALL_INGRESS", "SHELL_INGRESS", "NO_INGRESS")
EGRESS = ("INTERNET_EGRESS", "NO_EGRESS")
_ARN = re.compile(r"arn:[a-z0-9-]+:lambda:[a-z0-9-]*:(?P<account>[a-z0-9]*):network-connector:(?P<rest>.+)")


def ingress(region: str, requested: Sequence[str]) -> tuple[str, ...]:
    """The ingress connectors in force. Raises Invalid or NotFound, naming the ARN."""
    _check(region, requested, INGRESS)
    return tuple(requested) or (managed_connector(region, INGRESS[0]),)


def egress(region: str, requested: Sequence[str], inherited: Sequence[str] = ()) -> tuple[str, ...]:
    """The egress connector in force: none asked for means the image's, or the internet.

    Raises Invalid or NotFound, naming the ARN.
    """
    if len(requested) > 1:
        raise Invalid("Only one egress network connector can be provided")
    _check(region, requested, EGRESS)
    return tuple(requested) or tuple(inherited) or (managed_connector(region, EGRESS[0]),)


def _check(region: str, requested: Sequence[str], known: Sequence[str]) -> None:
    arns = {managed_connector(region, name) for name in known}
    for arn in requested:
        match = _ARN.fullmatch(arn)
        if match is None:
            raise Invalid("Malformed network connector ARN")
        if match["account"] != "aws":
            raise NotFound(f"Network connector not found for: {arn}")
        if arn not in arns:
            raise Invalid(f"Unrecognized managed network connector ARN: {arn}")
