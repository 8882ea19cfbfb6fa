"""Network connectors of a microVM: which are in force, and what they let through (spec §5).

Managed ones are known here. A VPC connector is an account's own: whether it exists is for the caller to find out
(`vpc` names it). `NO_EGRESS` is ours: AWS has no way to start a microVM without internet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rekindle.core.arn import ConnectorArn, connector_arn, managed_connector
from rekindle.core.errors import Invalid

INGRESS = ("HTTP_INGRESS", "ALL_INGRESS", "SHELL_INGRESS", "NO_INGRESS")
EGRESS = ("INTERNET_EGRESS", "NO_EGRESS")
_MANAGED = re.compile(r"arn:[a-z0-9-]+:lambda:[a-z0-9-]*:aws:network-connector:.+")


def ingress(region: str, requested: Sequence[str]) -> tuple[str, ...]:
    """The ingress connectors in force. Raises Invalid, naming the ARN."""
    for arn in requested:
        if connector_arn(arn) is not None:
            raise Invalid(f"A VPC network connector cannot be used for ingress: {arn}")
        _check(region, arn, INGRESS)
    return tuple(requested) or (managed_connector(region, INGRESS[0]),)


def egress(region: str, requested: Sequence[str], inherited: Sequence[str] = ()) -> tuple[str, ...]:
    """The egress connector in force: none asked for means the image's, or the internet.

    Raises Invalid, naming the ARN.
    """
    if len(requested) > 1:
        raise Invalid("Only one egress network connector can be provided")
    for arn in requested:
        if connector_arn(arn) is None:
            _check(region, arn, EGRESS)
    return tuple(requested) or tuple(inherited) or (managed_connector(region, EGRESS[0]),)


def vpc(egress: Sequence[str]) -> ConnectorArn | None:
    """The VPC connector among them, or None."""
    return next((found for found in map(connector_arn, egress) if found is not None), None)


def way_out(egress: Sequence[str], through_vpc: str) -> str:
    """What a guest with these connectors reaches: "internet" or "none".

    `through_vpc`: what a VPC connector gives here (`egress.vpc`); a name that nobody knows gives nothing.
    """
    if vpc(egress) is not None:
        return through_vpc
    return "internet" if _names(egress) == {"INTERNET_EGRESS"} else "none"


def lets_app_traffic_in(ingress: Sequence[str]) -> bool:
    """Whether requests to the app pass the endpoint; SHELL_INGRESS alone admits a shell and no more."""
    names = _names(ingress)
    return "NO_INGRESS" not in names and not names.isdisjoint({"HTTP_INGRESS", "ALL_INGRESS"})


def check_shell(ingress: Sequence[str]) -> None:
    """Raises Invalid with AWS's texts (recorded: spec §1.8) when these admit no shell."""
    names = _names(ingress)
    if "ALL_INGRESS" in names and len(names) > 1:
        raise Invalid(
            "ALL_INGRESS cannot be combined with other ingress network connectors; use HTTP_INGRESS and/or "
            "SHELL_INGRESS instead"
        )
    if "SHELL_INGRESS" not in names:
        raise Invalid("Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM.")


def _names(arns: Sequence[str]) -> set[str]:
    return {arn.rpartition(":")[2] for arn in arns}


def _check(region: str, arn: str, known: Sequence[str]) -> None:
    if _MANAGED.fullmatch(arn) is None:
        raise Invalid("Malformed network connector ARN")
    if arn not in {managed_connector(region, name) for name in known}:
        raise Invalid(f"Unrecognized managed network connector ARN: {arn}")
